"""The nearest cells of a reference, all of them: nothing is approximate."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_array

FEW_PAIRS = 100_000_000
"""Cells times reference cells up to which scikit-learn takes less than half a second."""

BLOCK = 65_536
"""Cells that are searched for at a time: what is found for a million takes 240 MB."""


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
    reference = check_array(reference, input_name="reference")
    cells = check_array(cells, input_name="cells")
    if cells.shape[1] != reference.shape[1]:
        msg = (
            f"Cells have {cells.shape[1]} dimensions, those of the reference "
            f"{reference.shape[1]}: both must be of the same latent space."
        )
        raise ValueError(msg)
    if len(reference) * len(cells) <= FEW_PAIRS:
        find = NearestNeighbors(n_neighbors=n_neighbors).fit(reference).kneighbors
    else:
        from ._nearest_of_many import NearestOfMany

        find = NearestOfMany(reference, n_neighbors).find
    for start in range(0, len(cells), BLOCK):
        rows = slice(start, start + BLOCK)
        yield rows, *find(cells[rows])


def nearest_among(points: np.ndarray, n_neighbors: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest of some cells of each of them.

    Parameters
    ----------
    points
        Cells × dimensions.
    n_neighbors
        How many to find, the cell itself included; at most all.

    Returns
    -------
    Distances, the nearest first, and rows: cells × neighbors. Among equal cells, a cell itself may
    not be the first, and of more than ``n_neighbors`` be missing.
    """
    found = list(nearest_in_blocks(points, points, n_neighbors))
    return np.concatenate([each[1] for each in found]), np.concatenate([each[2] for each in found])
