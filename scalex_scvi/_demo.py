"""The demonstration: integrate, project a held-out batch, transfer labels, score."""

from __future__ import annotations

import os
from typing import Any

import pandas as pd

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
    scores = metrics.demo_scores(ref, together, batch_key=BATCH, label=label)
    folder.write_text(scores.to_csv(index=False), "scores.csv")
    return scores
