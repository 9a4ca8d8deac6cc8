"""Averages of cells with their like in their own batch: a cell is noise, types come in groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ._components import principal_directions
from ._nearest import nearest_among

N_NEIGHBORS = 15
"""Cells of its own batch, itself included, that a cell is averaged with."""

CELLS_PER_NEIGHBOR = 10
"""Cells that a batch has for each: a neighborhood in a smaller batch would be of several types."""

N_OWN_COMPONENTS = 20
"""Components of the batch's own expression that neighbors are found in."""


def n_neighbors_of(n_cells: int) -> int:
    """Cells that the cells of a batch are averaged with, by its size."""
    return min(N_NEIGHBORS, max(n_cells // CELLS_PER_NEIGHBOR, 1))


@dataclass(frozen=True, eq=False)
class Neighbors:
    """Cells of one batch of a query, and the nearest ones of each among them.

    Attributes
    ----------
    cells
        Positions of the batch's cells in the query.
    nearest
        Cells of the batch × neighbors: positions in ``cells``, each cell's own first.
    """

    cells: np.ndarray
    nearest: np.ndarray


def neighbors_by_batch(x: sparse.csr_matrix, batch: np.ndarray) -> list[Neighbors]:
    """Find the neighbors of each cell within its own batch.

    Parameters
    ----------
    x
        Cells × genes, normalized.
    batch
        Batch code of each cell.

    Returns
    -------
    One for each batch, by its code. A cell of a small batch has fewer neighbors, see
    :func:`n_neighbors_of`.
    """
    found = []
    for code in np.unique(batch):
        cells = np.flatnonzero(batch == code)
        own = x if len(cells) == x.shape[0] else x[cells]
        found.append(Neighbors(cells, nearest_cells(own, n_neighbors_of(len(cells)))))
    return found


def nearest_cells(x: sparse.csr_matrix, n_neighbors: int) -> np.ndarray:
    """Nearest cells of each cell in the batch's own components, the nearest first.

    Parameters
    ----------
    x
        Cells × genes of one batch, normalized.
    n_neighbors
        How many to find, the cell itself included; at most all.

    Returns
    -------
    Cells × neighbors: positions.
    """
    n_cells = x.shape[0]
    n_components = min(N_OWN_COMPONENTS, n_cells // 2, x.shape[1] - 1)
    if n_components < 1:  # one cell, or one gene
        points = x.toarray()
    else:
        points = np.asarray(x @ principal_directions(x, n_components)[1])
    return nearest_among(points, min(n_neighbors, n_cells))[1]


def averaging(neighbors: np.ndarray, n_candidates: int) -> sparse.csr_matrix:
    """Return the matrix whose product with expression is the mean over each cell's neighbors.

    Parameters
    ----------
    neighbors
        Cells × neighbors: positions among the candidates.
    n_candidates
        Number of cells that neighbors are found among.

    Returns
    -------
    Cells × candidates; rows sum to 1.
    """
    n_cells, n_neighbors = neighbors.shape
    starts = np.arange(0, neighbors.size + 1, n_neighbors)
    weights = np.full(neighbors.size, 1 / n_neighbors, dtype=np.float32)
    return sparse.csr_matrix((weights, neighbors.ravel(), starts), (n_cells, n_candidates))
