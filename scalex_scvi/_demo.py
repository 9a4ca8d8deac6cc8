"""The demonstration: integrate, project a held-out batch, transfer labels, score."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.metrics import accuracy_score, f1_score

from . import datasets, metrics
from ._outputs import LABEL, Outputs
from ._results import as_given, check_outputs
from .io import DataSource, Reading, RunFolder, batch_column, load_counts, paths_of
from .pp import Preparation
from .tl import UNKNOWN
from .workflow import integrate, project

HELD_OUT, LEFT_OUT = "Smart-seq2", "ductal"
"""Of the embedded data: the technology that is projected, and the type its reference lacks."""


def demo(
    data: DataSource | None = None,
    *,
    outputs: Outputs,
    held_out: str | None = None,
    left_out: str | None = None,
    reading: Reading = Reading(),
    seed: int | None = None,
    **training: Any,
) -> pd.DataFrame:
    """Run the main job: integrate all batches but one, project that one, transfer labels, score.

    Parameters
    ----------
    data
        Labeled counts; default: :func:`scalex_scvi.datasets.pancreas`.
    outputs
        ``outdir`` is the folder for two run folders, ``reference/`` and ``projection/``, and
        ``scores.csv``.
    held_out
        Batch to project; default: the last one, Smart-seq2 in the embedded data.
    left_out
        Cell type that the reference is not shown, so that the projected batch has cells that
        should be called unknown; default: none, ductal cells in the embedded data.
    reading, seed
        See :func:`scalex_scvi.workflow.integrate`.
    **training
        ``preparation``, ``recipe`` and ``train_kwargs`` of
        :func:`scalex_scvi.workflow.integrate`.

    Returns
    -------
    Scores and their meaning, one row each.

    Raises
    ------
    KeyError, ValueError
        If a column, batch or type is absent, or there are fewer than two batches.
    """
    outdir = outputs.outdir
    if outdir is None:
        msg = "`outputs` names no `outdir` to write the demonstration into."
        raise ValueError(msg)
    folder = RunFolder(outdir, kind="demo")
    data = as_given(data)
    folder.check(paths_of(data))
    if data is None:
        data, held_out, left_out = _embedded(held_out, left_out)
        training["preparation"] = _counts(training.get("preparation", Preparation()))
    counts = _read(data, reading, training.get("preparation", Preparation()))
    label = outputs.label or LABEL
    outputs = replace(outputs, label=label)
    check_outputs(counts, outputs)
    is_query = _held_out(counts, held_out)
    is_new = _left_out(counts, label, left_out)
    column = Reading(batch_name=batch_column(counts))
    with folder.claimed():
        ref = integrate(
            counts[~is_query & ~is_new],
            reading=column,
            outputs=replace(outputs, outdir=folder.path / "reference"),
            seed=seed,
            **training,
        )
        together = project(
            counts[is_query],
            folder.path / "reference",
            reading=column,
            outputs=replace(outputs, unknown=True, outdir=folder.path / "projection"),
            seed=seed,
        )
    scores = demo_scores(ref, together, batch_key=batch_column(together), label=label)
    folder.add_text(scores.to_csv(index=False), "scores.csv")
    return scores


def _read(data: DataSource, reading: Reading, preparation: Preparation) -> AnnData:
    """Read counts, from ``.raw`` where ``X`` holds none and nothing is declared of it."""
    undeclared = preparation.log_normalized is None and not preparation.processed
    return load_counts(data, reading, counts_wanted=undeclared)


def _counts(preparation: Preparation) -> Preparation:
    """Declare what the embedded values are: counts, of which some are no whole numbers."""
    if preparation.processed or preparation.log_normalized is not None:
        return preparation
    return replace(preparation, log_normalized=False)


def _embedded(held_out: str | None, left_out: str | None) -> tuple[AnnData, str, str | None]:
    """Return the embedded data, and what is held out and left out of them by default."""
    if held_out is None:
        held_out, left_out = HELD_OUT, left_out or LEFT_OUT
    return datasets.pancreas(), held_out, left_out


def _held_out(counts: AnnData, name: str | None) -> np.ndarray:
    """Cells of the batch to project."""
    batch = counts.obs[batch_column(counts)]
    batches = [str(category) for category in batch.cat.categories]
    name = batches[-1] if name is None else name
    if name not in batches or len(batches) < 2:
        msg = f"`held_out` {name!r} must be one of two or more batches: {batches!r}."
        raise ValueError(msg)
    return (batch.astype(str) == name).to_numpy()


def _left_out(counts: AnnData, label: str, name: str | None) -> np.ndarray:
    """Cells of the type that the reference is not shown."""
    types = counts.obs[label].astype(str)
    if name is not None and name not in set(types):
        msg = f"`left_out` {name!r} is not in obs[{label!r}]: {sorted(set(types))!r}."
        raise ValueError(msg)
    return (types == name).to_numpy()


def demo_scores(ref: AnnData, together: AnnData, *, batch_key: str, label: str) -> pd.DataFrame:
    """Score an integrated reference and a query that was projected onto it.

    Parameters
    ----------
    ref
        Integrated cells, with ``obsm["latent"]``. Cells without a label are left out of the scores
        of labels.
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
    labeled = labels.notna().to_numpy()  # the others say nothing of types
    labels = labels[labeled]
    is_query = together.obs["projection"] == "query"
    query = together.obs[is_query & together.obs[label].notna()]
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
            metrics.knn_purity(pca[labeled], labels),
            "share of 30 neighbors of a cell's own type; higher is better",
        ),
        (
            "cell-type purity, integrated",
            metrics.knn_purity(latent[labeled], labels),
            "the same in the latent space; it should not fall",
        ),
        *_label_rows(query, set(labels.astype(str)), label),
    ]
    return pd.DataFrame(rows, columns=["score", "value", "meaning"])


def _label_rows(query: pd.DataFrame, known_types: set[str], label: str) -> list[tuple]:
    """Scores of the transferred labels; types that the reference lacks should be unknown."""
    truth, predicted = query[label].astype(str), query[f"{label}_transfer"].astype(str)
    is_known, refused = truth.isin(known_types), predicted == UNKNOWN
    labeled = is_known & ~refused
    names = truth[is_known].unique()
    rows = [
        (
            "accuracy of transferred labels",
            float(accuracy_score(truth[labeled], predicted[labeled])) if labeled.any() else 0.0,
            "projected cells of known types that got their true label, of those that got one",
        ),
        (
            "macro-F1 of transferred labels",
            float(
                f1_score(
                    truth[is_known],
                    predicted[is_known],
                    average="macro",
                    labels=names,
                    zero_division=0,
                )
            ),
            "the same with each cell type counting alike, and unknown counting as wrong",
        ),
        (
            "known cells called unknown",
            float(refused[is_known].mean()),
            "cells of types the reference has; 0.05 is what the threshold aims at",
        ),
    ]
    if not is_known.all():
        new = ", ".join(sorted(set(truth[~is_known])))
        rows.append(
            (
                "new cells called unknown",
                float(refused[~is_known].mean()),
                f"{(~is_known).sum()} cells the reference has never seen ({new}); higher is better",
            )
        )
    return rows
