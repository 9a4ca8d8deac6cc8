"""What held-out batches of the reference say of known cells, and of types left out on purpose."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import minimize

from scalex_scvi._core.seeds import DEFAULT_SEED

from ._landmarks import Landmarks, Remaining
from ._misfits import FLOORS, MEASURES, Fitting
from ._neighborhoods import n_neighbors_of
from ._reference import Reference, centered, unit
from ._unknown import batch_groups, check_held_out, p_values

logger = logging.getLogger(__name__)

PRIOR_CELLS = 20
"""Cells of the held-out level that each batch of the query is averaged with."""

LEVEL = 0.4
"""Quantile of a batch's misfits that stands for the cells that it shares with the reference."""

MAX_CELLS = 5_000
"""Cells of a batch that is held out: more hardly move a quantile."""

MAX_BATCHES = 20
"""Batches that are held out, the largest ones."""

MAX_KNOWN = 500
"""Known cells beside each type that is left out on purpose."""

MIN_EXAMPLES = 5
"""Cells of a type in a batch, for the type to be left out on purpose."""

MIN_LABELS = 3
"""Labels of a reference that types are left out of: of two, one would be left."""

MARGINS = (0.1, 0.05, 0.05)
"""Misfit over the level, of each measure, that is none, however alike known cells are."""

USUAL_MISFIT, PER_LABEL = 0.4, 0.15
"""Correlation distance (logarithm, over the level) beyond which a twentieth of the known cells of a
new batch lies, roughly, over many sets, and how much of it each label but one adds: what halves of
a batch show is averaged with it."""

PRIOR_WEIGHTS = (1.0, 0.0, 0.0)
"""Weights where nothing can be left out: correlations hold best between technologies."""

DECAY = 1e-3
"""How firmly weights are held at these."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A batch of the reference that was treated like a query that the others receive.

    Attributes
    ----------
    codes
        Label of each of (at most :data:`MAX_CELLS` of) its cells.
    known
        Whether another batch has the label.
    level
        What stands for known cells, of each measure.
    misfits
        Over the level: cells × measures.
    without
        The same as if the reference lacked a label, for each label that can be left out.
    """

    codes: np.ndarray
    known: np.ndarray
    level: np.ndarray
    misfits: np.ndarray
    without: dict[int, np.ndarray]


def hold_out(ref: Reference, sizes: Sequence[int]) -> list[list[HeldOut]]:
    """Hold out each batch that has cells of a label that another batch has.

    Parameters
    ----------
    ref
        Reference.
    sizes
        Cells that a cell is averaged with: as many as in the query, fewer in a smaller batch.

    Returns
    -------
    For each of ``sizes``: what each batch shows.
    """
    rng = np.random.default_rng(DEFAULT_SEED)
    held_out: list[list[HeldOut]] = [[] for _ in sizes]
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
    ref: Reference, batch: int, cells: np.ndarray, sizes: Sequence[int]
) -> list[HeldOut]:
    others = Remaining(ref, batch)
    most = n_neighbors_of(len(cells))
    fitting = Fitting(others.landmarks(), ref.x[cells], min(max(sizes), most))
    codes = ref.codes[cells]
    margins = {
        label: others.margins(np.flatnonzero(others.used != label))
        for label in _can_be_left_out(ref, codes, len(others.used))
    }
    shown: dict[int, HeldOut] = {}
    for size in {min(size, most) for size in sizes}:
        near = fitting.among(size)
        found = near.misfits()
        without = {}
        for label, of_others in margins.items():
            left = near.without(label, of_others)
            without[label] = left - _level(left)
        level = _level(found)
        shown[size] = HeldOut(codes, ref.in_several[codes], level, found - level, without)
    return [shown[min(size, most)] for size in sizes]


def _can_be_left_out(ref: Reference, codes: np.ndarray, n_labels: int) -> list[int]:
    """Labels of a batch that are in others, too, and have enough cells."""
    if n_labels < MIN_LABELS:
        return []
    sizes = np.bincount(codes, minlength=len(ref.in_several))
    return [int(label) for label in np.flatnonzero((sizes >= MIN_EXAMPLES) & ref.in_several)]


