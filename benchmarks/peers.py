"""The peers, each by its own documentation: how it integrates cells, how it labels a query.

All see the same cells and genes, the most variable ones of what is integrated, or of the reference.
The published package selects genes by itself, by the same rule. Embeddings that a peer places a
query in are labeled by neighbors; ``harmony:by=discriminant`` and so on give it the discriminants
of ours instead.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import scanpy as sc
import torch
from anndata import AnnData
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneGroupOut, StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import scalex_scvi as sx
from benchmarks import ours
from benchmarks.cells import Answer, Answers, Case, Cells
from benchmarks.components import components
from benchmarks.processes import timed
from benchmarks.shims import import_scalex

N_NEIGHBORS = 10
N_COMPONENTS = 50
MAX_REFUSED = 0.05
MIN_PROBABILITY = 0.5
"""Cells whose best label is less probable are "unknown", where a method gives probabilities."""
QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
SCVI_MAPPABLE: dict[str, Any] = {
    "use_layer_norm": "both",
    "use_batch_norm": "none",
    "encode_covariates": True,
    "dropout_rate": 0.2,
    "n_layers": 2,
}
"""The architecture that scvi-tools' tutorial on reference mapping asks for."""
SCVI_QUERY: dict[str, Any] = {"max_epochs": 200, "plan_kwargs": {"weight_decay": 0.0}}
"""Its training of the query."""

Embeddings = Iterator[tuple[str, np.ndarray | sparse.csr_matrix]]
"""Embeddings of all cells, or graphs of them, by name."""


def integrate_uncorrected(cells: Cells, seed: int) -> Embeddings:
    yield "uncorrected", components(cells)
    yield "uncorrected, standardized", components(cells, standardize=True)


def integrate_scalex(cells: Cells, seed: int) -> Embeddings:
    """Run the published package with its defaults, but no workers: they only cost time here."""
    adata = import_scalex().SCALEX(
        cells.counts.copy(),
        profile=cells.about.profile,
        batch_name=cells.batch_key,
        min_features=0,
        processed=False,
        seed=seed,
        ignore_umap=True,
        show=False,
        num_workers=0,
        outdir=tempfile.mkdtemp(),  # without one, early stopping fails
    )
    yield "scalex 1.0.4", adata[cells.counts.obs_names].obsm["latent"]


def project_scalex(case: Case, seed: int) -> Answers:
    """Project by the published package.

    ``repeat=True`` for the query, as its default joins reference and query by a name that it does
    not import. Log-normalized values are given as `processed`, with all their genes.
    """
    scalex = import_scalex()
    folder = tempfile.mkdtemp()
    run = partial(
        scalex.SCALEX,
        batch_name=case.ref.batch_key,
        min_features=0,  # the sets are filtered by their sources
        processed=case.ref.about.log_normalized,
        seed=seed,
        ignore_umap=True,
        num_workers=0,
    )
    reference = run(case.ref.counts.copy(), outdir=folder)

    def answer() -> Answer:
        query = run(case.query.copy(), projection=folder, repeat=True)[case.query.obs_names]
        return Answer(scalex.label_transfer(reference, query, label=case.ref.labels_key))

    return {"": answer}


def integrate_scvi(cells: Cells, seed: int) -> Embeddings:
    """Run scVI on counts; then scANVI, which sees the labels that it is scored by: an upper line.

    Log-normalized values have no counts: scVI's normal likelihood. Peaks: PeakVI, and no scANVI.
    """
    import scvi

    scvi.settings.seed = seed
    adata = cells.raw_of(cells.counts)
    if cells.about.profile == "ATAC":
        scvi.model.PEAKVI.setup_anndata(adata, batch_key=cells.batch_key)
        model = scvi.model.PEAKVI(adata)
        model.train(**QUIET)
        yield "scvi", model.get_latent_representation()
        return
    # With the logarithm that its encoder takes by default, unlike in `_scvi_reference`.
    likelihood = {"gene_likelihood": "normal"} if cells.about.log_normalized else {}
    scvi.model.SCVI.setup_anndata(adata, batch_key=cells.batch_key)
    model = scvi.model.SCVI(adata, **likelihood)
    model.train(**QUIET)
    yield "scvi", model.get_latent_representation()
    unlabeled = (*cells.about.unlabeled, "none")[0]
    labeled = scvi.model.SCANVI.from_scvi_model(
        model, unlabeled_category=unlabeled, labels_key=cells.labels_key
    )
    labeled.train(**QUIET)
    yield "scanvi (sees labels)", labeled.get_latent_representation()


def project_scvi(case: Case, seed: int, by: ours.By = "neighbors") -> Answers:
    """Map the query by scvi-tools' tutorial, then the same vote of neighbors as ours."""
    import scvi

    model = _scvi_reference(case, seed)
    latent = model.get_latent_representation()

    def answer() -> Answer:
        query = scvi.model.SCVI.load_query_data(_unlabeled(case), model)
        query.train(**SCVI_QUERY, **QUIET)
        return _label(case, latent, query.get_latent_representation(), by)

    return {"": answer}


