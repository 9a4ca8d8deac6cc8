"""The methods: each learns the reference and gives back how it labels the query.

All see the same cells and genes, the 2000 most variable of the reference. The published package
selects genes of the reference by itself, by the same rule. An embedding's labels come from its
neighbours; ``harmony:by=discriminant`` and so on give it the discriminants of ours instead, and
``ours:by=neighbors`` the other way round. Ours by default is the consensus of latent and
expression.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from anndata import AnnData
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import scalex_scvi as sx
from benchmarks.peers import SCVI_MAPPABLE, SCVI_QUERY
from benchmarks.projection.cases import Case
from benchmarks.projection.timing import timed

N_NEIGHBORS = 10
N_COMPONENTS = 50
MIN_PROBABILITY = 0.5
"""Cells whose best label is less probable are "unknown", where a method gives probabilities."""
QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


class Answer(NamedTuple):
    """Label of each query cell, and where the method can say so whether it is unknown to it."""

    labels: np.ndarray
    unknown: np.ndarray | None = None


Answers = dict[str, Callable[[], Answer]]
"""What is left to do when a query comes, which is timed apart from the reference."""


def parse(method: str) -> tuple[str, dict[str, Any]]:
    """``ours:lr=0.002,max_steps=3000`` is a method and its options."""
    name, _, text = method.partition(":")
    options = dict(part.split("=", 1) for part in text.split(",") if part)
    return name, {key: _value(text) for key, text in options.items()}


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


By = Literal["neighbors", "discriminant"]


def ours(case: Case, seed: int, by: By | None = None, **options: Any) -> Answers:
    """Train by the defaults; options are those of preprocessing, of the model or of training."""
    preparing = {key: options.pop(key) for key in ("scale_by", "n_top_features") if key in options}
    names = inspect.signature(sx.SCALEXModel).parameters
    building = {key: options.pop(key) for key in list(options) if key in names}
    prepared = case.prepare(**preparing) if preparing else case.prepared
    sx.SCALEXModel.setup_anndata(prepared, batch_key=case.batch_key)
    model = sx.SCALEXModel(prepared, seed=seed, **building)
    model.train(seed=seed, **QUIET, **options)
    for stats in ("running", "batch"):
        prepared.obsm[stats] = model.get_latent_representation(batch_stats=stats)
    return {
        f"{stats}{', unknown' if unknown else ''}": partial(
            _transfer, case, model, stats, unknown, by
        )
        for stats in ("running", "batch")
        for unknown in (False, True)
    }


def _transfer(
    case: Case, model: sx.SCALEXModel, stats: str, unknown: bool, by: By | None
) -> Answer:
    query_model = sx.SCALEXModel.load_query_data(
        case.query, model, accelerator="cpu", log_normalized=case.about.log_normalized
    )
    query = query_model.adata
    query.obsm[stats] = query_model.get_latent_representation(batch_stats=stats)
    if not unknown:
        labels = sx.tl.label_transfer(model.adata, query, stats, case.label_key, method=by)
        return Answer(labels.to_numpy(str))
    scores = sx.tl.label_scores(
        model.adata, query, stats, case.label_key, method=by, batch_key=case.batch_key
    )
    return Answer(scores.labels.to_numpy(str), scores.is_unknown.to_numpy())


def scalex(case: Case, seed: int) -> Answers:
    """Run the published package by its defaults, without workers: they only cost time here.

    It needs three shims: `np.Inf`, gone from numpy 2; `torch.load` of its `config.pt`, which holds
    more than tensors; `repeat=True` for the query, as its default joins reference and query by a
    name that it does not import. Genes are selected by itself, by the rule that we follow too.
    Log-normalised values are given as `processed`, with all their genes.
    """
    vars(np)["Inf"] = np.inf
    torch.load = partial(torch.load, weights_only=False)
    from scalex import SCALEX, label_transfer

    folder = tempfile.mkdtemp()
    run = partial(
        SCALEX,
        batch_name=case.batch_key,
        min_features=0,  # the sets are filtered by their sources
        processed=case.about.log_normalized,
        seed=seed,
        ignore_umap=True,
        num_workers=0,
    )
    reference = run(case.ref.copy(), outdir=folder)

    def answer() -> Answer:
        query = run(case.query.copy(), projection=folder, repeat=True)
        return Answer(label_transfer(reference, query[case.query.obs_names], label=case.label_key))

    return {"": answer}


def scvi(case: Case, seed: int, by: By = "neighbors") -> Answers:
    """Map the query by scvi-tools' tutorial, then the same vote of neighbours as ours."""
    import scvi as scvi_tools

    model = _scvi(case, seed)
    latent = model.get_latent_representation()

    def answer() -> Answer:
        query = scvi_tools.model.SCVI.load_query_data(_unlabelled(case), model)
        query.train(**SCVI_QUERY, **QUIET)
        return _label(case, latent, query.get_latent_representation(), by)

    return {"": answer}


