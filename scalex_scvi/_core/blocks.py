"""A matrix as blocks of rows, wherever it is: in memory, in a backed file, a store, or dask.

Whoever works on many cells gives a function of one block to :class:`Blocks`, and need not know
where the cells are. Nothing here imports dask unless a matrix is a dask array already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from itertools import pairwise
from threading import Lock
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
from anndata.abc import CSRDataset
from scipy import sparse

from .csr_on_disk import CsrOnDisk, index_type
from .matrices import by_rows, in_memory, is_lazy
from .reading import reading

DaskArray: TypeAlias = Any
"""``dask.array.Array`` of rows in several blocks, columns in one."""

Block: TypeAlias = "np.ndarray | sparse.csr_matrix"
"""Some rows, dense or CSR."""

Result = TypeVar("Result")

ROWS = 4096
"""Rows that are read and worked on at once, where dask does not say it."""

VALUES_READ = 2**24
"""Most values of a block of a file, if they were dense (64 MB)."""

_SPAN = 4
"""Scattered rows of a file are read as one piece if it is not this many times larger."""

_WRITTEN_AT_ONCE = 4
"""Blocks that are evaluated together and held until they are written; so are the next."""

_MERGED_AT_ONCE = 8
"""Results of blocks that are merged in one task: few are held at any time."""


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
        blocks = map if in_memory(self.matrix) else _one_ahead
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


class DaskBlocks:
    """Blocks of a dask array, each worked on where it is: see :func:`blocks_of`.

    An active :class:`distributed.Client` runs it; without one, dask's threads do. What is shared
    is sent to each worker once, not with each block. What a lost worker held is done again: each
    block has a name, so that none is missed or counted twice.
    """

    is_lazy = True

    def __init__(self, x: DaskArray, codes: np.ndarray) -> None:
        if x.numblocks[1] != 1 or np.isnan(x.shape).any():
            raise ValueError(_whole_rows(x))
        self.x = x
        self.codes = codes

    @property
    def shape(self) -> tuple[int, int]:
        """See :class:`Blocks`."""
        return self.x.shape

    def _results(self, function: Callable[..., Any], *shared: Any) -> list[Any]:
        return over_blocks(self.x, function, self.codes, shared=[ship(value) for value in shared])

    def map(self, function: Callable[..., np.ndarray], *shared: Any) -> np.ndarray:
        """See :class:`Blocks`."""
        return stack_rows(self._results(function, *shared), self.x.chunks[0])

    def fold(
        self,
        function: Callable[..., Result],
        merge: Callable[[Sequence[Result]], Result],
        *shared: Any,
    ) -> Result:
        """See :class:`Blocks`."""
        return reduce_blocks(self._results(function, *shared), merge)

    def collect(
        self,
        function: Callable[..., sparse.csr_matrix],
        *shared: Any,
        n_columns: int,
        keep: np.ndarray | None = None,
    ) -> DaskArray:
        """See :class:`Blocks`."""
        results = map_rows(self.x, function, self.codes, n_columns=n_columns, shared=shared)
        # Rows are left out of the results, which are the smaller ones.
        return results if keep is None else keep_rows(results, keep)


def _whole_rows(x: DaskArray) -> str:
    return (
        f"The matrix is a dask array with chunks {x.chunks!r}: allowed are chunks of whole "
        "cells (rows) of known length. Read it by `scalex_scvi.io.read_lazy`; a matrix "
        "that is stored by genes (CSC) has to be stored by cells (CSR) first."
    )


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


def _one_ahead(take: Callable[[Any], Result], pieces: Sequence[Any]) -> Iterator[Result]:
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


def over_blocks(
    x: DaskArray,
    function: Callable[..., Any],
    *more: np.ndarray,
    shared: Sequence[Any] = (),
) -> list[Any]:
    """Return one unevaluated call of ``function`` for each block of rows.

    Parameters
    ----------
    x
        Rows in blocks.
    function
        Takes a block, its rows of each of ``more``, and what is shared.
    *more
        Arrays with a value for each row of ``x``.
    shared
        The same for all blocks.
    """
    from dask import delayed

    bounds = np.cumsum((0, *x.chunks[0]))
    slices = [slice(start, stop) for start, stop in pairwise(bounds)]
    blocks = x.to_delayed().ravel()
    call = delayed(function)
    return [
        call(block, *(array[rows] for array in more), *shared)
        for block, rows in zip(blocks, slices, strict=True)
    ]


def reduce_blocks(parts: list[Any], merge: Callable[[list[Any]], Any]) -> Any:
    """Evaluate ``parts`` and merge them, some at a time."""
    from dask import delayed

    call = delayed(merge)
    while len(parts) > 1:
        parts = [
            call(parts[start : start + _MERGED_AT_ONCE])
            for start in range(0, len(parts), _MERGED_AT_ONCE)
        ]
    return parts[0].compute()


def ship(value: Any) -> Any:
    """Make a value one node of the graph.

    It goes to one worker, and from there to each other one that needs it, once. A scattered value
    would be gone with its workers; a node of the graph is sent again.
    """
    from dask import delayed

    return delayed(value, traverse=False)


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


def stack_rows(parts: list[Any], lengths: Sequence[int]) -> np.ndarray:
    """Evaluate ``parts`` and stack their rows, in order.

    Parameters
    ----------
    parts
        Unevaluated arrays.
    lengths
        Number of rows of each.
    """
    from dask import compute, delayed

    if not _in_this_process():
        return np.concatenate(compute(*parts))
    bounds = np.cumsum((0, *lengths))
    stacked = RowsInPlace(int(bounds[-1]))
    write = delayed(stacked.write, traverse=False)
    compute(
        *(write(slice(*ends), part) for ends, part in zip(pairwise(bounds), parts, strict=True))
    )
    return stacked.read()


def _in_this_process() -> bool:
    """Whether dask works in threads here, not in workers of a cluster or other processes."""
    from dask import threaded
    from dask.base import get_scheduler
    from dask.local import get_sync

    return get_scheduler() in (None, threaded.get, get_sync)


def computed_blocks(x: DaskArray) -> Iterator[Block]:
    """Yield the blocks of rows of a dask array in order, evaluated some at a time, and ahead.

    Raises
    ------
    ValueError
        If blocks are not of whole rows.
    """
    from dask import compute

    if x.numblocks[1] != 1:
        raise ValueError(_whole_rows(x))

    def evaluate(start: int) -> tuple[Block, ...]:
        return compute(*x.blocks[start : start + _WRITTEN_AT_ONCE].to_delayed().ravel())

    for some in _one_ahead(evaluate, range(0, x.numblocks[0], _WRITTEN_AT_ONCE)):
        yield from some


def map_rows(
    x: DaskArray,
    function: Callable[..., sparse.csr_matrix],
    *more: np.ndarray,
    n_columns: int | None = None,
    n_rows: tuple[int, ...] | None = None,
    shared: Sequence[Any] = (),
) -> DaskArray:
    """Return the dask array of ``function(block, rows of more, *shared)`` of each block.

    Parameters
    ----------
    x
        Rows in blocks.
    function
        Returns a float32 CSR matrix.
    *more
        Arrays with a value for each row of ``x``; ``function`` gets them one-dimensional.
    n_columns, n_rows
        Columns, and rows of each block, where they are not those of ``x``.
    shared
        The same for all blocks.
    """
    import dask.array as da

    columns = [da.from_array(a[:, None], chunks=(x.chunks[0], 1)) for a in more]
    chunks = (n_rows or x.chunks[0], (x.shape[1] if n_columns is None else n_columns,))
    return da.map_blocks(
        _with_flat_columns,
        x,
        *columns,
        block_function=function,
        shared=tuple(shared),
        chunks=chunks,
        dtype=np.float32,
        meta=sparse.csr_matrix((0, 0), dtype=np.float32),
    )


def _with_flat_columns(
    block: Any, *columns: np.ndarray, block_function: Callable[..., Any], shared: tuple[Any, ...]
) -> sparse.csr_matrix:
    return block_function(block, *(column.ravel() for column in columns), *shared)


def keep_rows(x: DaskArray, keep: np.ndarray) -> DaskArray:
    """Leave out rows; blocks that would be empty are left out too."""
    if keep.all():
        return x
    bounds = np.cumsum((0, *x.chunks[0]))[:-1]
    left = np.add.reduceat(keep.astype(np.int64), bounds)
    kept = map_rows(x, _rows, keep, n_rows=tuple(int(n) for n in left))
    return kept.blocks[np.flatnonzero(left)]


def _rows(block: sparse.csr_matrix, keep: np.ndarray) -> sparse.csr_matrix:
    return block[keep]
