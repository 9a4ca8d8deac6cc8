"""How badly a cell fits the reference cells that vote for it, against held-out reference cells."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

import numpy as np
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from scalex_scvi._core.seeds import DEFAULT_SEED

from ._neighborhoods import averaging

logger = logging.getLogger(__name__)

Novelty = Literal["neighborhood", "expression", "latent"]

MAX_HELD_OUT = 10_000
"""Held-out reference cells to calibrate on: more cost time and hardly move a quantile."""

CHUNK = 2_000
"""Cells whose expression is dense at a time."""


@dataclass(frozen=True)
class Votes:
    """Neighbors of cells in the reference, and what they vote for.

    ``distances`` and ``neighbors`` (positions in the reference): cells × neighbors; ``shares`` of
    the votes: cells × labels, rows sum to 1.
    """

    distances: np.ndarray
    neighbors: np.ndarray
    shares: np.ndarray


def count_votes(distances: np.ndarray, neighbors: np.ndarray, codes: np.ndarray) -> Votes:
    """Count the labels of each cell's neighbors; ``codes`` are the labels of the reference."""
    shares = np.zeros((len(neighbors), codes.max() + 1))
    rows = np.arange(len(neighbors))
    for column in codes[neighbors].T:
        shares[rows, column] += 1
    return Votes(distances, neighbors, shares / neighbors.shape[1])


