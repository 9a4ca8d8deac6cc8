"""The demonstration: integrate, project a held-out batch, transfer labels, score."""

from __future__ import annotations

import os
from typing import Any

import pandas as pd
from anndata import AnnData
from sklearn.metrics import accuracy_score, f1_score

from . import datasets, metrics
from .io import RunFolder, load_counts
from .io._load import BATCH
from .io._read import DataSource
from .workflow import integrate, project


def demo(
    outdir: str | os.PathLike[str],
    data: DataSource | None = None,
    *,
    batch_name: str = "batch",
    label: str = "celltype",
    held_out: str | None = None,
    seed: int | None = None,
    preprocessing: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
) -> pd.DataFrame:
    """Run the main job: integrate all batches but one, project that one, transfer labels, score.

    Parameters
    ----------
    outdir
        Folder for two run folders, ``reference/`` and ``projection/``, and ``scores.csv``.
    data
        Labelled counts; default: :func:`scalex_scvi.datasets.pbmc_technologies`.
    batch_name, label
        Columns of ``obs``.
    held_out
        Batch to project; default: the last one.
    seed
        Seed of everything random.
    preprocessing, training
        See :func:`scalex_scvi.workflow.integrate`.

    Returns
    -------
    Scores and their meaning, one row each.

    Raises
    ------
    KeyError, ValueError
        If a column is absent, or there are fewer than two batches.
    """
    counts = load_counts(
        datasets.pbmc_technologies() if data is None else data, batch_name=batch_name
    )
    if label not in counts.obs:
        msg = f"`label` {label!r} is not a column of obs: {list(counts.obs.columns)!r}."
        raise KeyError(msg)
    batches = [str(name) for name in counts.obs[BATCH].cat.categories]
    held_out = batches[-1] if held_out is None else held_out
    if held_out not in batches or len(batches) < 2:
        msg = f"`held_out` {held_out!r} must be one of two or more batches: {batches!r}."
        raise ValueError(msg)
    is_query = (counts.obs[BATCH].astype(str) == held_out).to_numpy()
    folder = RunFolder(outdir)
    ref = integrate(
        counts[~is_query],
        folder.path / "reference",
        label=label,
        seed=seed,
        preprocessing=preprocessing,
        training=training,
    )
    together = project(
        counts[is_query],
        folder.path / "reference",
        folder.path / "projection",
        label=label,
        seed=seed,
    )
    scores = demo_scores(ref, together, batch_key=BATCH, label=label)
    folder.write_text(scores.to_csv(index=False), "scores.csv")
    return scores


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
