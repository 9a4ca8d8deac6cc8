"""The graph of a cell's neighbors, by scanpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from ._nearest import nearest_among

MANY_CELLS = 8_192
"""Cells from which on scanpy searches by pynndescent, for which numba compiles many seconds in each
process, instead of comparing all with all."""

MOST_PRODUCTS = 400_000_000_000
"""Cells times cells times dimensions up to which all nearest are found here: 200 000 cells of ten
dimensions. pynndescent finds nearly all of still more in less time."""


def add_neighbors(adata: AnnData, *, use_rep: str, n_neighbors: int, random_state: int) -> None:
    """Add the graph that ``scanpy.pp.neighbors`` adds.

    Of many cells, scanpy's search is approximate, and starts slowly. Here they get the graph that
    few get: of the nearest cells.

    Parameters
    ----------
    adata
        Cells with ``obsm[use_rep]``.
    use_rep, n_neighbors, random_state
        See :func:`scanpy.pp.neighbors`.
    """
    points = adata.obsm[use_rep]
    is_own = (
        adata.n_obs >= MANY_CELLS
        and adata.n_obs**2 * points.shape[1] <= MOST_PRODUCTS
        and not sparse.issparse(points)
    )
    sc.pp.neighbors(
        adata,
        use_rep=use_rep,
        n_neighbors=n_neighbors,
        random_state=random_state,
        transformer=_Search(n_neighbors) if is_own else None,
    )


class _Search:
    """What scanpy takes for a search of its neighbors."""

    def __init__(self, n_neighbors: int) -> None:
        self.params = {"n_neighbors": n_neighbors}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters of the search."""
        return self.params

    def fit_transform(self, x: np.ndarray, y: None = None) -> sparse.csr_matrix:
        """Return the distances of each cell's neighbors, itself first: cells × cells, sparse."""
        distances, nearest = nearest_among(x, self.params["n_neighbors"])
        own = np.arange(len(nearest))[:, None]
        lost = (nearest != own).all(axis=1)  # among more equal cells than there are neighbors
        nearest[lost, -1] = own[lost, 0]
        order = np.argsort(nearest != own, axis=1, kind="stable")
        nearest = np.take_along_axis(nearest, order, axis=1)
        distances = np.take_along_axis(distances, order, axis=1).astype(np.float32)
        distances[:, 0] = 0
        ends = np.arange(0, nearest.size + 1, nearest.shape[1])
        shape = (len(nearest), len(nearest))
        return sparse.csr_matrix((distances.ravel(), nearest.ravel(), ends), shape)
