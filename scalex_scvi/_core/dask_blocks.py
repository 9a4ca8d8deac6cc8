"""Blocks of rows of a dask array: evaluated where they are, in threads here or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from scipy import sparse

from .blocks import Block, Result, RowsInPlace, one_ahead

DaskArray: TypeAlias = Any
"""``dask.array.Array`` of rows in several blocks, columns in one."""

_WRITTEN_AT_ONCE = 4
"""Blocks that are evaluated together and held until they are written; so are the next."""

_MERGED_AT_ONCE = 8
"""Results of blocks that are merged in one task: few are held at any time."""


class DaskBlocks:
    """Blocks of a dask array, each worked on where it is.

    See :func:`~scalex_scvi._core.blocks.blocks_of`.

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
        """See :class:`~scalex_scvi._core.blocks.Blocks`."""
        return self.x.shape

    def _results(self, function: Callable[..., Any], *shared: Any) -> list[Any]:
        return over_blocks(self.x, function, self.codes, shared=[ship(value) for value in shared])

    def map(self, function: Callable[..., np.ndarray], *shared: Any) -> np.ndarray:
        """See :class:`~scalex_scvi._core.blocks.Blocks`."""
        return stack_rows(self._results(function, *shared), self.x.chunks[0])

    def fold(
        self,
        function: Callable[..., Result],
        merge: Callable[[Sequence[Result]], Result],
        *shared: Any,
    ) -> Result:
        """See :class:`~scalex_scvi._core.blocks.Blocks`."""
        return reduce_blocks(self._results(function, *shared), merge)

    def collect(
        self,
        function: Callable[..., sparse.csr_matrix],
        *shared: Any,
        n_columns: int,
        keep: np.ndarray | None = None,
    ) -> DaskArray:
        """See :class:`~scalex_scvi._core.blocks.Blocks`."""
        results = map_rows(self.x, function, self.codes, n_columns=n_columns, shared=shared)
        # Rows are left out of the results, which are the smaller ones.
        return results if keep is None else keep_rows(results, keep)


def _whole_rows(x: DaskArray) -> str:
    return (
        f"The matrix is a dask array with chunks {x.chunks!r}: allowed are chunks of whole "
        "cells (rows) of known length. Read it by `scalex_scvi.io.read_lazy`; a matrix "
        "that is stored by genes (CSC) has to be stored by cells (CSR) first."
    )


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

    for some in one_ahead(evaluate, range(0, x.numblocks[0], _WRITTEN_AT_ONCE)):
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