def project_scanvi(case: Case, seed: int, conformal: bool = False) -> Answers:
    """Map the query by scvi-tools' tutorial, and take the model's own predictions.

    ``conformal``: unknown by a p-value, from the tenth of the reference that it keeps for
    validation, since it would have to be trained once per fold.
    """
    import scvi

    model = scvi.model.SCANVI.from_scvi_model(
        _scvi_reference(case, seed), unlabeled_category="Unknown"
    )
    model.train(max_epochs=20, n_samples_per_label=100, **QUIET)
    held_out = None
    if conformal:
        held_out = model.predict(soft=True, indices=model.validation_indices).max(axis=1)

    def answer() -> Answer:
        query = scvi.model.SCANVI.load_query_data(_unlabeled(case), model)
        query.train(
            max_epochs=100, plan_kwargs={"weight_decay": 0.0}, check_val_every_n_epoch=10, **QUIET
        )
        proba = query.predict(soft=True)
        return _most_probable(proba.to_numpy(), proba.columns.to_numpy(str), held_out)

    return {"": answer}


def _scvi_reference(case: Case, seed: int) -> Any:
    """Train a reference, or take that of another run; what follows has the same seed either way."""
    import scvi

    adata = case.ref.raw_of(case.ref.counts)
    scvi.model.SCVI.setup_anndata(
        adata, batch_key=case.ref.batch_key, labels_key=case.ref.labels_key
    )
    folder = case.scvi_reference
    if folder.exists():
        case.borrowed.update(json.loads((folder / "time.json").read_text()))
        model = scvi.model.SCVI.load(folder, adata, accelerator="cpu")
    else:
        model, spent = timed(lambda: _train_scvi(case, adata, seed))
        part = folder.with_name(f"{folder.name}-{os.getpid()}")
        model.save(part)
        (part / "time.json").write_text(json.dumps(spent))
        part.rename(folder)
    scvi.settings.seed = seed
    return model


def _train_scvi(case: Case, adata: AnnData, seed: int) -> Any:
    """Train on counts; log-normalized values get a normal likelihood and no second logarithm."""
    import scvi

    scvi.settings.seed = seed
    likelihood: dict[str, Any] = {}
    if case.ref.about.log_normalized:
        likelihood = {"gene_likelihood": "normal", "log_variational": False}
    model = scvi.model.SCVI(adata, **SCVI_MAPPABLE, **likelihood)
    model.train(**QUIET)
    return model


def _unlabeled(case: Case) -> AnnData:
    query = case.ref.raw_of(case.query)
    query.obs[case.ref.labels_key] = "Unknown"
    return query


def correct_by_harmony(points: np.ndarray, batches: np.ndarray, seed: int) -> np.ndarray:
    """Correct components by harmonypy."""
    import harmonypy

    corrected = harmonypy.run_harmony(
        points,
        pd.DataFrame({"batch": np.asarray(batches, str)}),
        "batch",
        random_state=seed,
        ncores=torch.get_num_threads(),
        verbose=False,
    ).Z_corr
    return corrected if corrected.shape == points.shape else corrected.T  # harmonypy < 2


def integrate_harmony(cells: Cells, seed: int) -> Embeddings:
    yield "harmony", correct_by_harmony(components(cells), cells.batches, seed)


def project_harmony(
    case: Case, seed: int, scale: bool = False, by: ours.By = "neighbors"
) -> Answers:
    """Correct reference and query together: there is nothing that it could learn beforehand."""

    def answer() -> Answer:
        parts = (case.ref.counts, case.query)
        together = np.vstack([case.ref.log_of(adata) for adata in parts])
        batches = np.concatenate([adata.obs[case.ref.batch_key] for adata in parts])
        points = _on_genes(PCA(N_COMPONENTS, random_state=seed), scale).fit_transform(together)
        corrected = correct_by_harmony(points, batches, seed)
        return _label(case, *np.split(corrected, [case.ref.counts.n_obs]), by)

    return {"": answer}


def project_pca(case: Case, seed: int, scale: bool = False, by: ours.By = "neighbors") -> Answers:
    model = _on_genes(PCA(N_COMPONENTS, random_state=seed), scale)
    points = model.fit_transform(case.ref.log_of(case.ref.counts))
    return {"": lambda: _label(case, points, model.transform(case.ref.log_of(case.query)), by)}


def project_logistic_regression(case: Case, seed: int, scale: bool = False) -> Answers:
    model = _on_genes(LogisticRegression(max_iter=2000), scale)
    model.fit(case.ref.log_of(case.ref.counts), case.ref.labels)

    def answer() -> Answer:
        return _most_probable(model.predict_proba(case.ref.log_of(case.query)), model.classes_)

    return {"": answer}


