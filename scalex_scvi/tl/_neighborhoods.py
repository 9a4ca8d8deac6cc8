"""How far cells, averaged with their like in their own batch, are from every label."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from scalex_scvi._core.seeds import DEFAULT_SEED

from ._components import N_COMPONENTS, principal_directions
from ._discriminant import Discriminants, can_discriminate
from ._unknown import batch_groups, check_held_out, p_values

logger = logging.getLogger(__name__)

N_NEIGHBORS = 15
"""Cells of its own batch, itself included, that a cell is averaged with."""

CELLS_PER_NEIGHBOR = 10
"""Cells that a batch has for each: a neighborhood in a smaller batch would be of several types."""

N_OWN_COMPONENTS = 20
"""Components of the batch's own expression that neighbors are found in."""

PRIOR_CELLS = 20
"""Cells without an offset, and of the held-out level, that each batch is averaged with."""

MIN_CELLS = 5
"""Cells of a label that a batch needs, for the label to count in the batch's offset."""

LEVEL = 0.4
"""Quantile of a batch's distances that stands for the cells that it shares with the reference."""

MAX_CELLS = 5_000
"""Cells of a batch that is held out: more hardly move a quantile."""

MAX_BATCHES = 20
"""Batches that are held out, the largest ones."""

EXACT = 20_000
"""Cells from which on neighbors are approximate: exact ones take time by the square of cells."""

ROWS = 2_000
"""Cells whose expression is dense at a time."""

FLOOR = 0.03
"""Added to distances before logarithms: ratios of smaller ones are noise."""

MARGIN = 0.1
"""Logarithm of a distance over the level that is no misfit, however alike known cells are."""


