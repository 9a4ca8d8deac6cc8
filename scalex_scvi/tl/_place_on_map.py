"""Positions of new cells on an existing map."""

from __future__ import annotations

import numpy as np

from ._nearest import nearest_in_blocks
from ._points import as_points

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

    Raises
    ------
    TypeError, ValueError
        For arrays that do not fit each other, and for values that are no numbers, NaN or infinite.

    Examples
    --------
    >>> import numpy as np
    >>> from scalex_scvi.tl import place_on_map
    >>> latent = np.eye(3)
    >>> place_on_map(latent, np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), latent[:1])
    array([[0., 0.]], dtype=float32)
    """
    ref_latent = as_points(ref_latent, name="ref_latent")
    ref_map = as_points(ref_map, name="ref_map")
    query_latent = as_points(query_latent, name="query_latent")
    _check_fit(ref_latent, ref_map, query_latent)
    positions = np.empty((len(query_latent), ref_map.shape[1]), dtype=np.float32)
    n_neighbors = min(N_NEIGHBORS, len(ref_latent))
    for rows, *found in nearest_in_blocks(ref_latent, query_latent, n_neighbors):
        positions[rows] = mean_positions(ref_map, *found)
    return positions


def _check_fit(ref_latent: np.ndarray, ref_map: np.ndarray, query_latent: np.ndarray) -> None:
    if len(ref_latent) != len(ref_map):
        msg = (
            f"`ref_latent` has {len(ref_latent)} cells, `ref_map` {len(ref_map)}: both must be of "
            "the same cells, in the same order."
        )
        raise ValueError(msg)
    if ref_latent.shape[1] != query_latent.shape[1]:
        msg = (
            f"`ref_latent` has {ref_latent.shape[1]} dimensions, `query_latent` "
            f"{query_latent.shape[1]}: both must come from the same model."
        )
        raise ValueError(msg)


def mean_positions(ref_map: np.ndarray, distances: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Average positions over the nearest cells, weighted by the inverse of their distances.

    Parameters
    ----------
    ref_map
        Positions of the reference cells, cells × 2.
    distances, nearest
        Cells × neighbors: distances of the nearest reference cells, and their rows. Where one is
        zero, only those at no distance count.

    Returns
    -------
    Positions, cells × 2.
    """
    with np.errstate(divide="ignore"):
        weights = 1.0 / distances
    same = np.isinf(weights)
    met = same.any(axis=1)
    weights[met] = same[met]
    total = weights.sum(axis=1)
    return np.stack([(axis[nearest] * weights).sum(axis=1) / total for axis in ref_map.T], axis=1)
