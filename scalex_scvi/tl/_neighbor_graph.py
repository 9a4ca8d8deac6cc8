"""Weights of the graph of nearest neighbors that UMAP and Leiden work on.

McInnes, Healy and Melville, arXiv:1802.03426, section 3.1, as scanpy has them. In numpy they take
less time than the import of umap, most of whose functions numba compiles meanwhile.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

LEAST_WIDTH = 1e-3
"""Smallest width of a neighborhood, of its mean distance: umap's."""

TOLERANCE, MOST_STEPS = 1e-6, 64
"""Of the sum of a cell's weights; each step brings the sum nearer to its target."""


def neighbor_weights(distances: np.ndarray, nearest: np.ndarray) -> sparse.csr_matrix:
    """Weigh the edges between cells and their neighbors.

    The nearest other cell has a weight of 1, and weights fall off with the distance beyond it, such
    that those of a cell have a sum of log2 of the number of neighbors. An edge that two cells have
    from each other has the weight of at least one of two independent events.

    Parameters
    ----------
    distances
        Of each cell's neighbors, itself first: cells × neighbors.
    nearest
        Rows of the neighbors, itself first: cells × neighbors.

    Returns
    -------
    Symmetric weights in (0, 1], cells × cells, float32.
    """
    n_cells, n_neighbors = distances.shape
    positive = np.where(distances > 0, distances, np.inf).min(axis=1)
    first = np.where(np.isfinite(positive), positive, 0)
    beyond = np.maximum(distances[:, 1:] - first[:, None], 0).astype(np.float64)
    least = np.where(first > 0, distances.mean(axis=1), distances.mean())
    rates = 1 / np.maximum(LEAST_WIDTH * least, np.finfo(np.float32).tiny)
    has_room = (beyond == 0).sum(axis=1) < np.log2(n_neighbors)
    found = _rates(beyond[has_room], np.log2(n_neighbors))
    rates[has_room] = np.minimum(rates[has_room], found)
    weights = np.exp(-beyond * rates[:, None]).astype(np.float32)
    ends = np.arange(0, weights.size + 1, n_neighbors - 1)
    directed = sparse.csr_matrix((weights.ravel(), nearest[:, 1:].ravel(), ends), (n_cells,) * 2)
    back = directed.T.tocsr()
    both = directed + back - directed.multiply(back)
    both.eliminate_zeros()
    both.sort_indices()
    return both.tocsr()


def _rates(beyond: np.ndarray, target: float) -> np.ndarray:
    """Find the rate at which each row's ``exp(-rate * beyond)`` have a sum of ``target``.

    The sum is convex and falls with the rate, so that Newton's steps from a rate that is too low
    never go too far.
    """
    rates = np.log(beyond.shape[1] / target) / beyond.max(axis=1, initial=0)
    open_rows = np.arange(len(beyond))
    for _ in range(MOST_STEPS):
        own = beyond[open_rows]
        terms = np.exp(-own * rates[open_rows, None])
        over = terms.sum(axis=1) - target
        rates[open_rows] += over / (own * terms).sum(axis=1)
        open_rows = open_rows[over > TOLERANCE]
        if len(open_rows) == 0:
            break
    return rates
