"""The nearest cells of a reference, exact or, of many, approximate."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_array

from scalex_scvi._core.compiled import keep_compiled
from scalex_scvi._core.seeds import DEFAULT_SEED

EXACT_PAIRS = 2_000_000_000
"""Cells times reference cells up to which all are compared: on one core this takes about as long
(half a minute) as numba compiles the approximate search for, in each process."""

BLOCK = 65_536
"""Cells that are searched for at a time: what is found for a million takes 240 MB."""

EPSILON = 0.2
"""How far beyond the nearest found so far pynndescent goes on searching. With all edges of its
graph (``diversify_prob=0``) it finds 0.99 of the nearest cells of latents; by its defaults, 0.1 and
few edges, 0.93 to 0.95, in little less time."""

_Find = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def nearest_in_blocks(
    reference: np.ndarray, cells: np.ndarray, n_neighbors: int
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Find the nearest reference cells of each cell, block by block.

    Parameters
    ----------
    reference, cells
        Cells × dimensions.
    n_neighbors
        How many to find; at most all.

    Yields
    ------
    Rows of ``cells``; the distances of their nearest reference cells, the nearest first; and the
    rows of these in ``reference``.

    Raises
    ------
    ValueError
        If dimensions differ, or a value is not finite.
    """
    exact = NearestNeighbors(n_neighbors=n_neighbors).fit(reference)
    find: _Find = exact.kneighbors
    if len(reference) * len(cells) > EXACT_PAIRS:
        find = _approximate(reference, n_neighbors, exact)
    for start in range(0, len(cells), BLOCK):
        rows = slice(start, start + BLOCK)
        distances, nearest = find(cells[rows])
        yield rows, distances, nearest


def _approximate(reference: np.ndarray, n_neighbors: int, exact: NearestNeighbors) -> _Find:
    keep_compiled()
    from pynndescent import NNDescent  # slow to import

    index = NNDescent(
        reference, n_neighbors=n_neighbors, diversify_prob=0.0, random_state=DEFAULT_SEED
    )

    def find(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        check_array(cells, input_name="cells")
        if cells.shape[1] != reference.shape[1]:
            msg = (
                f"Cells have {cells.shape[1]} dimensions, those of the reference "
                f"{reference.shape[1]}: both must be of the same latent space."
            )
            raise ValueError(msg)
        nearest, distances = index.query(cells, k=n_neighbors, epsilon=EPSILON)
        lost = (nearest < 0).any(axis=1)  # it reached fewer: a small group far from all others
        if lost.any():
            nearest = nearest.astype(np.intp)
            distances[lost], nearest[lost] = exact.kneighbors(cells[lost])
        return distances, nearest

    return find