@dataclass(frozen=True, eq=False)
class Standard:
    """What held-out batches say of known cells.

    Attributes
    ----------
    known
        Misfits of cells that are known, ascending.
    weights
        Of the measures.
    typical, highest
        Median level of each measure, and the highest one that a query is believed to have.
    """

    known: np.ndarray
    weights: np.ndarray
    typical: np.ndarray
    highest: np.ndarray

    @classmethod
    def of(cls, ref: Reference, sizes: Sequence[int], *, learns: bool) -> dict[int, Standard]:
        """Hold out the batches of a reference: what they say, for each of ``sizes``.

        Parameters
        ----------
        ref
            Reference.
        sizes
            Cells that a cell is averaged with.
        learns
            Whether batches are real, so that what they are held out for can weigh the measures.
        """
        between_labels = _level_of_labels(ref)
        return {
            size: cls._of_batches(held_out, between_labels, learns=learns)
            for size, held_out in zip(sizes, hold_out(ref, sizes), strict=True)
        }

    @classmethod
    def _of_batches(
        cls, held_out: Sequence[HeldOut], between_labels: float, *, learns: bool
    ) -> Standard:
        known = np.concatenate([batch.misfits[batch.known] for batch in held_out])
        median, high = np.quantile(known, (LEVEL, 0.95), axis=0)
        spread = np.maximum(high - median, MARGINS)
        weights = np.array(PRIOR_WEIGHTS)
        if learns:
            weights = learned_weights([b for b in held_out if b.without], spread)
        weights = weights / weights.sum() / spread
        levels = np.stack([batch.level for batch in held_out])
        highest = levels.max(axis=0)
        highest[0] = max(highest[0], between_labels)
        # What is closer than this is no misfit, however alike known cells are.
        by_batch = [
            np.maximum(batch.misfits[batch.known] @ weights, weights @ MARGINS)
            for batch in held_out
        ]
        if learns:
            known = np.concatenate(as_one_batch(by_batch))
        else:
            n_labels = len(np.unique(np.concatenate([batch.codes for batch in held_out])))
            known = as_new_batch(np.concatenate(by_batch), weights, n_labels)
        return cls(np.sort(known), weights, np.median(levels, axis=0), highest)

    def relative(self, found: np.ndarray) -> np.ndarray:
        """Misfits of the cells of a batch over its level; of few cells, over the typical one.

        A level is never taken for higher than that of every held-out batch (of correlations: or
        than half of the labels are from each other), so that a query of nothing known is unknown
        altogether.
        """
        weight = len(found) / (len(found) + PRIOR_CELLS)
        level = weight * _level(found) + (1 - weight) * self.typical
        return (found - np.minimum(level, self.highest)) @ self.weights


