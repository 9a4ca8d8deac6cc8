"""Positions of new cells on an existing map."""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import KNeighborsRegressor

N_NEIGHBORS = 15
"""Nearest reference cells that a position is averaged over: scanpy's default for UMAP."""


def place_on_map(
    ref_latent: np.ndarray, ref_map: np.ndarray, query_latent: np.ndarray
) -> np.ndarray:
    """Place new cells on the map of a reference, whose own cells keep their positions.

    The position of a cell is the mean of those of its 15 nearest reference cells in the latent
    space, weighted by the inverse of their distances. So a cell of a new type is placed among known
    types: the map does not show that it is new.

    Parameters
    ----------
    ref_latent
        Latent of the reference, cells × latent dimensions.
    ref_map
        Positions of the reference cells, cells × 2.
    query_latent
        Latent of the new cells, in the same space.

    Returns
    -------
    Positions, new cells × 2, float32.

    Examples
    --------
    >>> import numpy as np
    >>> from scalex_scvi.tl import place_on_map
    >>> latent = np.eye(3)
    >>> place_on_map(latent, np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), latent[:1])
    array([[0., 0.]], dtype=float32)
    """
    n_neighbors = min(N_NEIGHBORS, len(ref_latent))
    by_neighbors = KNeighborsRegressor(n_neighbors, weights="distance")
    return by_neighbors.fit(ref_latent, ref_map).predict(query_latent).astype(np.float32)
