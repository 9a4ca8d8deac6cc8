"""What held-out batches of the reference say of known cells, and of types left out on purpose."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from scalex_scvi._core.seeds import DEFAULT_SEED

from ._misfits import FLOORS, MEASURES, Fitting, Labels
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

    @classmethod
    def of(cls, ref: Reference, batch: int, cells: np.ndarray, n_neighbors: int) -> HeldOut:
        """Hold out the cells of a batch."""
        n_neighbors = min(n_neighbors, n_neighbors_of(len(cells)))
        fitting = Fitting(Labels(ref, batch), ref.x[cells], n_neighbors)
        codes, found = ref.codes[cells], fitting.misfits()
        level = _level(found)
        sizes = np.bincount(codes, minlength=len(ref.in_several))
        enough = (sizes >= MIN_EXAMPLES) & ref.in_several
        if len(fitting.labels.used) < MIN_LABELS:
            enough[:] = False
        without = {}
        for label in np.flatnonzero(enough):
            left = fitting.misfits(removed=int(label))
            without[int(label)] = left - _level(left)
        return cls(codes, ref.in_several[codes], level, found - level, without)


def hold_out(ref: Reference, n_neighbors: int) -> list[HeldOut]:
    """Hold out each batch that has cells of a label that another batch has.

    Parameters
    ----------
    ref
        Reference.
    n_neighbors
        Cells that a cell is averaged with: as many as in the query, fewer in a smaller batch.
    """
    rng = np.random.default_rng(DEFAULT_SEED)
    held_out = []
    for batch in np.argsort(-ref.counts.sum(axis=1), kind="stable")[:MAX_BATCHES]:
        cells = np.flatnonzero(ref.batch == batch)
        if len(cells) > MAX_CELLS:
            cells = np.sort(rng.choice(cells, MAX_CELLS, replace=False))
        if ref.in_several[ref.codes[cells]].any():
            held_out.append(HeldOut.of(ref, int(batch), cells, n_neighbors))
    return held_out


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
    def of(cls, ref: Reference, n_neighbors: int, *, learns: bool) -> Standard:
        """Hold out the batches of a reference.

        Parameters
        ----------
        ref
            Reference.
        n_neighbors
            Cells that a cell is averaged with.
        learns
            Whether batches are real, so that what they are held out for can weigh the measures.
        """
        held_out = hold_out(ref, n_neighbors)
        known = np.concatenate([batch.misfits[batch.known] for batch in held_out])
        median, high = np.quantile(known, (LEVEL, 0.95), axis=0)
        spread = np.maximum(high - median, MARGINS)
        weights = np.array(PRIOR_WEIGHTS)
        if learns:
            weights = learned_weights([b for b in held_out if b.without], spread)
        weights = weights / weights.sum() / spread
        levels = np.stack([batch.level for batch in held_out])
        highest = levels.max(axis=0)
        highest[0] = max(highest[0], _level_of_labels(ref))
        least = weights @ MARGINS
        return cls(np.maximum(known @ weights, least), weights, np.median(levels, axis=0), highest)

    def relative(self, found: np.ndarray) -> np.ndarray:
        """Misfits of the cells of a batch over its level; of few cells, over the typical one.

        A level is never taken for higher than that of every held-out batch (of correlations: or
        than half of the labels are from each other), so that a query of nothing known is unknown
        altogether.
        """
        weight = len(found) / (len(found) + PRIOR_CELLS)
        level = weight * _level(found) + (1 - weight) * self.typical
        return (found - np.minimum(level, self.highest)) @ self.weights


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


def misfits_of_batches(
    ref: Reference, x: np.ndarray, batch: np.ndarray, max_refused: float, *, learns: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Judge the cells of each batch of a query by the reference's batches, each as if a query.

    Parameters
    ----------
    ref
        Reference.
    x, batch
        Query cells × the same genes, and the batch code of each: batches are taken one by one.
    max_refused
        Smallest p-value that must be possible.
    learns
        See :meth:`Standard.of`.

    Returns
    -------
    A p-value for each query cell, in (0, 1], and its misfit: the weighted mean of the measures over
    the level of its batch, where about 1 is where a twentieth of the known cells lies.

    Raises
    ------
    ValueError
        If there are too few held-out cells for ``max_refused``.
    """
    p, misfit = np.empty(x.shape[0]), np.empty(x.shape[0])
    standards: dict[int, Standard] = {}
    labels = Labels(ref)
    for code in np.unique(batch):
        own = np.flatnonzero(batch == code)
        n_neighbors = n_neighbors_of(len(own))
        if n_neighbors not in standards:
            standards[n_neighbors] = Standard.of(ref, n_neighbors, learns=learns)
            check_held_out(max_refused, len(standards[n_neighbors].known))
        standard = standards[n_neighbors]
        misfit[own] = standard.relative(Fitting(labels, x[own], n_neighbors).misfits())
        p[own] = p_values(misfit[own], standard.known)
    return p, misfit


def pseudo_batches(codes: np.ndarray, batch: np.ndarray | None) -> tuple[np.ndarray, bool]:
    """Batch of each reference cell; two random halves if no label is in two batches.

    Halves do not show what a new batch does; as misfits count relative to the level of their
    batch, they still show how much those of known cells scatter. A warning is logged.

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
