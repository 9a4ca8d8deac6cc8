"""The demonstration: integrate, project a held-out batch, transfer labels, score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.metrics import accuracy_score, f1_score

from . import datasets, metrics
from ._outputs import LABEL, Outputs
from ._results import check_outputs
from .io import DataSource, Reading, RunFolder, batch_column, load_counts, paths_of
from .pp import Preparation
from .train import DEFAULT, Recipe
from .workflow import integrate, project


def demo(
    data: DataSource | None = None,
    *,
    held_out: str | None = None,
    reading: Reading = Reading(),
    preparation: Preparation = Preparation(),
    recipe: Recipe = DEFAULT,
    outputs: Outputs,
    seed: int | None = None,
    train_kwargs: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Run the main job: integrate all batches but one, project that one, transfer labels, score.

    Parameters
    ----------
    data
        Labeled counts; default: :func:`scalex_scvi.datasets.pbmc_technologies`.
    held_out
        Batch to project; default: the last one.
    reading, preparation, recipe, seed, train_kwargs
        See :func:`scalex_scvi.workflow.integrate`.
    outputs
        ``outdir`` is the folder for two run folders, ``reference/`` and ``projection/``, and
        ``scores.csv``.

    Returns
    -------
    Scores and their meaning, one row each.

    Raises
    ------
    KeyError, ValueError
        If a column is absent, or there are fewer than two batches.
    """
    outdir = outputs.outdir
    if outdir is None:
        msg = "`outputs` names no `outdir` to write the demonstration into."
        raise ValueError(msg)
    folder = RunFolder(outdir, kind="demo")
    folder.check(paths_of(data))
    counts = load_counts(datasets.pbmc_technologies() if data is None else data, reading)
    label = outputs.label or LABEL
    outputs = replace(outputs, label=label)
    check_outputs(counts, outputs)
    is_query = _held_out(counts, held_out)
    folder.claim()
    column = Reading(batch_name=batch_column(counts))
    ref = integrate(
        counts[~is_query],
        reading=column,
        preparation=preparation,
        recipe=recipe,
        outputs=replace(outputs, outdir=folder.path / "reference"),
        seed=seed,
        train_kwargs=train_kwargs,
    )
    together = project(
        counts[is_query],
        folder.path / "reference",
        reading=column,
        outputs=replace(outputs, outdir=folder.path / "projection"),
        seed=seed,
    )
    scores = demo_scores(ref, together, batch_key=batch_column(together), label=label)
    folder.add_text(scores.to_csv(index=False), "scores.csv")
    return scores


def _held_out(counts: AnnData, name: str | None) -> np.ndarray:
    """Cells of the batch to project."""
    batch = counts.obs[batch_column(counts)]
    batches = [str(category) for category in batch.cat.categories]
    name = batches[-1] if name is None else name
    if name not in batches or len(batches) < 2:
        msg = f"`held_out` {name!r} must be one of two or more batches: {batches!r}."
        raise ValueError(msg)
    return (batch.astype(str) == name).to_numpy()


def demo_scores(ref: AnnData, together: AnnData, *, batch_key: str, label: str) -> pd.DataFrame:
    """Score an integrated reference and a query that was projected onto it.

    Parameters
    ----------
    ref
        Integrated cells, with ``obsm["latent"]``.
    together
        Reference and query, with ``obs["projection"]`` and ``obs[f"{label}_transfer"]``.
    batch_key, label
        Columns of ``obs``.

    Returns
    -------
    Columns ``score``, ``value`` and ``meaning``.
    """
    batch, labels = ref.obs[batch_key], ref.obs[label]
    pca, latent = metrics.uncorrected_pca(ref), ref.obsm["latent"]
    query = together.obs[together.obs["projection"] == "query"]
    truth, predicted = query[label].astype(str), query[f"{label}_transfer"].astype(str)
    mixed = metrics.expected_same_batch_share(batch)
    rows = [
        (
            "same-batch neighbors, uncorrected",
            metrics.same_batch_share(pca, batch),
            f"share of 30 neighbors from a cell's own batch; 1 = apart, {mixed:.2f} = mixed",
        ),
        (
            "same-batch neighbors, integrated",
            metrics.same_batch_share(latent, batch),
            "the same in the latent space; lower is better",
        ),
        (
            "cell-type purity, uncorrected",
            metrics.knn_purity(pca, labels),
            "share of 30 neighbors of a cell's own type; higher is better",
        ),
        (
            "cell-type purity, integrated",
            metrics.knn_purity(latent, labels),
            "the same in the latent space; it should not fall",
        ),
        (
            "accuracy of transferred labels",
            float(accuracy_score(truth, predicted)),
            "projected cells that got their true label, without any training on them",
        ),
        (
            "macro-F1 of transferred labels",
            float(
                f1_score(truth, predicted, average="macro", labels=truth.unique(), zero_division=0)
            ),
            "the same with each cell type counting alike, rare ones too",
        ),
    ]
    return pd.DataFrame(rows, columns=["score", "value", "meaning"])