def fit_p_values(
    votes: Votes,
    points: np.ndarray,
    codes: np.ndarray,
    *,
    batch: np.ndarray | None,
    max_refused: float,
    expression: tuple[sparse.csr_matrix, sparse.csr_matrix] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Compare how well cells fit their neighbors with how well held-out reference cells do.

    Parameters
    ----------
    votes
        Of the query's cells.
    points, codes, batch
        Representation, label code and batch (or ``None``) of the reference cells.
    max_refused
        Smallest p-value that must be possible.
    expression
        Of reference and query, cells × the same genes; ``None``: misfit in the representation.

    Returns
    -------
    A p-value for each query cell, in (0, 1], and its misfit.

    Raises
    ------
    ValueError
        If there are too few held-out cells for ``max_refused``.
    """
    n_neighbors = votes.neighbors.shape[1]
    cells, distances, neighbors = held_out_neighbors(points, codes, batch, n_neighbors)
    check_held_out(max_refused, len(cells))
    held_out = count_votes(distances, neighbors, codes)
    if expression is None:
        found = misfit(votes)
        return p_values(found, misfit(held_out)), found
    ref, query = expression
    found = misfit(votes, query, ref)
    return p_values(found, misfit(held_out, ref[cells], ref)), found


def misfit(
    votes: Votes,
    expression: sparse.csr_matrix | None = None,
    ref_expression: sparse.csr_matrix | None = None,
) -> np.ndarray:
    """Dissimilarity of cells to their neighbors, divided by how far these agree on a label.

    Parameters
    ----------
    votes
        Of the cells.
    expression, ref_expression
        Cells × genes and reference cells × the same genes; ``None``: the dissimilarity is the
        mean distance to the neighbors.

    Returns
    -------
    One number per cell, at least 0: (1 − Pearson correlation of the cell's expression with the
    mean of its neighbors) / agreement, or mean distance / agreement, where agreement is the
    largest share of votes.
    """
    agreement = votes.shares.max(axis=1)
    if expression is None or ref_expression is None:
        return votes.distances.mean(axis=1) / agreement
    dissimilarity = np.empty(len(agreement))
    for start in range(0, len(agreement), CHUNK):
        block = slice(start, start + CHUNK)
        average = averaging(votes.neighbors[block], ref_expression.shape[0])
        means = (average @ ref_expression).toarray()
        dissimilarity[block] = 1 - _row_correlation(expression[block].toarray(), means)
    return dissimilarity / agreement


def _row_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson correlation row by row; 0 where a row is constant."""
    first = first - first.mean(axis=1, keepdims=True)
    second = second - second.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    products = (first * second).sum(axis=1)
    return np.divide(products, norm, out=np.zeros(len(norm)), where=norm > 0)


def held_out_neighbors(
    points: np.ndarray, codes: np.ndarray, batch: np.ndarray | None, n_neighbors: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find neighbors of reference cells as if their batch were the query.

    With two batches or more, neighbors come from the *other* batches, as for a query, and cells
    of types that no other batch has are left out, since they would be new there. Otherwise
    neighbors are all other cells, which does not show what a new batch does: a warning is logged.

    Parameters
    ----------
    points
        Reference cells × dimensions.
    codes
        Label code of each cell.
    batch
        Batch of each cell, or ``None``.
    n_neighbors
        Neighbors of each cell.

    Returns
    -------
    Positions of the held-out cells (at most :data:`MAX_HELD_OUT`), and their distances and
    neighbors (held-out cells × neighbors).
    """
    groups = batch_groups(codes, batch)
    if groups is None:
        logger.warning(
            "Held-out reference cells are compared with cells of their own batch, so that more "
            "cells of a new batch than `max_refused` may be refused. Give `batch_key`, with a "
            "reference of two batches or more that share labels."
        )
        cells = _sample(np.arange(len(codes)))
        return cells, *_neighbors_but_self(points, cells, n_neighbors)
    cells = _sample(np.flatnonzero(_in_several_batches(codes, groups)))
    fewest_others = len(codes) - np.bincount(groups).max()
    n_neighbors = min(n_neighbors, int(fewest_others))
    distances = np.empty((len(cells), n_neighbors))
    neighbors = np.empty((len(cells), n_neighbors), dtype=np.intp)
    for group in np.unique(groups[cells]):
        own, others = groups[cells] == group, np.flatnonzero(groups != group)
        knn = NearestNeighbors(n_neighbors=n_neighbors).fit(points[others])
        distances[own], found = knn.kneighbors(points[cells[own]])
        neighbors[own] = others[found]
    return cells, distances, neighbors


def batch_groups(codes: np.ndarray, batch: np.ndarray | None) -> np.ndarray | None:
    """Codes of the batches, or ``None`` if no label is in two batches."""
    if batch is None:
        return None
    groups = np.unique(batch, return_inverse=True)[1]
    return groups if _in_several_batches(codes, groups).any() else None


def _in_several_batches(codes: np.ndarray, groups: np.ndarray) -> np.ndarray:
    pairs = np.unique(np.stack([codes, groups]), axis=1)
    return np.bincount(pairs[0], minlength=codes.max() + 1)[codes] > 1


def _sample(cells: np.ndarray) -> np.ndarray:
    if len(cells) <= MAX_HELD_OUT:
        return cells
    rng = np.random.default_rng(DEFAULT_SEED)
    return np.sort(rng.choice(cells, MAX_HELD_OUT, replace=False))


def _neighbors_but_self(
    points: np.ndarray, cells: np.ndarray, n_neighbors: int
) -> tuple[np.ndarray, np.ndarray]:
    n_neighbors = min(n_neighbors, points.shape[0] - 1)
    knn = NearestNeighbors(n_neighbors=n_neighbors + 1).fit(points)
    distances, neighbors = knn.kneighbors(points[cells])
    is_other = neighbors != cells[:, None]
    # Among many equal points a cell may not find itself: then its last neighbor goes.
    is_other[is_other.all(axis=1), -1] = False
    shape = (len(cells), n_neighbors)
    return distances[is_other].reshape(shape), neighbors[is_other].reshape(shape)


def p_values(scores: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Share of held-out cells that fit no better, each cell counted among them (conformal p-value).

    Parameters
    ----------
    scores
        Misfit of the cells.
    held_out
        Misfit of the held-out cells.

    Returns
    -------
    Values in (0, 1]. Of cells like the held-out ones, at most a share of alpha has a p-value of
    alpha or less (Vovk et al., Algorithmic Learning in a Random World, 2005).
    """
    n_better = np.searchsorted(np.sort(held_out), scores, side="left")
    return (1 + len(held_out) - n_better) / (1 + len(held_out))


def check_max_refused(max_refused: float) -> None:
    """Raise unless the share is in (0, 1)."""
    if not isinstance(max_refused, Real) or not 0 < max_refused < 1:
        msg = f"`max_refused` is a share of cells between 0 and 1, both excluded: {max_refused!r}."
        raise ValueError(msg)


def check_novelty(novelty: str) -> None:
    """Raise unless it is one of the three."""
    if novelty not in get_args(Novelty):
        msg = f"`novelty` must be one of {list(get_args(Novelty))!r}, got {novelty!r}."
        raise ValueError(msg)


def check_held_out(max_refused: float, n_held_out: int) -> None:
    """Raise if there are too few held-out cells for a p-value of ``max_refused``."""
    needed = math.ceil(1 / max_refused) - 1
    if n_held_out < needed:
        msg = (
            f"`max_refused`={max_refused!r} needs at least {needed} held-out reference cells, and "
            f"there are {n_held_out}. Raise `max_refused`, or call no cell unknown: "
            "`label_transfer(unknown=False)`."
        )
        raise ValueError(msg)
