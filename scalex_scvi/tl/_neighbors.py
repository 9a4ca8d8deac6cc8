"""The graph of a cell's neighbors, by scanpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import scanpy as sc
from anndata import AnnData

MANY_CELLS = 8_192
"""Cells from which on scanpy searches by pynndescent instead of comparing all with all."""


def add_neighbors(adata: AnnData, *, use_rep: str, n_neighbors: int, random_state: int) -> None:
    """Add the graph that ``scanpy.pp.neighbors`` adds.

    Of many cells scanpy also lets pynndescent prepare the search for the neighbors of further
    cells, which no graph needs: numba compiles for it, longer than all else takes of ten thousand
    cells. It is left out here.

    Parameters
    ----------
    adata
        Cells with ``obsm[use_rep]``.
    use_rep, n_neighbors, random_state
        See :func:`scanpy.pp.neighbors`.
    """
    transformer = _Search(n_neighbors, random_state, adata.n_obs)
    sc.pp.neighbors(
        adata,
        use_rep=use_rep,
        n_neighbors=n_neighbors,
        random_state=random_state,
        transformer=transformer if adata.n_obs >= MANY_CELLS else None,
    )


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
