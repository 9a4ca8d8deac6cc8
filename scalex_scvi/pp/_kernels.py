"""Compiled loops over blocks of cells. Imported only where many cells are worked on.

Each does what a function of NumPy and SciPy does beside it, in the same order and precision, so
that the results are the same bit for bit: logarithms are left to NumPy. All of them release the
interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import boolean, float32, float64, int32, int64, types, void

from scalex_scvi._core.compiled import compiled


def _read(kind: Any) -> Any:
    """Type of a vector that is only read, which may be one that nobody may write into."""
    return types.Array(kind, 1, "C", readonly=True)


def _compiled(*arguments: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Compile a function for these types of arguments, which returns nothing."""
    return compiled(void(*arguments))


_CSR = types.Tuple((_read(float32), _read(int32), _read(int32)))
"""Values, columns, and where rows end: SciPy's ``data``, ``indices`` and ``indptr``."""

Arrays = tuple[np.ndarray, ...]


@_compiled(
    _CSR,
    _read(boolean),
    _read(float64),
    int64,
    types.Tuple((int32[::1], int32[::1], float64[::1], float64[::1], boolean[::1])),
    types.Tuple((int64[::1], int64[::1], float64[::1])),
)
def tally(
    csr: Arrays, own: np.ndarray, counted: np.ndarray, least: int, of_cells: Arrays, of_all: Arrays
) -> None:
    """Find what is to be known of the values of each cell; zeros that are stored are left out.

    ``of_cells`` are filled: how many values each has, how many of them in the columns ``own``,
    their total over those ``counted`` (1, else 0), the largest, and whether any is fractional.
    ``of_all``, too: of each column, the cells with ``least`` or more in the columns ``own`` that
    have it; how many values there are, and how many not finite; the smallest and the largest.
    """
    data, indices, indptr = csr
    filled, detected, total, largest, fractional = of_cells
    n_cells, numbers, ends = of_all
    ends[0], ends[1] = np.inf, -np.inf
    for row in range(len(detected)):
        first, last = indptr[row], indptr[row + 1]
        n_values, n_broken, n_not_finite = 0, 0, 0
        least_value, most = np.float32(np.inf), np.float32(-np.inf)
        for k in range(first, last):  # without a branch, so that it is done for many at once
            value = data[k]
            n_values += value != 0
            n_broken += value != np.rint(value)
            n_not_finite += not (value - value == 0)
            least_value = value if value != 0 and value < least_value else least_value
            most = value if value != 0 and value > most else most
        found, added = 0, 0.0
        for k in range(first, last):
            column, value = indices[k], data[k]
            found += own[column] and value != 0
            added += value * counted[column]
        if found >= least:
            for k in range(first, last):
                n_cells[indices[k]] += data[k] != 0
        filled[row], detected[row], total[row] = n_values, found, added
        largest[row], fractional[row] = most, n_broken > 0
        numbers[0] += n_values
        numbers[1] += n_not_finite
        ends[0], ends[1] = min(ends[0], least_value), max(ends[1], most)


@_compiled(
    _CSR,
    _read(int64),
    _read(int32),
    _read(float32),
    types.Tuple((float32[::1], int32[::1], int32[::1])),
)
def pick(
    csr: Arrays, rows: np.ndarray, places: np.ndarray, divisor: np.ndarray, picked: Arrays
) -> None:
    """Take some columns of some rows, divided by a number of each row, without stored zeros.

    ``places`` says of each column where it goes, -1 for nowhere. ``picked`` is filled: values,
    columns, and where rows end.
    """
    data, indices, indptr = csr
    values, columns, ends = picked
    n_values = 0
    ends[0] = 0
    for number in range(len(rows)):
        row, by = rows[number], divisor[number]
        for k in range(indptr[row], indptr[row + 1]):
            place = places[indices[k]]
            if place >= 0 and data[k] != 0:
                values[n_values] = data[k] / by
                columns[n_values] = place
                n_values += 1
        ends[number + 1] = n_values


@_compiled(_CSR, _read(float32), _read(int64), _read(int64), float64[:, :, ::1])
def add_up(
    csr: Arrays, amounts: np.ndarray, order: np.ndarray, group: np.ndarray, sums: np.ndarray
) -> None:
    """Add up over cells, for each group and column: number, amounts, their squares; and maxima.

    Cells are taken in ``order``; ``group`` is that of each. Maxima are those of the values, beside
    which ``amounts`` lie. ``sums`` is groups × columns × 4, so that what belongs together lies
    together.
    """
    data, indices, indptr = csr
    for row in order:
        of_group = sums[group[row]]
        for k in range(indptr[row], indptr[row + 1]):
            entry = of_group[indices[k]]
            amount = amounts[k]
            entry[0] += 1
            entry[1] += amount
            entry[2] += amount * amount
            entry[3] = max(entry[3], data[k])
