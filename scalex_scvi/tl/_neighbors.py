"""The graph of a cell's neighbors, by scanpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

MANY_CELLS = 8_192
"""Cells from which on scanpy searches by pynndescent instead of comparing all with all."""

EXACT_PRODUCTS = 25_000_000_000
"""Cells times cells times dimensions up to which all are compared here, and their nearest kept:
50 000 cells of ten dimensions take six seconds on one core. For pynndescent numba compiles seven
seconds in each process, before it searches."""


def add_neighbors(adata: AnnData, *, use_rep: str, n_neighbors: int, random_state: int) -> None:
    """Add the graph that ``scanpy.pp.neighbors`` adds.

    Of many cells all are compared here, too, as long as this is faster than pynndescent. Of still
    more, scanpy also lets pynndescent prepare the search for the neighbors of further cells, which
    no graph needs: numba compiles for it, longer than all else takes of ten thousand cells. It is
    left out here.

    Parameters
    ----------
    adata
        Cells with ``obsm[use_rep]``.
    use_rep, n_neighbors, random_state
        See :func:`scanpy.pp.neighbors`.
    """
    n_products = adata.n_obs**2 * adata.obsm[use_rep].shape[1]
    search: _Search | _Comparison | None = None
    if adata.n_obs >= MANY_CELLS:
        is_exact = n_products <= EXACT_PRODUCTS
        search = (
            _Comparison(n_neighbors)
            if is_exact
            else _Search(n_neighbors, random_state, adata.n_obs)
        )
    sc.pp.neighbors(
        adata,
        use_rep=use_rep,
        n_neighbors=n_neighbors,
        random_state=random_state,
        transformer=search,
    )


class _Comparison:
    """All cells compared with all."""

    def __init__(self, n_neighbors: int) -> None:
        self.params = {"n_neighbors": n_neighbors}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters of the search."""
        return self.params

    def fit_transform(self, x: np.ndarray, y: None = None) -> sparse.csr_matrix:
        """Return the distances of each cell's neighbors, itself first: cells × cells, sparse."""
        n_cells, n_neighbors = x.shape[0], self.params["n_neighbors"]
        search = NearestNeighbors(n_neighbors=n_neighbors - 1, algorithm="brute").fit(x)
        distances, nearest = search.kneighbors()
        distances = np.insert(distances, 0, 0.0, axis=1).astype(np.float32)
        nearest = np.insert(nearest, 0, np.arange(n_cells), axis=1)
        ends = np.arange(0, nearest.size + 1, n_neighbors)
        return sparse.csr_matrix((distances.ravel(), nearest.ravel(), ends), (n_cells, n_cells))


class _Search:
    """What scanpy has pynndescent do to find the neighbors of the cells of a graph."""

    def __init__(self, n_neighbors: int, random_state: int, n_obs: int) -> None:
        # As scanpy chooses them, after umap.
        self.params = {
            "n_neighbors": n_neighbors,
            "random_state": random_state,
            "n_jobs": sc.settings.n_jobs,
            "n_trees": min(64, 5 + round(n_obs**0.5 / 20)),
            "n_iters": max(5, round(np.log2(n_obs))),
        }

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters of the search."""
        return self.params

    def fit_transform(self, x: np.ndarray, y: None = None) -> Any:
        """Return the distances of each cell's neighbors: cells × cells, sparse."""
        from pynndescent import PyNNDescentTransformer

        search = PyNNDescentTransformer(**self.params)
        return search.fit(x, compress_index=False).transform(None)
