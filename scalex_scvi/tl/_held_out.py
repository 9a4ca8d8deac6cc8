"""Which query cells fit no label, calibrated on held-out batches of the reference.

Each batch of the reference is treated once as if it were a query of the other batches. That shows
how large the misfits of cells with known labels are in a new batch (the threshold) and, with single
labels removed from the other batches, which measure finds cells of absent types best (the weights).

A *misfit* is a number for a cell and a measure (:data:`._misfits.MEASURES`), larger for a worse
fit. The *baseline* of a batch is a low quantile of its cells' misfits: what its technology adds to
all of them. Misfits are compared after the baseline is subtracted.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import minimize

from scalex_scvi._core.seeds import DEFAULT_SEED

from ._group_fits import LEVEL, GroupStandard
from ._label_statistics import KeptBatches, LabelStatistics
from ._labeled_cells import LabeledCells, centered, unit
from ._misfits import FLOORS, MEASURES, Fitting
from ._neighborhoods import Neighbors, n_neighbors_of, nearest_cells
from ._unknown import batch_groups, check_held_out, p_values

logger = logging.getLogger(__name__)

PRIOR_CELLS = 20
"""Weight, in cells, of the median baseline of held-out batches in the baseline of a query batch: a
batch of few cells says little of its own baseline."""

BASELINE_QUANTILE = 0.4
"""Quantile of a batch's misfits that is its baseline. It is below the median, so that it comes from
cells of known types even where up to 60 % of the batch are of types that the reference lacks."""

MAX_CELLS = 5_000
"""Most cells that are taken of a held-out batch, at random: more hardly change a quantile."""

MAX_BATCHES = 20
"""Most batches that are held out, the largest ones."""

MAX_KNOWN = 500
"""Most cells of other types that each removed type is compared with."""

MIN_EXAMPLES = 5
"""Fewest cells of a type in a batch for the type to be removed from the other batches."""

MIN_LABELS = 3
"""Fewest labels of a reference for types to be removed: of two, a single one would be left."""

MARGINS = (0.1, 0.05, 0.05)
"""Smallest difference from the baseline that counts as a misfit, for each measure. Where the known
cells of a reference hardly scatter, smaller differences would otherwise look large."""

USUAL_MISFIT, PER_LABEL = 0.4, 0.15
"""Typical 0.95 quantile of the correlation measure (logarithm, above the baseline) of known cells
of a new batch, over many data sets, and how much of it each label after the first adds. Where a
reference has no batches to hold out, what its two halves show is averaged with this."""

PRIOR_WEIGHTS = (1.0, 0.0, 0.0)
"""Weights of the measures where no type can be removed: the correlation alone, which changes least
between technologies."""

DECAY = 1e-3
"""Strength of the penalty that pulls learned weights towards :data:`PRIOR_WEIGHTS`."""


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
            without[label] = left - _baseline(left)
        baseline = _baseline(found)
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


@dataclass(frozen=True, eq=False)
class MisfitCalibration:
    """What the misfits of a query are compared with: those of held-out cells of known labels.

    Attributes
    ----------
    known
        Misfits (weighted sum of the measures, above the baseline) of held-out cells whose label
        other batches have, ascending. 1 is about their 0.95 quantile.
    weights
        Weight of each measure in that sum.
    typical, highest
        Median baseline of the held-out batches for each measure, and the highest baseline that is
        taken for that of a query batch.
    """

    known: np.ndarray
    weights: np.ndarray
    typical: np.ndarray
    highest: np.ndarray

    @classmethod
    def for_sizes(
        cls, ref: LabeledCells, sizes: Sequence[int], *, learns: bool
    ) -> dict[int, MisfitCalibration]:
        """Hold out each batch of a reference, and summarize what they show for each of ``sizes``.

        Parameters
        ----------
        ref
            Labeled cells of the reference.
        sizes
            Numbers of neighbors that a cell is averaged with.
        learns
            Whether the weights of the measures are learned: only where the batches are real ones,
            not random halves (:func:`pseudo_batches`).

        Raises
        ------
        ValueError
            If no label has cells in two batches or halves.
        """
        if not ref.in_several.any():
            n_labels, n_cells = len(ref.in_several), len(ref.codes)
            msg = (
                f"No label of the reference ({n_labels} labels of {n_cells} cells) has cells in "
                "two of its parts, so that none can be held out to tell which cells are unknown. "
                "Give labels of several cells each, or `novelty='latent'`."
            )
            raise ValueError(msg)
        between_labels = _distance_between_labels(ref)
        return {
            size: cls._of_batches(held_out, between_labels, learns=learns)
            for size, held_out in zip(sizes, hold_out(ref, sizes), strict=True)
        }

    @classmethod
    def _of_batches(
        cls, held_out: Sequence[HeldOutBatch], between_labels: float, *, learns: bool
    ) -> MisfitCalibration:
        known = np.concatenate([batch.misfits[batch.known] for batch in held_out])
        median, high = np.quantile(known, (BASELINE_QUANTILE, 0.95), axis=0)
        spread = np.maximum(high - median, MARGINS)
        weights = np.array(PRIOR_WEIGHTS)
        if learns:
            weights = learned_weights([b for b in held_out if b.without], spread)
        weights = weights / weights.sum() / spread
        baselines = np.stack([batch.baseline for batch in held_out])
        highest = baselines.max(axis=0)
        highest[0] = max(highest[0], between_labels)
        # Differences below MARGINS do not count, see there.
        by_batch = [
            np.maximum(batch.misfits[batch.known] @ weights, weights @ MARGINS)
            for batch in held_out
        ]
        if learns:
            known = np.concatenate(as_one_batch(by_batch))
        else:
            n_labels = len(np.unique(np.concatenate([batch.codes for batch in held_out])))
            known = as_new_batch(np.concatenate(by_batch), weights, n_labels)
        return cls(np.sort(known), weights, np.median(baselines, axis=0), highest)

    def relative(self, found: np.ndarray, *, nothing_known: bool) -> np.ndarray:
        """Weighted sum of the measures of each cell of a batch, above the batch's baseline.

        The baseline of a small batch is averaged with the typical one. It is capped at the highest
        of the held-out batches (for the correlation: or the median distance between the means of
        nearest labels, if that is higher): without the cap, a query batch in which no cell is of a
        known type would get a baseline so high that its cells seemed to fit. The baseline of a
        batch that no label fits says nothing: it gets the typical one.
        """
        weight = 0.0 if nothing_known else len(found) / (len(found) + PRIOR_CELLS)
        baseline = weight * _baseline(found) + (1 - weight) * self.typical
        return (found - np.minimum(baseline, self.highest)) @ self.weights


@dataclass(frozen=True, eq=False)
class Standards:
    """What the batches of a query are compared with.

    Attributes
    ----------
    misfits
        Of held-out cells, by the number of neighbors that a cell is averaged with.
    groups
        Of held-out groups; ``None`` where these are no real batches, or too few: then every batch
        of a query is taken to have known types.
    """

    misfits: Mapping[int, MisfitCalibration]
    groups: GroupStandard | None

    @classmethod
    def of(cls, ref: LabeledCells, sizes: Sequence[int], *, learns: bool) -> Standards:
        """Hold out each batch of a reference: see :meth:`MisfitCalibration.for_sizes`."""
        misfits = MisfitCalibration.for_sizes(ref, sizes, learns=learns)
        return cls(misfits, GroupStandard.of(ref) if learns else None)


def as_one_batch(by_batch: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Rescale the misfits of each held-out batch so that all have one expected 0.95 quantile.

    A query is a new batch, and the 0.95 quantile of known cells differs from batch to batch: two
    held-out batches are two observations of it, however many cells they have. So the expected
    quantile is the mean over the batches, each with the same weight, times 1 + 1 / n² for n
    batches, since a new batch may lie beyond those that were seen.

    Parameters
    ----------
    by_batch
        Positive misfits of the known cells of each batch.

    Returns
    -------
    The rescaled misfits of each batch.
    """
    highs = np.array([np.quantile(misfits, 0.95) for misfits in by_batch])
    expected = highs.mean() * (1 + 1 / len(highs) ** 2)
    return [misfits * expected / high for misfits, high in zip(by_batch, highs, strict=True)]