def project_on_components(case: Case, seed: int, classifier: ClassifierMixin) -> Answers:
    """Classify by 50 standardized components; unknown by a p-value from held-out batches.

    From folds where the reference has one batch. Components are fitted on the whole reference, as
    the latent of ours is.
    """
    clip = FunctionTransformer(partial(np.clip, a_min=-10, a_max=10))
    model = make_pipeline(StandardScaler(), clip, PCA(N_COMPONENTS, random_state=0))
    points = model.fit_transform(case.ref.log_of(case.ref.counts))
    labels, batch = case.ref.labels, case.ref.batches
    several = len(np.unique(batch)) > 1
    folds = LeaveOneGroupOut() if several else StratifiedKFold(5, shuffle=True, random_state=0)
    held_out = cross_val_predict(
        classifier, points, labels, groups=batch, cv=folds, method="predict_proba"
    ).max(axis=1)
    if several:  # as in label_transfer: types of one batch are new to the others
        held_out = held_out[pd.Series(batch).groupby(labels).transform("nunique") > 1]
    classifier.fit(points, labels)

    def answer() -> Answer:
        proba = classifier.predict_proba(model.transform(case.ref.log_of(case.query)))
        return _most_probable(proba, classifier.classes_, held_out)

    return {"": answer}


def project_logistic_regression_on_components(case: Case, seed: int) -> Answers:
    return project_on_components(case, seed, LogisticRegression(max_iter=2000))


def project_neighbors_on_components(case: Case, seed: int) -> Answers:
    return project_on_components(case, seed, KNeighborsClassifier(5))


def _on_genes(estimator: BaseEstimator, scale: bool) -> Pipeline:
    """Standardize genes only if asked to: unscaled, all three peers transfer labels better."""
    return make_pipeline(*([StandardScaler()] if scale else []), estimator)


def _label(case: Case, ref: np.ndarray, query: np.ndarray, by: ours.By) -> Answer:
    if by == "neighbors":
        labels = KNeighborsClassifier(N_NEIGHBORS).fit(ref, case.ref.labels).predict(query)
        return Answer(labels)
    batch_key, labels_key = case.ref.batch_key, case.ref.labels_key
    cells = [AnnData(obs=a.obs[[batch_key]]) for a in (case.ref.counts, case.query)]
    cells[0].obs[labels_key] = case.ref.labels
    for adata, points in zip(cells, (ref, query), strict=True):
        adata.obsm["points"] = points
    labels = sx.tl.label_transfer(
        *cells, "points", labels_key, method="discriminant", batch_key=batch_key
    )
    return Answer(labels.to_numpy(str))


def _most_probable(
    proba: np.ndarray, classes: np.ndarray, held_out: np.ndarray | None = None
) -> Answer:
    labels, confidence = classes[proba.argmax(axis=1)], proba.max(axis=1)
    if held_out is None:
        return Answer(labels, confidence < MIN_PROBABILITY)
    # Rounded: 0.6 is 0.6 however it was summed.
    held_out = np.sort(np.round(held_out, 9))
    n_as_unsure = np.searchsorted(held_out, np.round(confidence, 9), side="right")
    p = (1 + n_as_unsure) / (1 + len(held_out))
    return Answer(labels, p <= MAX_REFUSED, p, 1 - confidence)


def integrate_scanorama(cells: Cells, seed: int) -> Embeddings:
    import scanorama

    batches = cells.batches
    rows = [np.flatnonzero(batches == name) for name in pd.unique(batches)]
    parts, _ = scanorama.integrate(
        [cells.log[r].toarray() for r in rows],
        [cells.genes.to_numpy()] * len(rows),
        seed=seed,
        verbose=0,
    )
    embedding = np.empty((len(batches), parts[0].shape[1]))
    for r, part in zip(rows, parts, strict=True):
        embedding[r] = part
    yield "scanorama", embedding


def integrate_combat(cells: Cells, seed: int) -> Embeddings:
    adata = AnnData(cells.log.toarray(), obs=cells.prepared.obs.copy())
    sc.pp.combat(adata, key=cells.batch_key)
    yield "combat", sc.pp.pca(adata.X, n_comps=min(50, min(adata.shape) - 1), random_state=0)


def integrate_bbknn(cells: Cells, seed: int) -> Embeddings:
    """Run BBKNN by its defaults: it gives distances to neighbors in each batch, no embedding."""
    from bbknn.matrix import bbknn

    yield "bbknn (graph)", bbknn(components(cells), cells.batches)[0].tocsr()


INTEGRATING: dict[str, Callable[..., Embeddings]] = {
    "uncorrected": integrate_uncorrected,
    "scalex_scvi": ours.integrate,
    "scalex": integrate_scalex,
    "scvi": integrate_scvi,
    "harmony": integrate_harmony,
    "scanorama": integrate_scanorama,
    "combat": integrate_combat,
    "bbknn": integrate_bbknn,
}
PROJECTING: dict[str, Callable[..., Answers]] = {
    "ours": ours.project,
    "scalex": project_scalex,
    "scvi": project_scvi,
    "scanvi": project_scanvi,
    "harmony": project_harmony,
    "pca": project_pca,
    "logistic_regression": project_logistic_regression,
    "logistic_regression_on_pcs": project_logistic_regression_on_components,
    "knn_on_pcs": project_neighbors_on_components,
}
