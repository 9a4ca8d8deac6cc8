"""Cells that a user chooses by `indices`."""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np


def chosen_cells(indices: Any, n_cells: int, name: str = "indices") -> np.ndarray:
    """Return the numbers of the cells that ``indices`` names, none of them negative.

    Parameters
    ----------
    indices
        Numbers, which may repeat and count from the end if negative, or a mask of all cells;
        ``None``: all.
    n_cells
        How many cells there are.
    name
        Of the argument, for messages.

    Raises
    ------
    IndexError
        If it is neither, or a number is out of range.
    ValueError
        If no cell is chosen.
    """
    cells = np.arange(n_cells)
    if indices is None:
        return cells
    try:
        chosen = np.asarray(indices)
    except ValueError:  # rows of different lengths
        chosen = np.empty((1, 1))
    if chosen.dtype == object and chosen.ndim == 1:  # pandas' own numbers and masks
        chosen = np.asarray(chosen.tolist())
    shown = reprlib.repr(indices.tolist() if hasattr(indices, "tolist") else indices)
    if not chosen.size or (chosen.dtype == bool and not chosen.any()):
        msg = f"`{name}` is {shown}: there are no cells. Give at least one."
        raise ValueError(msg)
    try:
        if chosen.ndim == 1:
            return cells[chosen]
        reason = f"it has {chosen.ndim} dimensions instead of one"
    except IndexError as error:
        reason = str(error)
    msg = (
        f"`{name}` is {shown}; allowed are whole numbers below {n_cells}, the "
        f"number of cells, or a mask of that length ({reason}). For names: "
        "`adata.obs_names.get_indexer(names)`."
    )
    raise IndexError(msg)