def as_new_batch(known: np.ndarray, weights: np.ndarray, n_labels: int) -> np.ndarray:
    """Rescale the misfits of two random halves of a reference to those expected of a new batch.

    Two halves do not show how a new batch changes one type but not another. So the 0.95 quantile
    of their misfits is averaged (geometric mean) with a typical one: :data:`PER_LABEL` for each
    label after the first, at most :data:`USUAL_MISFIT`. It grows with the number of labels because
    the offset of a batch, which is subtracted before, takes away what all its labels have in
    common.

    Parameters
    ----------
    known
        Positive misfits of held-out cells.
    weights
        Weights of the measures; that of the correlation is not 0.
    n_labels
        Number of labels of the reference.

    Returns
    -------
    The rescaled misfits.
    """
    usual = weights[0] * min(PER_LABEL * max(n_labels - 1, 1), USUAL_MISFIT)
    rank = min(math.ceil(0.95 * (len(known) + 1)), len(known))  # beyond it, p-values are below 0.05
    return known * np.sqrt(usual / np.sort(known)[rank - 1])


def learned_weights(held_out: Sequence[HeldOutBatch], spread: np.ndarray) -> np.ndarray:
    """Learn the weights of the measures from types that were removed from the reference.

    Which measure finds an absent type differs between references: the correlation where types
    differ in many genes, the margin where they differ in a few markers. Each pair of a held-out
    batch and one of its types, removed from the other batches, is an example in which it is known
    which cells should be called unknown. The weights, at least 0, are those of a logistic
    regression. All examples have the same total weight, half of it for the unknown cells.

    Parameters
    ----------
    held_out
        Held-out batches with at least one removed type; without any, the weights are
        :data:`PRIOR_WEIGHTS`.
    spread
        Unit of each measure: difference of the 0.95 quantile of known cells from the baseline.

    Returns
    -------
    One weight for each measure, in these units.
    """
    prior = np.array(PRIOR_WEIGHTS)
    rng = np.random.default_rng(DEFAULT_SEED)
    examples = [_example(batch, label, rng) for batch in held_out for label in batch.without]
    examples = [example for example in examples if example is not None]
    if not examples:
        return prior
    rows, signs, shares = (np.concatenate(parts) for parts in zip(*examples, strict=True))
    rows, shares = rows / spread, shares / len(examples)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights, constant = parameters[:-1], parameters[-1]
        fits = signs * (rows @ weights + constant)
        slopes = -signs * shares / (1 + np.exp(np.clip(fits, -500, 500)))
        deviation = weights - prior
        value = shares @ np.logaddexp(0, -fits) + DECAY / 2 * deviation @ deviation
        return value, np.append(rows.T @ slopes + DECAY * deviation, slopes.sum())

    bounds = [(0, None)] * len(MEASURES) + [(None, None)]
    found = minimize(loss, np.append(prior, 0.0), jac=True, method="L-BFGS-B", bounds=bounds)
    weights = found.x[:-1]
    return weights if weights.sum() > 0 else prior


