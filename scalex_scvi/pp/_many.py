"""Compiled loops for many cells: the results of the NumPy functions, in a fifth of the time.

Compiling them takes two seconds, and loading them from the cache half a second. For small data that
would be most of the time, so the first values that a process works on go through NumPy and SciPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from scalex_scvi._core.matrices import to_shared_csr

from ._columns import Columns
from ._sums import BatchMoments, GeneSums
from ._values import BatchValues, ValueSummary

VALUES_BEFORE = 2.5e7
"""Values other than zero that a process works on before it compiles: some 30 000 cells, or a
second and a half."""


@dataclass
class Worked:
    """How many values this process has worked on."""

    n_values: int = 0


_worked = Worked()


def worth_compiling(block: Any) -> bool:
    """Whether a block, sparse, is to be worked on by compiled loops; counts its values."""
    if not sparse.issparse(block):
        return False
    _worked.n_values += block.nnz  # two threads may forget a block of each other's
    return _worked.n_values > VALUES_BEFORE and block.nnz < np.iinfo(np.int32).max


@dataclass(frozen=True)
class CellTally:
    """What is known of the values of a block of cells.

    Attributes
    ----------
    values, by_batch
        Of the block, and of each batch in it.
    filled
        Of each cell, how many values are not zero.
    detected
        How many of these lie in the columns that were asked for.
    total
        Of each cell, over the counted columns.
    n_cells
        Of each column, among the cells with enough detected columns.
    """

    values: ValueSummary
    by_batch: BatchValues
    filled: np.ndarray
    detected: np.ndarray
    total: np.ndarray
    n_cells: np.ndarray


def narrow(block: sparse.spmatrix) -> sparse.csr_matrix:
    """Return a block as the compiled loops take it: float32 with 32-bit indices, all in bounds.

    Raises
    ------
    ValueError
        If column numbers or row ends are out of bounds.
    """
    csr = sparse.csr_matrix(block)
    csr.check_format(full_check=True)  # first of all: SciPy's own loops do not look either
    return to_shared_csr(csr, name="The matrix")


def _parts(csr: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.ascontiguousarray(csr.data),
        np.ascontiguousarray(csr.indices, dtype=np.int32),
        np.ascontiguousarray(csr.indptr, dtype=np.int32),
    )


def tally_cells(
    csr: sparse.csr_matrix, codes: np.ndarray, own: Columns, counted: Columns, least: int
) -> CellTally:
    """Look at each value of a block once.

    Parameters
    ----------
    csr
        See :func:`narrow`.
    codes
        Batch of each cell.
    own
        Columns among which the detected are counted.
    counted
        Columns over which the total is taken.
    least
        Detected columns that a cell must have to count in ``n_cells``.
    """
    from . import _kernels

    n_rows, n_columns = csr.shape
    filled, detected = np.zeros(n_rows, dtype=np.int32), np.zeros(n_rows, dtype=np.int32)
    total, largest = np.zeros(n_rows), np.zeros(n_rows)
    fractional = np.zeros(n_rows, dtype=bool)
    n_cells, numbers = np.zeros(n_columns, dtype=np.int64), np.zeros(2, dtype=np.int64)
    ends = np.zeros(2)
    _kernels.tally(
        _parts(csr),
        own.places >= 0,
        (counted.places >= 0).astype(np.float64),
        least,
        (filled, detected, total, largest, fractional),
        (n_cells, numbers, ends),
    )
    values = ValueSummary(
        int(numbers[0]), int(numbers[1]), float(ends[0]), float(ends[1]), bool(fractional.any())
    )
    by_batch = BatchValues.of_cells(largest, fractional, codes)
    return CellTally(values, by_batch, filled, detected, total, n_cells)


def pick_divided(
    csr: sparse.csr_matrix,
    rows: np.ndarray,
    columns: Columns,
    divisor: np.ndarray,
    n_values: int,
) -> sparse.csr_matrix:
    """Return some columns of some rows, sorted, less stored zeros, divided by a number of each row.

    Parameters
    ----------
    csr
        See :func:`narrow`.
    rows
        Which rows, in their order.
    columns
        Which columns, and where they go.
    divisor
        For each of the rows.
    n_values
        How many values this are at most.
    """
    from . import _kernels

    values, places = np.empty(n_values, np.float32), np.empty(n_values, np.int32)
    ends = np.empty(len(rows) + 1, np.int32)
    _kernels.pick(
        _parts(csr),
        rows.astype(np.int64, copy=False),
        columns.places.astype(np.int32),
        divisor,
        (values, places, ends),
    )
    picked = sparse.csr_matrix(
        (values[: ends[-1]], places[: ends[-1]], ends),
        shape=(len(rows), columns.n_wanted),
        copy=False,
    )
    if not columns.keeps_order:
        picked.has_sorted_indices = False
        picked.sort_indices()
    return picked


class RunningMoments:
    """Sums over cells of some batches, that pieces of a block are added to, in their order.

    Parameters
    ----------
    codes
        Batches of all cells to come.
    n_columns
        Columns of all pieces.
    """

    def __init__(self, codes: np.ndarray, n_columns: int) -> None:
        self._present, self._n_cells = np.unique(codes, return_counts=True)
        self._sums = np.zeros((len(self._present), n_columns, 4))

    def add(self, csr: sparse.csr_matrix, codes: np.ndarray, *, logarithms: bool) -> None:
        """Add cells: see :func:`scalex_scvi.pp._sums.block_moments`."""
        from . import _kernels

        group = np.searchsorted(self._present, codes)
        # Batch by batch, so that its sums stay near the processor.
        order = np.argsort(group, kind="stable")
        amounts = np.expm1(csr.data) if logarithms else csr.data
        _kernels.add_up(_parts(csr), amounts, order, group, self._sums)

    def moments(self) -> BatchMoments:
        """Return the sums so far."""
        return BatchMoments(
            {
                int(code): GeneSums(
                    int(n_cells),
                    sums[:, 0].astype(np.int64),
                    sums[:, 1].copy(),
                    sums[:, 2].copy(),
                    sums[:, 3].astype(np.float32),
                )
                for code, n_cells, sums in zip(
                    self._present, self._n_cells, self._sums, strict=True
                )
            }
        )
