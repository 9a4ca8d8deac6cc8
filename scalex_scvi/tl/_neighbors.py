"""The graph of a cell's neighbors, as scanpy has it."""

from __future__ import annotations

import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from ._nearest import nearest_among
from ._neighbor_graph import neighbor_weights

MOST_PRODUCTS = 400_000_000_000
"""Cells times cells times dimensions up to which all nearest are found here: 200 000 cells of ten
dimensions. pynndescent finds nearly all of still more in less time."""


def add_neighbors(adata: AnnData, *, use_rep: str, n_neighbors: int, random_state: int) -> None:
    """Add the graph that ``scanpy.pp.neighbors`` adds.

    Of many cells, scanpy's search is approximate, and of any number it begins with the import of
    umap, for which numba compiles half a minute the first time. Here all nearest are found.

    Parameters
    ----------
    adata
        Cells with ``obsm[use_rep]``.
    use_rep, n_neighbors, random_state
        See :func:`scanpy.pp.neighbors`.
    """
    points = adata.obsm[use_rep]
    if sparse.issparse(points) or adata.n_obs**2 * points.shape[1] > MOST_PRODUCTS:
        sc.pp.neighbors(adata, use_rep=use_rep, n_neighbors=n_neighbors, random_state=random_state)
        return
    distances, nearest = _itself_first(*nearest_among(points, n_neighbors))
    ends = np.arange(0, distances[:, 1:].size + 1, n_neighbors - 1)
    adata.obsp["distances"] = sparse.csr_matrix(
        (distances[:, 1:].ravel(), nearest[:, 1:].ravel(), ends), (adata.n_obs, adata.n_obs)
    )
    adata.obsp["connectivities"] = neighbor_weights(distances, nearest)
    adata.uns["neighbors"] = {
        "connectivities_key": "connectivities",
        "distances_key": "distances",
        "params": {
            "n_neighbors": n_neighbors,
            "method": "umap",
            "random_state": random_state,
            "metric": "euclidean",
            "use_rep": use_rep,
        },
    }


def _itself_first(distances: np.ndarray, nearest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put each cell before its neighbors; of equal cells another one may be the first."""
    own = np.arange(len(nearest))[:, None]
    lost = (nearest != own).all(axis=1)  # among more equal cells than there are neighbors
    nearest[lost, -1] = own[lost, 0]
    order = np.argsort(nearest != own, axis=1, kind="stable")
    nearest = np.take_along_axis(nearest, order, axis=1)
    distances = np.take_along_axis(distances, order, axis=1)
    distances[:, 0] = 0
    return distances, nearest