@dataclass(frozen=True, eq=False)
class Reference:
    """Reference cells, and sums of them from which label means follow without any batch.

    Attributes
    ----------
    x
        Cells × genes, normalized.
    codes, batch
        Label and batch of each cell, from 0 on.
    mean, directions
        Principal components of all cells.
    sums, counts
        Batches × labels × genes, and batches × labels.
    """

    x: sparse.csr_matrix
    codes: np.ndarray
    batch: np.ndarray
    mean: np.ndarray
    directions: np.ndarray
    sums: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, x: sparse.csr_matrix, codes: np.ndarray, batch: np.ndarray) -> Reference:
        """Sum the cells of each batch and label."""
        n_cells, n_genes = x.shape
        n_labels, n_batches = int(codes.max()) + 1, int(batch.max()) + 1
        n_components = max(min(N_COMPONENTS, n_cells // 2, n_genes - 1), 1)
        mean, directions = principal_directions(x, n_components)
        groups = batch.astype(np.int64) * n_labels + codes
        shape = (n_batches * n_labels, n_cells)
        member = sparse.csr_matrix((np.ones(n_cells, x.dtype), (groups, np.arange(n_cells))), shape)
        sums = (member @ x).toarray().reshape(n_batches, n_labels, n_genes)
        counts = np.bincount(groups, minlength=shape[0]).reshape(n_batches, n_labels)
        return cls(x, codes, batch, mean, directions, sums, counts)

    def landmarks(self, left_out: int | None = None) -> Landmarks:
        """Return what cells are compared with; without a batch, where they are its cells."""
        kept = np.ones(len(self.counts), dtype=bool)
        if left_out is not None:
            kept[left_out] = False
        counts = self.counts[kept].sum(axis=0)
        used = np.flatnonzero(counts)
        means = self.sums[kept].sum(axis=0)[used] / counts[used, None]
        is_kept = kept[self.batch]
        codes = np.searchsorted(used, self.codes[is_kept])
        points = components(self.x[is_kept], self.mean, self.directions)
        found = Discriminants.of(points, codes) if can_discriminate(points, codes) else None
        return Landmarks(used, means, self.mean, self.directions, found)


@dataclass(frozen=True, eq=False)
class Landmarks:
    """What cells are compared with: statistics of a reference, and none of its cells.

    Attributes
    ----------
    used
        Codes of the labels.
    means
        Mean expression of each: labels × genes.
    mean, directions
        Principal components of all cells.
    discriminants
        Of the labels by these components; ``None`` if no label has cells that differ.
    """

    used: np.ndarray
    means: np.ndarray
    mean: np.ndarray
    directions: np.ndarray
    discriminants: Discriminants | None

    def shares(self, x: sparse.csr_matrix) -> np.ndarray:
        """Probability of each label for the cells of one batch: cells × labels."""
        if self.discriminants is None:
            return np.full((x.shape[0], len(self.used)), 1 / len(self.used))
        points = components(x, self.mean, self.directions)
        return self.discriminants.shares(points, np.zeros(x.shape[0], np.int64))

    def offset(self, x: sparse.csr_matrix) -> np.ndarray:
        """Offset of the cells of one batch from the label means: genes."""
        return _offset(x, self.shares(x), self.means)


def components(x: sparse.csr_matrix, mean: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Cells × principal components."""
    return np.asarray(x @ directions - mean @ directions)


def distances_of_batches(
    marks: Landmarks, x: sparse.csr_matrix, batch: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the nearest label, and that label, of each cell of each batch of a query.

    Parameters
    ----------
    marks
        What of the reference cells are compared with.
    x, batch
        Query cells × the same genes, and the batch code of each: batches are taken one by one.

    Returns
    -------
    1 − correlation with the nearest label mean (see :func:`distances`), and its code.
    """
    found, nearest = np.empty(x.shape[0]), np.empty(x.shape[0], dtype=np.int64)
    for code in np.unique(batch):
        own = np.flatnonzero(batch == code)
        [(found[own], nearest[own])] = distances(marks, x[own], [n_neighbors_of(len(own))])
    return found, nearest


def distances(
    marks: Landmarks, x: sparse.csr_matrix, sizes: Sequence[int]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Distance of the cells of one batch to the nearest label mean of the reference.

    A cell is noise, types come in groups: its expression is averaged with that of its nearest cells
    in the batch's own components, the offset of the batch is taken off, and what is left correlated
    with each label mean. The offset is the median over labels of what the batch's cells given a
    label differ by from its mean, which a type that the reference lacks hardly moves. Distances
    are averaged over the same neighbors twice.

    Parameters
    ----------
    marks
        What of the reference cells are compared with.
    x
        Cells × genes of one batch.
    sizes
        Cells that a cell is averaged with, itself included.

    Returns
    -------
    For each of ``sizes``: distance and code of the label for each cell.
    """
    nearest_cells = _nearest_cells(x, max(sizes))
    offset, squares = marks.offset(x), x.multiply(x).tocsr()
    measured = []
    for size in sizes:
        averaging = _averaging(nearest_cells[:, :size])
        found, nearest = np.empty(x.shape[0]), np.empty(x.shape[0], dtype=np.int64)
        for start in range(0, x.shape[0], ROWS):
            block = slice(start, start + ROWS)
            alike = _without_noise(averaging[block], x, squares, offset, marks.means)
            nearest[block] = marks.used[alike.argmax(axis=1)]
            found[block] = 1 - alike.max(axis=1)
        measured.append((averaging @ (averaging @ found), nearest))
    return measured


def n_neighbors_of(n_cells: int) -> int:
    """Cells that the cells of a batch are averaged with, by its size."""
    return min(N_NEIGHBORS, max(n_cells // CELLS_PER_NEIGHBOR, 1))


def _nearest_cells(x: sparse.csr_matrix, n_neighbors: int) -> np.ndarray:
    """Nearest cells of each cell of a batch, the nearest first: cells × neighbors."""
    n_cells = x.shape[0]
    n_components = min(N_OWN_COMPONENTS, n_cells // 2, x.shape[1] - 1)
    if n_components < 1:  # one cell, or one gene
        return _nearest(x.toarray(), min(n_neighbors, n_cells))
    _, directions = principal_directions(x, n_components)
    return _nearest(np.asarray(x @ directions), min(n_neighbors, n_cells))


def _averaging(neighbors: np.ndarray) -> sparse.csr_matrix:
    """Averaging of each cell with its neighbors: cells × cells, rows sum to 1."""
    n_cells, n_neighbors = neighbors.shape
    starts = np.arange(0, neighbors.size + 1, n_neighbors)
    weights = np.full(neighbors.size, 1 / n_neighbors, dtype=np.float32)
    return sparse.csr_matrix((weights, neighbors.ravel(), starts), (n_cells, n_cells))


def _nearest(points: np.ndarray, n_neighbors: int) -> np.ndarray:
    if len(points) < EXACT:
        return NearestNeighbors(n_neighbors=n_neighbors).fit(points).kneighbors(points)[1]
    from pynndescent import NNDescent  # comes with scanpy; slow to import

    index = NNDescent(points, n_neighbors=n_neighbors, random_state=DEFAULT_SEED)
    return np.asarray(index.neighbor_graph[0])


def _offset(x: sparse.csr_matrix, shares: np.ndarray, means: np.ndarray) -> np.ndarray:
    n_cells = shares.sum(axis=0)
    counts = n_cells >= min(MIN_CELLS, n_cells.max())
    own = (x.T @ shares[:, counts]).T / n_cells[counts, None]
    weight = x.shape[0] / (x.shape[0] + PRIOR_CELLS)
    return weight * np.median(own - means[counts], axis=0)


def _without_noise(
    averaging: sparse.csr_matrix,
    x: sparse.csr_matrix,
    squares: sparse.csr_matrix,
    offset: np.ndarray,
    means: np.ndarray,
) -> np.ndarray:
    """Correlation of mean expression with label means: cells × labels.

    The noise of a mean of few cells lowers a correlation by the root of the share of variance that
    is signal; half of it (in logarithms) is made up for, since sparse cells are else far from
    everything; made up for whole, differences between types that are shallow get lost.
    """
    own = (averaging @ x).toarray()
    n_neighbors = averaging.indptr[1] - averaging.indptr[0]
    of_squares = (averaging @ squares).toarray()
    noise = (of_squares - own**2).mean(axis=1) / max(n_neighbors - 1, 1)
    own = _centered(own - offset)
    variance = np.maximum((own**2).mean(axis=1), np.finfo(np.float32).tiny)
    signal = np.clip((variance - noise) / variance, 0.05, 1) ** 0.25
    return _unit(own) @ _unit(_centered(means)).T / signal[:, None]


def correlation(rows: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Pearson correlation of rows of expression with label means: rows × labels."""
    return _unit(_centered(rows)) @ _unit(_centered(means)).T


def _centered(rows: np.ndarray) -> np.ndarray:
    return rows - rows.mean(axis=1, keepdims=True)


def _unit(rows: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)


HeldOut = list[tuple[np.ndarray, np.ndarray]]
"""For each batch: distances of its cells, and whether another batch has the label of the cell."""


def held_out_distances(ref: Reference, sizes: Sequence[int]) -> list[HeldOut]:
    """Distances of the reference's batches, each treated like a query that the others receive.

    Parameters
    ----------
    ref
        Reference.
    sizes
        Cells that a cell is averaged with: as many as in the query.

    Returns
    -------
    For each of ``sizes`` and each batch: distances of (at most :data:`MAX_CELLS` of) its cells, and
    whether another batch has the label of the cell. A batch without such cells is left out.
    """
    in_batches = (ref.counts > 0).sum(axis=0)
    rng = np.random.default_rng(DEFAULT_SEED)
    largest = np.argsort(-ref.counts.sum(axis=1), kind="stable")[:MAX_BATCHES]
    held_out: list[HeldOut] = [[] for _ in sizes]
    for code in largest:
        own = np.flatnonzero(ref.batch == code)
        if len(own) > MAX_CELLS:
            own = np.sort(rng.choice(own, MAX_CELLS, replace=False))
        is_known = in_batches[ref.codes[own]] > 1
        if is_known.any():
            measured = distances(ref.landmarks(int(code)), ref.x[own], sizes)
            for of_size, (found, _) in zip(held_out, measured, strict=True):
                of_size.append((found, is_known))
    return held_out


def neighborhood_p_values(
    standards: Mapping[int, Standard], found: np.ndarray, batch: np.ndarray, max_refused: float
) -> tuple[np.ndarray, np.ndarray]:
    """Compare distances with those of the reference's batches, each as if it were a query.

    A distance counts relative to the level of its batch, a low quantile of its distances, since no
    two technologies are equally far apart: where a minority of cells is of unseen types, the level
    is that of the others. It is never taken for higher than that of any held-out batch or than half
    of the labels are from each other, whichever is more, so that a query of nothing known is
    unknown altogether.

    Parameters
    ----------
    standards
        What held-out batches say, by the number of cells that a cell is averaged with; for each
        that the query's batches need (:func:`sizes_of`).
    found, batch
        Distance and batch code of each query cell.
    max_refused
        Smallest p-value that must be possible.

    Returns
    -------
    A p-value for each query cell, in (0, 1], and the logarithm of its distance over the level.

    Raises
    ------
    ValueError
        If there are too few held-out cells for ``max_refused``.
    """
    p, misfit = np.empty(len(found)), np.empty(len(found))
    for size in sizes_of(batch):
        check_held_out(max_refused, len(standards[size].known))
    for code in np.unique(batch):
        own = batch == code
        standard = standards[n_neighbors_of(int(own.sum()))]
        misfit[own] = standard.relative(found[own])
        p[own] = p_values(misfit[own], standard.known)
    return p, misfit


def sizes_of(batch: np.ndarray) -> list[int]:
    """Numbers of cells that the cells of these batches are averaged with."""
    return sorted({n_neighbors_of(int(n)) for n in np.unique(batch, return_counts=True)[1]})


@dataclass(frozen=True)
class Standard:
    """What held-out batches say of known cells.

    Attributes
    ----------
    known
        Logarithm of the distances of cells that are known, over the level of their batch; at least
        :data:`MARGIN`.
    typical, highest
        Median level, and the highest one that a query is believed to have.
    """

    known: np.ndarray
    typical: float
    highest: float

    @classmethod
    def of(cls, ref: Reference, sizes: Sequence[int]) -> dict[int, Standard]:
        """Hold out the batches of a reference: what they say, for each of ``sizes``."""
        between_labels = _level_of_labels(ref)
        held_out = held_out_distances(ref, sizes)
        return {
            size: cls._of_batches(of_size, between_labels)
            for size, of_size in zip(sizes, held_out, strict=True)
        }

    @classmethod
    def _of_batches(cls, held_out: HeldOut, between_labels: float) -> Standard:
        levels = [_level(found) for found, _ in held_out]
        relative = [
            (_log(found) - level)[is_known]
            for (found, is_known), level in zip(held_out, levels, strict=True)
        ]
        highest = max(*levels, between_labels)
        known = np.maximum(np.concatenate(relative), MARGIN)
        return cls(known, float(np.median(levels)), highest)

    def relative(self, found: np.ndarray) -> np.ndarray:
        """Logarithm of the distances of a batch over its level; of few cells, the typical one."""
        weight = len(found) / (len(found) + PRIOR_CELLS)
        level = weight * _level(found) + (1 - weight) * self.typical
        return _log(found) - min(level, self.highest)


def pseudo_batches(codes: np.ndarray, batch: np.ndarray | None) -> np.ndarray:
    """Batch of each reference cell; two random halves if no label is in two batches.

    Halves do not show what a new batch does; as distances count relative to the level of their
    batch, they still show how much the distances of known cells scatter. A warning is logged.
    """
    groups = batch_groups(codes, batch)
    if groups is not None:
        return groups
    logger.warning(
        "Held-out reference cells are compared with cells of their own batch, so that more or "
        "fewer cells of a new batch than `max_refused` may be refused. Give `batch_key`, with a "
        "reference of two batches or more that share labels."
    )
    order = np.random.default_rng(DEFAULT_SEED).permutation(len(codes))
    halves = np.empty(len(codes), dtype=np.int64)
    halves[order] = np.arange(len(codes)) % 2
    return halves


def _log(found: Any) -> Any:
    return np.log(np.maximum(found, 0) + FLOOR)


def _level(found: np.ndarray) -> float:
    return float(np.quantile(_log(found), LEVEL))


def _level_of_labels(ref: Reference) -> float:
    """Median distance (logarithm) of a label's mean from the nearest other one."""
    unit = _unit(_centered(label_means(ref)))
    between = 1 - unit @ unit.T
    np.fill_diagonal(between, np.inf)
    nearest = between.min(axis=1)
    return float(_log(np.median(nearest))) if len(nearest) > 1 else -np.inf


def label_means(ref: Reference) -> np.ndarray:
    """Mean expression of all cells of each label: labels × genes."""
    return ref.sums.sum(axis=0) / ref.counts.sum(axis=0)[:, None]
