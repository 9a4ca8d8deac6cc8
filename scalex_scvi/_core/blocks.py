"""A matrix as blocks of rows, wherever it is: in memory, in a backed file, a store, or dask.

Whoever works on many cells gives a function of one block to :class:`Blocks`, and need not know
where the cells are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from threading import Lock
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
from anndata.abc import CSRDataset
from scipy import sparse

from .csr_on_disk import CsrOnDisk, index_type
from .matrices import by_rows, in_memory, is_lazy
from .reading import reading

Block: TypeAlias = "np.ndarray | sparse.csr_matrix"
"""Some rows, dense or CSR."""

Result = TypeVar("Result")

ROWS = 4096
"""Rows that are read and worked on at once, where dask does not say it."""

VALUES_READ = 2**24
"""Most values of a block of a file, if they were dense (64 MB)."""

_SPAN = 4
"""Scattered rows of a file are read as one piece if it is not this many times larger."""


class Blocks(Protocol):
    """Rows of a matrix with the batch code of each, in blocks.

    Each function is called as ``function(block, codes, *shared)`` for each block.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ...

    @property
    def is_lazy(self) -> bool:
        """Whether functions and what they share are sent to where the blocks are."""
        ...

    def map(self, function: Callable[..., np.ndarray], *shared: Any) -> np.ndarray:
        """Return the results, arrays with a row for each of the block's, stacked in order."""
        ...

    def fold(
        self,
        function: Callable[..., Result],
        merge: Callable[[Sequence[Result]], Result],
        *shared: Any,
    ) -> Result:
        """Return the results, merged in order."""
        ...

    def collect(
        self,
        function: Callable[..., sparse.csr_matrix],
        *shared: Any,
        n_columns: int,
        keep: np.ndarray | None = None,
    ) -> Any:
        """Return the results, CSR, as one matrix of ``n_columns``; of dask: not evaluated yet.

        With ``keep``, a mask of all rows, the others are left out.
        """
        ...


def blocks_of(
    matrix: Any, codes: np.ndarray, *, rows: np.ndarray | None = None, size: int | None = None
) -> Blocks:
    """Return the blocks of a matrix.

    Parameters
    ----------
    matrix
        Dense or sparse, in memory, of a backed AnnData, of a store or of dask.
    codes
        Batch of each row of the matrix.
    rows
        Rows to use, ascending; they may repeat. Default: all.
    size
        Rows of a block, where dask does not say it.
    """
    if is_lazy(matrix):
        if rows is not None and (len(rows) != len(codes) or (np.diff(rows) != 1).any()):
            matrix, codes = matrix[rows], codes[rows]
        from .dask_blocks import DaskBlocks  # which imports from here

        return DaskBlocks(matrix, codes)
    rows = np.arange(matrix.shape[0]) if rows is None else rows
    return LocalBlocks(by_rows(matrix), codes, rows, size)


def evenly_spread(n_all: int, n: int) -> np.ndarray:
    """Numbers of ``n`` of ``n_all`` rows, or of all there are, spread evenly over them."""
    return np.linspace(0, n_all - 1, min(n, n_all)).round().astype(int)