def _example(
    batch: HeldOutBatch, label: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Misfits, +1 for cells of the removed label and −1 for others, and the weight of each cell."""
    unseen = np.flatnonzero(batch.codes == label)
    others = np.flatnonzero(batch.known & (batch.codes != label))
    if len(others) < MIN_EXAMPLES:
        return None
    if len(others) > MAX_KNOWN:
        others = np.sort(rng.choice(others, MAX_KNOWN, replace=False))
    rows = batch.without[label][np.concatenate([unseen, others])]
    sizes = len(unseen), len(others)
    signs = np.repeat([1.0, -1.0], sizes)
    return rows, signs, np.repeat([0.5 / sizes[0], 0.5 / sizes[1]], sizes)


def sizes_of(batch: np.ndarray) -> list[int]:
    """Numbers of neighbors that the cells of these batches are averaged with, each once, sorted."""
    return sorted({n_neighbors_of(int(n)) for n in np.unique(batch, return_counts=True)[1]})


def neighborhood_p_values(
    statistics: LabelStatistics,
    standards: Standards,
    x: sparse.csr_matrix,
    neighbors: Sequence[Neighbors],
    max_refused: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Compare the misfits of query cells with those of held-out reference cells.

    Parameters
    ----------
    statistics
        Statistics of the labels of the reference.
    standards
        What held-out batches show, for each number of neighbors that the query's batches need
        (:func:`sizes_of`).
    x
        Normalized expression of the query: cells × the genes of the reference.
    neighbors
        Of the query's batches: each is compared by itself.
    max_refused
        Threshold of the p-value below which cells will be called unknown: there must be enough
        held-out cells for so small a p-value.

    Returns
    -------
    A p-value for each query cell, in (0, 1], and its misfit: the weighted sum of the measures above
    the baseline of its batch, on a scale where about 5 % of known cells are above 1. In a batch of
    nothing known p-values are at most that of the groups, whatever the misfit of a single cell.

    Raises
    ------
    ValueError
        If there are too few held-out cells for ``max_refused``.
    """
    for batch in neighbors:
        check_held_out(max_refused, len(standards.misfits[batch.nearest.shape[1]].known))
    p, misfit = np.empty(x.shape[0]), np.empty(x.shape[0])
    for batch in neighbors:
        own, size = batch.cells, batch.nearest.shape[1]
        calibration = standards.misfits[size]
        cells = x if len(own) == x.shape[0] else x[own]
        fitting = Fitting(statistics, cells, batch.nearest, standards.groups)
        found = fitting.neighborhoods(size).misfits()
        unlike = fitting.of_nothing_known
        misfit[own] = calibration.relative(found, nothing_known=bool(unlike.any()))
        of_cells = p_values(misfit[own], calibration.known)
        p[own] = np.where(unlike, np.minimum(of_cells, LEVEL), of_cells)
        if unlike.any():
            logger.warning(
                "A batch of %d query cells looks like none of the labels: the cells given to a "
                "label are further from it on average than in the batches of the reference. They "
                "are called unknown (with `max_refused` below %s: some of them). A technology or a "
                "species that the reference lacks can look the same.",
                len(own),
                LEVEL,
            )
    return p, misfit


def pseudo_batches(codes: np.ndarray, batch: np.ndarray | None) -> tuple[np.ndarray, bool]:
    """Batch of each reference cell; two random halves if no label is in two batches.

    Two halves of one batch do not show how a new batch differs. They still show in part how much
    the misfits of known cells vary within a batch, see :func:`as_new_batch`. A warning is logged
    then.

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


def _baseline(found: np.ndarray) -> np.ndarray:
    """Baseline of a batch for each measure."""
    return np.quantile(found, BASELINE_QUANTILE, axis=0)


def _distance_between_labels(ref: LabeledCells) -> float:
    """Median correlation distance (logarithm) of the mean of a label from the nearest other one."""
    rows = unit(centered(ref.label_means()))
    between = 1 - rows @ rows.T
    np.fill_diagonal(between, np.inf)
    nearest = between.min(axis=1)
    if len(nearest) < 2:
        return -np.inf
    return float(np.log(max(np.median(nearest), 0) + FLOORS[0]))
