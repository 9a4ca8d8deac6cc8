"""UMAP of cells whose neighbors are known, by a compiled loop of our own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from anndata import AnnData
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import lobpcg
from sklearn.neighbors import NearestNeighbors

from scalex_scvi._core.keys import UMAP_KEY
from scalex_scvi._core.seeds import random_rows

from ._place_on_map import N_NEIGHBORS

SPREAD, MIN_DIST = 1.0, 0.5
"""Scanpy's defaults."""

EPOCHS, EPOCHS_OF_FEW, FEW_CELLS = 200, 500, 10_000
"""Scanpy's defaults, up to so many cells and of more."""

SIDE = 10.0
"""Sides of the square that UMAP starts from."""

NOISE = 1e-4
"""Standard deviation of what UMAP adds to the start, which separates cells at the same place."""

MOST_DIMENSIONS = 10
"""Principal components that the search for the graph's slowest directions starts at."""

SMALLEST = 1e-8
"""Share of the largest variance below which a dimension is none."""

MOST_STEPS = 40
"""Steps of this search: after them the map is as good as of exact ones."""

MANY_CELLS = 5_000
"""Cells above which umap's own search for the start, of all its digits, takes longer than ours."""

LINKED, SHARE_LINKED, LINK = 5_000, 0.1, 0.1
"""Most cells at random that weak edges connect where a graph is in parts, their largest share of
all, and the weight of these edges. Few have neighbors in other parts, many only in their own."""


def add_map(
    adata: AnnData,
    *,
    use_rep: str,
    random_state: int,
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    """Add ``obsm["X_umap"]``, and to ``uns`` what ``scanpy.tl.umap`` adds.

    UMAP's own steps are taken, with two shorter ways: the forces are looked up
    (:func:`scalex_scvi.tl._layout.lay_out`), and of more than 5 000 cells the spectral start is
    found from the cells' principal components, not from nothing, and without the last digits.
    The map is another one than scanpy's, as by another seed.

    Parameters
    ----------
    adata
        Cells with ``obsm[use_rep]`` and their neighbors by it.
    use_rep
        Key in ``obsm``.
    random_state
        Seed.
    meanwhile
        What is done while the steps are taken, which one core does. It must leave the latent and
        the graph as they are.
    """
    from umap.umap_ import find_ab_params

    from ._layout import lay_out

    curve = find_ab_params(SPREAD, MIN_DIST)
    epochs = EPOCHS_OF_FEW if adata.n_obs <= FEW_CELLS else EPOCHS
    graph = adata.obsp["connectivities"].tocsr(copy=True)
    graph.data[graph.data < graph.data.max() / epochs] = 0  # never taken
    graph.eliminate_zeros()
    start = _start(adata.obsm[use_rep], graph, random_state)
    how = {"curve": curve, "epochs": epochs, "seed": random_state, "stop": np.zeros(1, dtype=bool)}
    with ThreadPoolExecutor(1) as second:
        laid_out = second.submit(lay_out, graph, start, **how)
        try:
            meanwhile()
            adata.obsm[UMAP_KEY] = laid_out.result()
        finally:
            how["stop"][0] = True  # where what is done meanwhile fails, or is interrupted
    params = dict(zip("ab", curve, strict=True))
    if random_state != 0:
        params["random_state"] = random_state
    adata.uns["umap"] = {"params": params}


def _start(points: np.ndarray, graph: sparse.csr_matrix, random_state: int) -> np.ndarray:
    """Return positions to start from, cells × 2, in a square."""
    rng = np.random.default_rng(random_state)
    found = _spectral(points, graph, random_state)
    found *= SIDE / np.abs(found).max()
    found += rng.normal(scale=NOISE, size=found.shape)
    low, high = found.min(axis=0), found.max(axis=0)
    return SIDE * (found - low) / (high - low)


def _spectral(points: np.ndarray, graph: sparse.csr_matrix, random_state: int) -> np.ndarray:
    """Return the two slowest directions of a graph; its parts lie as they do in the latent."""
    if points.shape[0] > MANY_CELLS and not sparse.issparse(points) and points.shape[1] > 2:
        points = np.asarray(points)
        n_parts, part = connected_components(graph, directed=False)
        if n_parts > 1:
            graph = graph + _links(points, part, random_state)
            n_parts = connected_components(graph, directed=False, return_labels=False)
        found = _slowest(points, graph) if n_parts == 1 else None
        if found is not None:
            return found
    from umap.spectral import spectral_layout

    random = np.random.RandomState(random_state)
    return np.asarray(spectral_layout(points, graph.tocoo(), 2, random), dtype=np.float64)


def _links(points: np.ndarray, part: np.ndarray, random_state: int) -> sparse.csr_matrix:
    """Return weak edges between neighbors among some cells at random and one of each part."""
    _, first = np.unique(part, return_index=True)
    n_linked = min(LINKED, int(SHARE_LINKED * len(points)))
    chosen = np.union1d(random_rows(len(points), n_linked, random_state), first)
    search = NearestNeighbors(n_neighbors=N_NEIGHBORS).fit(points[chosen])
    near = search.kneighbors_graph().tocoo()
    pairs = chosen[near.row], chosen[near.col]
    links = sparse.csr_matrix((np.full(near.nnz, LINK), pairs), (len(points), len(points)))
    return links.maximum(links.T)


def _slowest(points: np.ndarray, graph: sparse.csr_matrix) -> np.ndarray | None:
    """Return the second and third eigenvector of a connected graph, whose first is known.

    ``None``: cells differ in fewer than two dimensions, so that there is nothing to start from.
    """
    root = np.sqrt(np.asarray(graph.sum(axis=1), dtype=np.float64).ravel())
    inverse = sparse.diags(1 / root)
    normalized = (inverse @ graph.astype(np.float64) @ inverse).tocsr()
    centered = points - points.mean(axis=0, dtype=np.float64)
    variances, axes = np.linalg.eigh(centered.T @ centered)
    axes = axes[:, variances > SMALLEST * variances[-1]][:, -MOST_DIMENSIONS:]
    if axes.shape[1] < 2:
        return None
    guess = (centered @ axes) * root[:, None]
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