class LocalBlocks:
    """Blocks that this process reads, one after the other: see :func:`blocks_of`."""

    is_lazy = False

    def __init__(
        self, matrix: Any, codes: np.ndarray, rows: np.ndarray, size: int | None = None
    ) -> None:
        self.matrix = matrix
        self.codes = codes
        self.rows = rows
        if size is None:
            size = ROWS
            if not in_memory(matrix):
                # Whole multiples of what is encoded at once, so that results do not depend on it.
                size = max(512, min(ROWS, VALUES_READ // max(matrix.shape[1], 1) // 512 * 512))
        self.size = size
        on_disk = isinstance(matrix, CSRDataset)
        self._on_disk = CsrOnDisk(matrix.group, reopen=False) if on_disk else None

    @property
    def shape(self) -> tuple[int, int]:
        """See :class:`Blocks`."""
        return len(self.rows), self.matrix.shape[1]

    def __iter__(self) -> Iterator[tuple[Block, np.ndarray]]:
        starts = range(0, len(self.rows), self.size)
        pieces = [self.rows[start : start + self.size] for start in starts]
        blocks = map if in_memory(self.matrix) else one_ahead
        for rows, block in zip(pieces, blocks(self._read, pieces), strict=True):
            yield block, self.codes[rows]

    def _read(self, rows: np.ndarray) -> Block:
        if self._on_disk is not None and _lie_together(rows):
            return self._on_disk.read(int(rows[0]), int(rows[-1]) + 1)
        return read_rows(self.matrix, rows)

    def _results(self, function: Callable[..., Result], *shared: Any) -> Iterator[Result]:
        for block, codes in self:
            yield function(block, codes, *shared)

    def map(self, function: Callable[..., np.ndarray], *shared: Any) -> np.ndarray:
        """See :class:`Blocks`."""
        stacked = RowsInPlace(len(self.rows))
        filled = 0
        for result in self._results(function, *shared):
            stacked.write(slice(filled, filled + len(result)), result)
            filled += len(result)
        return stacked.read()

    def fold(
        self,
        function: Callable[..., Result],
        merge: Callable[[Sequence[Result]], Result],
        *shared: Any,
    ) -> Result:
        """See :class:`Blocks`."""
        results = self._results(function, *shared)
        merged = next(results)
        for result in results:
            merged = merge([merged, result])
        return merged

    def collect(
        self,
        function: Callable[..., sparse.csr_matrix],
        *shared: Any,
        n_columns: int,
        keep: np.ndarray | None = None,
    ) -> sparse.csr_matrix:
        """See :class:`Blocks`."""
        rows = self.rows if keep is None else self.rows[keep]
        kept = LocalBlocks(self.matrix, self.codes, rows, self.size)
        return stacked_csr(kept._results(function, *shared), n_columns)


def stacked_csr(blocks: Iterator[sparse.csr_matrix], n_columns: int) -> sparse.csr_matrix:
    """Put CSR blocks under one another; each of their parts is held twice only while it is moved.

    Parameters
    ----------
    blocks
        Float32, with sorted columns.
    n_columns
        Columns of each.
    """
    data: list[np.ndarray] = []
    indices: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    for block in blocks:
        data.append(block.data)
        indices.append(block.indices)
        lengths.append(np.diff(block.indptr))
    joined = _moved(data)
    width = index_type(len(joined))
    starts = np.concatenate([[0], np.cumsum(_moved(lengths), dtype=np.int64)]).astype(width)
    columns = _moved(indices).astype(width, copy=False)
    return sparse.csr_matrix(
        (joined, columns, starts), shape=(len(starts) - 1, n_columns), copy=False
    )


def _moved(parts: list[np.ndarray]) -> np.ndarray:
    """Concatenate, and empty the list."""
    joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
    parts.clear()
    return joined


def one_ahead(take: Callable[[Any], Result], pieces: Sequence[Any]) -> Iterator[Result]:
    """Yield what is taken of each piece; a thread takes the next one meanwhile."""
    if not pieces:
        return
    with ThreadPoolExecutor(1) as pool:
        context = copy_context()  # a thread of its own would not know which client is current
        coming = pool.submit(context.run, take, pieces[0])
        for piece in pieces[1:]:
            taken, coming = coming.result(), pool.submit(context.run, take, piece)
            yield taken
        yield coming.result()


def _lie_together(rows: np.ndarray) -> bool:
    return int(rows[-1] - rows[0]) + 1 == len(rows) and bool((np.diff(rows) == 1).all())


def read_rows(matrix: Any, rows: np.ndarray) -> Block:
    """Return ascending rows, not to be written into; what lies together on disk is read at once."""
    first, span = rows[0], int(rows[-1] - rows[0]) + 1
    if _lie_together(rows) and in_memory(matrix):
        if sparse.issparse(matrix) and matrix.format == "csr":
            return _view(matrix, first, first + span)
        return matrix[first : first + span]
    if in_memory(matrix):
        return matrix[rows]
    with reading(matrix):
        return _from_disk(matrix, rows, span)


def _from_disk(matrix: Any, rows: np.ndarray, span: int) -> Block:
    first = rows[0]
    if _lie_together(rows):
        return matrix[first : first + span]
    if span <= _SPAN * len(rows):
        return matrix[first : first + span][rows - first]
    found, inverse = np.unique(rows, return_inverse=True)
    return matrix[found][inverse]


def _view(csr: sparse.csr_matrix, start: int, stop: int) -> sparse.csr_matrix:
    """Return rows that share the values of the matrix: SciPy's slices copy them.

    To copy them takes longer than to send them to a GPU and encode them there.
    """
    first, last = csr.indptr[start], csr.indptr[stop]
    parts = (csr.data[first:last], csr.indices[first:last], csr.indptr[start : stop + 1] - first)
    return type(csr)(parts, shape=(stop - start, csr.shape[1]), copy=False)


class RowsInPlace:
    """An array that the results of blocks are written into, each at its own rows.

    Results that are kept until the last block is done would lie between the freed memory of blocks
    a hundred times their size, and neither malloc nor the system could use that again.

    Parameters
    ----------
    n_rows
        Rows of all blocks together.
    """

    def __init__(self, n_rows: int) -> None:
        self._n_rows = n_rows
        self._lock = Lock()
        self._rows: np.ndarray | None = None

    def write(self, rows: slice | np.ndarray, result: np.ndarray) -> None:
        """Write the result of one block; the first one decides the type and the columns."""
        with self._lock:
            if self._rows is None:
                self._rows = np.empty((self._n_rows, *result.shape[1:]), dtype=result.dtype)
        self._rows[rows] = result

    def read(self) -> np.ndarray:
        """Return what was written."""
        if self._rows is None:
            msg = "There are no blocks."
            raise ValueError(msg)
        return self._rows
