"""New cells on a map that does not move."""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import KNeighborsRegressor

N_NEIGHBORS = 15
"""Neighbors that place a cell: as many as draw the map, by scanpy's default."""


def place_on_map(
    ref_latent: np.ndarray, ref_map: np.ndarray, query_latent: np.ndarray
) -> np.ndarray:
    """Place new cells on the reference's map, of which nothing moves.

    A cell lies at the mean of its 15 nearest reference cells in the latent space, weighted by the
    inverse of their distances. A cell unlike any of them lies among them all the same.

    Parameters
    ----------
    ref_latent
        Latent of the reference, cells × latent dimensions.
    ref_map
        Its map, cells × 2.
    query_latent
        Latent of the new cells, in the same space.

    Returns
    -------
    New cells × 2, float32.

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
