"""What known cells look like in a new batch: each batch of the reference is held out once.

It is treated exactly as if it were a query of the other batches, also with single labels removed
from these, so that it is known which of its cells should be called unknown.

A *misfit* is a number for a cell and a measure (:data:`._misfits.MEASURES`), larger for a worse
fit. The *baseline* of a batch is a low quantile of its cells' misfits: what its technology adds to
all of them. Misfits are compared after the baseline is subtracted.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalex_scvi._core.seeds import DEFAULT_SEED

from ._label_statistics import KeptBatches
from ._labeled_cells import LabeledCells
from ._misfits import Fitting
from ._neighborhoods import n_neighbors_of, nearest_cells
from ._unknown import batch_groups

logger = logging.getLogger(__name__)

BASELINE_QUANTILE = 0.4
"""Quantile of a batch's misfits that is its baseline. It is below the median, so that it comes from
cells of known types even where up to 60 % of the batch are of types that the reference lacks."""

MAX_CELLS = 5_000
"""Most cells that are taken of a held-out batch, at random: more hardly change a quantile."""

MAX_BATCHES = 20
"""Most batches that are held out, the largest ones."""

MIN_EXAMPLES = 5
"""Fewest cells of a type in a batch for the type to be removed from the other batches."""

MIN_LABELS = 3
"""Fewest labels of a reference for types to be removed: of two, a single one would be left."""


@dataclass(frozen=True, eq=False)
class HeldOutBatch:
    """What a batch of the reference shows when it is the query of the other batches.

    Attributes
    ----------
    codes
        Label code of each of its cells, at most :data:`MAX_CELLS` of them.
    known
        Whether another batch has the cell's label: for each cell.
    baseline
        Baseline of the batch, for each measure.
    misfits
        Misfits above the baseline: cells × measures.
    without
        For each label that can be removed from the other batches: the misfits, above their
        baseline, after that.
    """

    codes: np.ndarray
    known: np.ndarray
    baseline: np.ndarray
    misfits: np.ndarray
    without: dict[int, np.ndarray]


def hold_out(ref: LabeledCells, sizes: Sequence[int]) -> list[list[HeldOutBatch]]:
    """Hold out each batch that has cells of a label that another batch has.

    Parameters
    ----------
    ref
        Labeled cells of the reference.
    sizes
        Numbers of neighbors that a cell is averaged with: those of the query's batches. A held-out
        batch with too few cells for such a number uses a smaller one.

    Returns
    -------
    For each of ``sizes`` a list: what each held-out batch shows.
    """
    rng = np.random.default_rng(DEFAULT_SEED)
    held_out: list[list[HeldOutBatch]] = [[] for _ in sizes]
    for batch in np.argsort(-ref.counts.sum(axis=1), kind="stable")[:MAX_BATCHES]:
        cells = np.flatnonzero(ref.batch == batch)
        if len(cells) > MAX_CELLS:
            cells = np.sort(rng.choice(cells, MAX_CELLS, replace=False))
        if ref.in_several[ref.codes[cells]].any():
            shown = _hold_out_batch(ref, int(batch), cells, sizes)
            for of_size, one in zip(held_out, shown, strict=True):
                of_size.append(one)
    return held_out


def _hold_out_batch(
    ref: LabeledCells, batch: int, cells: np.ndarray, sizes: Sequence[int]
) -> list[HeldOutBatch]:
    others = KeptBatches(ref, batch)
    most = n_neighbors_of(len(cells))
    x = ref.x[cells]
    fitting = Fitting(others.label_statistics(), x, nearest_cells(x, min(max(sizes), most)))
    codes = ref.codes[cells]
    margins = {
        label: others.margins(np.flatnonzero(others.used != label))
        for label in _can_be_left_out(ref, codes, len(others.used))
    }
    shown: dict[int, HeldOutBatch] = {}
    for size in {min(size, most) for size in sizes}:
        neighborhoods = fitting.neighborhoods(size)
        found = neighborhoods.misfits()
        without = {}
        for label, of_others in margins.items():
            left = neighborhoods.without(label, of_others)
            without[label] = left - baseline_of(left)
        baseline = baseline_of(found)
        shown[size] = HeldOutBatch(
            codes, ref.in_several[codes], baseline, found - baseline, without
        )
    return [shown[min(size, most)] for size in sizes]


def _can_be_left_out(ref: LabeledCells, codes: np.ndarray, n_labels: int) -> list[int]:
    """Labels of a batch that other batches have too, and that have enough cells in it."""
    if n_labels < MIN_LABELS:
        return []
    sizes = np.bincount(codes, minlength=len(ref.in_several))
    return [int(label) for label in np.flatnonzero((sizes >= MIN_EXAMPLES) & ref.in_several)]


def baseline_of(found: np.ndarray) -> np.ndarray:
    """Baseline of a batch for each measure."""
    return np.quantile(found, BASELINE_QUANTILE, axis=0)


def pseudo_batches(codes: np.ndarray, batch: np.ndarray | None) -> tuple[np.ndarray, bool]:
    """Batch of each reference cell; two random halves if no label is in two batches.

    Two halves of one batch do not show how a new batch differs. They still show in part how much
    the misfits of known cells vary within a batch (:func:`._misfit_calibration.as_new_batch`). A
    warning is logged then.

    Parameters
    ----------
    codes
        Label code of each reference cell.
    batch
        Batch of each reference cell; ``None``: unknown.

    Returns
    -------
    Code of each cell's batch or half, and whether these are real batches.
    """
    groups = batch_groups(codes, batch)
    if groups is not None:
        return groups, True
    logger.warning(
        "Held-out reference cells are compared with cells of their own batch, so that more or "
        "fewer cells of a new batch than `max_refused` may be refused. Give `batch_key`, with a "
        "reference of two batches or more that share labels."
    )
    order = np.random.default_rng(DEFAULT_SEED).permutation(len(codes))
    halves = np.empty(len(codes), dtype=np.int64)
    halves[order] = np.arange(len(codes)) % 2
    return halves, False