def as_one_batch(by_batch: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Stretch the misfits of each held-out batch to what a new batch is expected to show.

    A query is a batch: what counts is how far its 0.95 quantile may lie, and cells of two batches
    are two examples of that, however many they are. So each batch counts alike (the mean of their
    quantiles), and n batches leave room for what they have not shown: 1 + 1 / n² times that.

    Parameters
    ----------
    by_batch
        Positive misfits of the known cells of each batch.
    """
    highs = np.array([np.quantile(misfits, 0.95) for misfits in by_batch])
    expected = highs.mean() * (1 + 1 / len(highs) ** 2)
    return [misfits * expected / high for misfits, high in zip(by_batch, highs, strict=True)]


def as_new_batch(known: np.ndarray, weights: np.ndarray, n_labels: int) -> np.ndarray:
    """Stretch the misfits of two halves of a batch towards those of a new batch.

    Halves do not show what a new batch does to one type and not to another, and whether their
    neighborhoods straddle types is chance. So their 0.95 quantile is averaged (geometrically) with
    what is usual, :data:`PER_LABEL` for each label but one, at most :data:`USUAL_MISFIT`: the
    offset takes off what labels share, and the fewer there are, the less is left.

    Parameters
    ----------
    known
        Positive misfits.
    weights
        Of the measures; that of the correlation is not 0.
    n_labels
        Labels of the reference.
    """
    usual = weights[0] * min(PER_LABEL * max(n_labels - 1, 1), USUAL_MISFIT)
    rank = min(math.ceil(0.95 * (len(known) + 1)), len(known))  # beyond it, p-values are below 0.05
    return known * np.sqrt(usual / np.sort(known)[rank - 1])


def learned_weights(held_out: Sequence[HeldOut], spread: np.ndarray) -> np.ndarray:
    """Weigh the measures by how well they find types that are left out of the reference on purpose.

    Which measure tells types apart differs from one reference to the next: correlations where types
    differ in many genes, margins where a few markers do. Each pair of a held-out batch and one of
    its types is an example with the right answer. Logistic regression with weights of at least 0;
    each example counts alike, its unknown cells as much as its known ones.

    Parameters
    ----------
    held_out
        Batches with types that were left out; without any, the weights are
        :data:`PRIOR_WEIGHTS`.
    spread
        Unit of each measure.
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
        apart = weights - prior
        value = shares @ np.logaddexp(0, -fits) + DECAY / 2 * apart @ apart
        return value, np.append(rows.T @ slopes + DECAY * apart, slopes.sum())

    bounds = [(0, None)] * len(MEASURES) + [(None, None)]
    found = minimize(loss, np.append(prior, 0.0), jac=True, method="L-BFGS-B", bounds=bounds)
    weights = found.x[:-1]
    return weights if weights.sum() > 0 else prior


def _example(
    batch: HeldOut, label: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Misfits, +1 for cells of the label that is left out and −1 for known ones, and weights."""
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
    """Numbers of cells that the cells of these batches are averaged with."""
    return sorted({n_neighbors_of(int(n)) for n in np.unique(batch, return_counts=True)[1]})


def judge(
    marks: Landmarks,
    standards: Mapping[int, Standard],
    x: sparse.csr_matrix,
    batch: np.ndarray,
    max_refused: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Judge the cells of each batch of a query by the reference's batches, each as if a query.

    Parameters
    ----------
    marks
        Labels of the reference.
    standards
        What its held-out batches say, by the number of cells that a cell is averaged with; for
        each that the query's batches need (:func:`sizes_of`).
    x, batch
        Query cells × the same genes, and the batch code of each: batches are taken one by one.
    max_refused
        Smallest p-value that must be possible.

    Returns
    -------
    A p-value for each query cell, in (0, 1], and its misfit: the weighted mean of the measures over
    the level of its batch, where about 1 is where a twentieth of the known cells lies.

    Raises
    ------
    ValueError
        If there are too few held-out cells for ``max_refused``.
    """
    for size in sizes_of(batch):
        check_held_out(max_refused, len(standards[size].known))
    p, misfit = np.empty(x.shape[0]), np.empty(x.shape[0])
    for code in np.unique(batch):
        own = np.flatnonzero(batch == code)
        size = n_neighbors_of(len(own))
        cells = x if len(own) == x.shape[0] else x[own]
        found = Fitting(marks, cells, size).among(size).misfits()
        misfit[own] = standards[size].relative(found)
        p[own] = p_values(misfit[own], standards[size].known)
    return p, misfit


def pseudo_batches(codes: np.ndarray, batch: np.ndarray | None) -> tuple[np.ndarray, bool]:
    """Batch of each reference cell; two random halves if no label is in two batches.

    Halves do not show what a new batch does; as misfits count relative to the level of their
    batch, they still show in part how much those of known cells scatter (:func:`as_new_batch`). A
    warning is logged.

    Returns
    -------
    Codes of the batches, and whether they are real.
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


def _level(found: np.ndarray) -> np.ndarray:
    return np.quantile(found, LEVEL, axis=0)


def _level_of_labels(ref: Reference) -> float:
    """Median correlation distance (logarithm) of a label's mean from the nearest other one."""
    rows = unit(centered(ref.label_means()))
    between = 1 - rows @ rows.T
    np.fill_diagonal(between, np.inf)
    nearest = between.min(axis=1)
    if len(nearest) < 2:
        return -np.inf
    return float(np.log(max(np.median(nearest), 0) + FLOORS[0]))