def scanvi(case: Case, seed: int) -> Answers:
    """Map the query by scvi-tools' tutorial, and take the model's own predictions."""
    import scvi as scvi_tools

    model = scvi_tools.model.SCANVI.from_scvi_model(_scvi(case, seed), unlabeled_category="Unknown")
    model.train(max_epochs=20, n_samples_per_label=100, **QUIET)

    def answer() -> Answer:
        query = scvi_tools.model.SCANVI.load_query_data(_unlabelled(case), model)
        query.train(
            max_epochs=100, plan_kwargs={"weight_decay": 0.0}, check_val_every_n_epoch=10, **QUIET
        )
        proba = query.predict(soft=True)
        return _most_probable(proba.to_numpy(), proba.columns.to_numpy(str))

    return {"": answer}


def _scvi(case: Case, seed: int) -> Any:
    """Train a reference, or take that of another run; what follows has the same seed either way."""
    import scvi as scvi_tools

    adata = case.raw(case.ref)
    scvi_tools.model.SCVI.setup_anndata(adata, batch_key=case.batch_key, labels_key=case.label_key)
    folder = case.scvi_reference
    if folder.exists():
        case.borrowed.update(json.loads((folder / "time.json").read_text()))
        model = scvi_tools.model.SCVI.load(folder, adata, accelerator="cpu")
    else:
        model, spent = timed(lambda: _train_scvi(case, adata, seed))
        part = folder.with_name(f"{folder.name}-{os.getpid()}")
        model.save(part)
        (part / "time.json").write_text(json.dumps(spent))
        part.rename(folder)
    scvi_tools.settings.seed = seed
    return model


def _train_scvi(case: Case, adata: AnnData, seed: int) -> Any:
    """Train on counts; log-normalised values get a normal likelihood and no second logarithm."""
    import scvi as scvi_tools

    scvi_tools.settings.seed = seed
    likelihood: dict[str, Any] = {}
    if case.about.log_normalized:
        likelihood = {"gene_likelihood": "normal", "log_variational": False}
    model = scvi_tools.model.SCVI(adata, **SCVI_MAPPABLE, **likelihood)
    model.train(**QUIET)
    return model


def _unlabelled(case: Case) -> AnnData:
    query = case.raw(case.query)
    query.obs[case.label_key] = "Unknown"
    return query


def harmony(case: Case, seed: int, scale: bool = False, by: By = "neighbors") -> Answers:
    """Correct reference and query together: there is nothing that it could learn beforehand."""
    import harmonypy

    def answer() -> Answer:
        together = np.vstack([case.log(case.ref), case.log(case.query)])
        points = _on_genes(_pca(seed), scale).fit_transform(together)
        batch = np.concatenate([a.obs[case.batch_key] for a in (case.ref, case.query)])
        corrected = harmonypy.run_harmony(
            points,
            {"batch": batch},
            "batch",
            random_state=seed,
            ncores=torch.get_num_threads(),
            verbose=False,
        ).Z_corr
        if corrected.shape != points.shape:  # harmonypy < 2
            corrected = corrected.T
        return _label(case, *np.split(corrected, [case.ref.n_obs]), by)

    return {"": answer}


def pca(case: Case, seed: int, scale: bool = False, by: By = "neighbors") -> Answers:
    model = _on_genes(_pca(seed), scale)
    points = model.fit_transform(case.log(case.ref))
    return {"": lambda: _label(case, points, model.transform(case.log(case.query)), by)}


def logistic_regression(case: Case, seed: int, scale: bool = False) -> Answers:
    model = _on_genes(LogisticRegression(max_iter=2000), scale)
    model.fit(case.log(case.ref), case.labels)
    return {"": lambda: _most_probable(model.predict_proba(case.log(case.query)), model.classes_)}


def _pca(seed: int) -> PCA:
    return PCA(N_COMPONENTS, random_state=seed)


def _on_genes(estimator: BaseEstimator, scale: bool) -> Pipeline:
    """Standardise genes only if asked to: unscaled, all three peers transfer labels better."""
    return make_pipeline(*([StandardScaler()] if scale else []), estimator)


def _label(case: Case, ref: np.ndarray, query: np.ndarray, by: By) -> Answer:
    if by == "neighbors":
        return Answer(KNeighborsClassifier(N_NEIGHBORS).fit(ref, case.labels).predict(query))
    cells = [AnnData(obs=a.obs[[case.batch_key]]) for a in (case.ref, case.query)]
    cells[0].obs[case.label_key] = case.labels
    for adata, points in zip(cells, (ref, query), strict=True):
        adata.obsm["points"] = points
    labels = sx.tl.label_transfer(
        *cells, "points", case.label_key, method="discriminant", batch_key=case.batch_key
    )
    return Answer(labels.to_numpy(str))


def _most_probable(proba: np.ndarray, classes: np.ndarray) -> Answer:
    return Answer(classes[proba.argmax(axis=1)], proba.max(axis=1) < MIN_PROBABILITY)


METHODS: dict[str, Callable[..., Answers]] = {
    "ours": ours,
    "scalex": scalex,
    "scvi": scvi,
    "scanvi": scanvi,
    "harmony": harmony,
    "pca": pca,
    "logistic_regression": logistic_regression,
}
