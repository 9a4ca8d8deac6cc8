"""Where the cells of a map start: at the slowest directions of their neighbor graph."""

from __future__ import annotations

import warnings

import numpy as np
from scipy import sparse
from scipy.linalg import eigh
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import lobpcg
from sklearn.neighbors import NearestNeighbors

from scalex_scvi._core.seeds import random_rows

from ._place_on_map import N_NEIGHBORS

SIDE = 10.0
"""Sides of the square that UMAP starts from."""

NOISE = 1e-4
"""Standard deviation of what UMAP adds to the start, which separates cells at the same place."""

FEW_CELLS = 1_000
"""Up to this many cells, all directions of the graph are found in a fraction of a second."""

MOST_DIMENSIONS = 10
"""Directions that the search for the graph's slowest ones starts with."""

SMALLEST = 1e-8
"""Share of the largest variance below which a dimension is none."""

MOST_STEPS = 40
"""Steps of this search: after them the map is as good as of exact ones."""

LINKED, SHARE_LINKED, LINK = 5_000, 0.1, 0.1
"""Most cells at random that weak edges connect where a graph is in parts, their largest share of
all, and the weight of these edges. Few have neighbors in other parts, many only in their own."""


def start_of_map(
    points: np.ndarray | sparse.spmatrix, graph: sparse.csr_matrix, random_state: int
) -> np.ndarray:
    """Return positions to start from, in a square, as UMAP does.

    These are the two slowest directions of the graph. Of more than 1 000 cells they are searched
    from the principal components of the latent, in steps that do not reach the last digits. Parts
    of the graph that no edge connects lie as they do in the latent.

    Parameters
    ----------
    points
        Cells × dimensions.
    graph
        Symmetric weights of their neighbors, cells × cells.
    random_state
        Seed.

    Returns
    -------
    Cells × 2.
    """
    rng = np.random.default_rng(random_state)
    found = _slowest(points, _in_one_part(points, graph, random_state), rng)
    found *= SIDE / np.abs(found).max()
    found += rng.normal(scale=NOISE, size=found.shape)
    low, high = found.min(axis=0), found.max(axis=0)
    return SIDE * (found - low) / (high - low)


def _in_one_part(
    points: np.ndarray | sparse.spmatrix, graph: sparse.csr_matrix, random_state: int
) -> sparse.csr_matrix:
    """Connect the parts of a graph by weak edges.

    First they are edges between neighbors among some cells at random and one of each part, then,
    while there are parts left, among one of each.
    """
    n_cells = points.shape[0]
    n_parts, part = connected_components(graph, directed=False)
    at_random = random_rows(n_cells, min(LINKED, int(SHARE_LINKED * n_cells)), random_state)
    while n_parts > 1:
        chosen = np.union1d(at_random, np.unique(part, return_index=True)[1])
        graph = graph + _links(points, chosen)
        n_parts, part = connected_components(graph, directed=False)
        at_random = at_random[:0]
    return graph


def _links(points: np.ndarray | sparse.spmatrix, chosen: np.ndarray) -> sparse.csr_matrix:
    """Return weak edges between neighbors among the chosen cells."""
    n_neighbors = min(N_NEIGHBORS, len(chosen) - 1)
    near = NearestNeighbors(n_neighbors=n_neighbors).fit(points[chosen]).kneighbors_graph().tocoo()
    pairs = chosen[near.row], chosen[near.col]
    links = sparse.csr_matrix((np.full(near.nnz, LINK), pairs), (points.shape[0],) * 2)
    return links.maximum(links.T)


def _slowest(
    points: np.ndarray | sparse.spmatrix, graph: sparse.csr_matrix, rng: np.random.Generator
) -> np.ndarray:
    """Return the second and third eigenvector of a connected graph, whose first is known."""
    root = np.sqrt(np.asarray(graph.sum(axis=1), dtype=np.float64).ravel())
    inverse = sparse.diags(1 / root)
    normalized = (inverse @ graph.astype(np.float64) @ inverse).tocsr()
    if len(root) <= FEW_CELLS:
        places = len(root) - 3, len(root) - 2
        return eigh(normalized.toarray(), subset_by_index=places)[1][:, ::-1]
    guess = rng.normal(size=(len(root), MOST_DIMENSIONS))
    if not sparse.issparse(points):
        components = _components(np.asarray(points))
        guess[:, : components.shape[1]] = components * root[:, None]
    with warnings.catch_warnings():  # it says that it did not find the last digits
        warnings.simplefilter("ignore", UserWarning)
        values, vectors = lobpcg(
            normalized,
            guess,
            Y=(root / np.linalg.norm(root))[:, None],
            tol=1e-4,
            maxiter=MOST_STEPS,
            largest=True,
        )
    return vectors[:, np.argsort(-values)[:2]]


def _components(points: np.ndarray) -> np.ndarray:
    """Principal components, at most ten, of the dimensions that cells differ in."""
    centered = points - points.mean(axis=0, dtype=np.float64)
    variances, axes = np.linalg.eigh(centered.T @ centered)
    return centered @ axes[:, variances > SMALLEST * variances[-1]][:, -MOST_DIMENSIONS:]
