"""Ours, by its defaults or with options of the model, of training, and three more.

``recipe=published`` names what training starts from. ``encoder_batch_norm=False`` leaves out the
encoder's normalization; ``balanced=True`` draws minibatches in which all batches are expected
equally often.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from anndata import AnnData

import scalex_scvi as sx
from benchmarks.cells import Answer, Answers, Case, Cells
from scalex_scvi.nn import Encoder
from scalex_scvi.train import DEFAULT, PUBLISHED, QUICK, Recipe

RECIPES = {"default": DEFAULT, "quick": QUICK, "published": PUBLISHED}
STATISTICS = ("running", "batch")
By = Literal["neighbors", "discriminant"]


def train(
    cells: Cells, seed: int | None = None, recipe: str | Recipe = DEFAULT, **options: Any
) -> sx.SCALEXModel:
    """Train on the prepared cells; ``options`` are those of the model and of training."""
    adata = cells.prepared
    of_model = inspect.signature(sx.SCALEXModel.__init__).parameters
    building = {key: options.pop(key) for key in list(options) if key in of_model}
    encoder_batch_norm = options.pop("encoder_batch_norm", True)
    balanced = options.pop("balanced", False)
    sx.SCALEXModel.setup_anndata(adata, batch_key=cells.batch_key)
    model = sx.SCALEXModel(adata, seed=seed, **building)
    if not encoder_batch_norm:
        torch.manual_seed(seed)
        n_latent, n_hidden = model.module.n_latent, building.get("n_hidden", 1024)
        model.module.encoder = Encoder(adata.n_vars, n_latent, n_hidden=n_hidden, batch_norm=False)
    if balanced:
        sampler = _balanced_sampler(adata, cells.batch_key, seed, options.get("batch_size", 64))
        options["datasplitter_kwargs"] = {"sampler": sampler, "collate_fn": _only}
    if isinstance(recipe, str):
        recipe = RECIPES[recipe]
    model.train(recipe=recipe, seed=seed, accelerator="cpu", enable_progress_bar=False, **options)
    return model


def _balanced_sampler(
    adata: AnnData, batch_key: str, seed: int, size: int
) -> torch.utils.data.Sampler:
    codes = adata.obs[batch_key].astype("category").cat.codes.to_numpy()
    weights = 1 / np.bincount(codes)[codes]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.utils.data.WeightedRandomSampler(weights, adata.n_obs, generator=generator)
    return torch.utils.data.BatchSampler(drawn, min(size, adata.n_obs), drop_last=True)


def _only(parts: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Take the minibatch that the sampler drew as one item."""
    return {key: torch.as_tensor(value) for key, value in parts[0].items()}


def integrate(cells: Cells, seed: int, **options: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Give the latent by both statistics of the encoder."""
    model = train(cells, seed, **options)
    for stats in STATISTICS:
        yield stats, model.get_latent_representation(batch_stats=stats)


def project(
    case: Case, seed: int, by: By | None = None, novelty: str = "neighborhood", **options: Any
) -> Answers:
    """Label the query by both statistics; once by labels alone, once with "unknown"."""
    model = train(case.ref, seed, **options)
    for stats in STATISTICS:
        case.ref.prepared.obsm[stats] = model.get_latent_representation(batch_stats=stats)
    return {
        f"{stats}{', unknown' if unknown else ''}": partial(
            _label, case, model, stats, by, novelty if unknown else None
        )
        for stats in STATISTICS
        for unknown in (False, True)
    }


def _label(
    case: Case, model: sx.SCALEXModel, stats: str, by: By | None, novelty: str | None
) -> Answer:
    ref, query = case.ref.prepared, case.ref.prepared_query(case.query)
    query_model = sx.SCALEXModel.load_query_data(query, model, accelerator="cpu")
    query.obsm[stats] = query_model.get_latent_representation(batch_stats=stats)
    if novelty is None:
        labels = sx.tl.label_transfer(ref, query, stats, case.ref.labels_key, method=by)
        return Answer(labels.to_numpy(str))
    scores = sx.tl.label_scores(
        ref,
        query,
        stats,
        case.ref.labels_key,
        method=by,
        batch_key=case.ref.batch_key,
        novelty=novelty,
    )
    return Answer(
        scores.labels.to_numpy(str), scores.is_unknown.to_numpy(), scores.p_values.to_numpy()
    )
