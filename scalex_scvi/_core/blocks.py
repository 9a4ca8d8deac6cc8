"""Matrices that are read when they are needed: dask arrays of blocks of rows.

Nothing here imports dask unless a matrix is a dask array already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import pairwise
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
from anndata import AnnData
from scipy import sparse

from .matrices import is_lazy

DaskArray: TypeAlias = Any
"""``dask.array.Array`` of CSR blocks: rows in several blocks, columns in one."""

_MERGED_AT_ONCE = 8
"""Results of blocks that are merged in one task: few are held at any time."""


def over_blocks(x: DaskArray, function: Callable[..., Any], *more: np.ndarray) -> list[Any]:
    """Return one unevaluated call of ``function`` for each block of rows.

    Parameters
    ----------
    x
        Rows in blocks.
    function
        Takes a block and its rows of each of ``more``.
    *more
        Arrays with a value for each row of ``x``.
    """
    from dask import delayed

    bounds = np.cumsum((0, *x.chunks[0]))
    slices = [slice(start, stop) for start, stop in pairwise(bounds)]
    blocks = x.to_delayed().ravel()
    call = delayed(function)
    return [
        call(block, *(array[rows] for array in more))
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

    def write(self, rows: slice, result: np.ndarray) -> None:
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


def map_rows(
    x: DaskArray,
    function: Callable[..., sparse.csr_matrix],
    *more: np.ndarray,
    n_columns: int | None = None,
    n_rows: tuple[int, ...] | None = None,
    **constants: Any,
) -> DaskArray:
    """Return the dask array of ``function(block, rows of more, **constants)`` of each block.

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
    **constants
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
        constants=constants,
        chunks=chunks,
        dtype=np.float32,
        meta=sparse.csr_matrix((0, 0), dtype=np.float32),
    )


def _with_flat_columns(
    block: Any, *columns: np.ndarray, block_function: Callable[..., Any], constants: dict[str, Any]
) -> sparse.csr_matrix:
    return block_function(block, *(column.ravel() for column in columns), **constants)


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


def pick_columns(x: DaskArray, columns: np.ndarray) -> DaskArray:
    """Choose columns by number, in the given order."""
    if np.array_equal(columns, np.arange(x.shape[1])):
        return x
    return map_rows(x, _columns, n_columns=len(columns), columns=columns)


def _columns(block: sparse.csr_matrix, columns: np.ndarray) -> sparse.csr_matrix:
    picked = block[:, columns]
    picked.sort_indices()
    return picked


def multiply(x: DaskArray, selector: sparse.csr_matrix) -> DaskArray:
    """Multiply each row by a matrix that chooses and orders columns."""
    return map_rows(x, _times, n_columns=selector.shape[1], selector=selector)


def _times(block: sparse.csr_matrix, selector: sparse.csr_matrix) -> sparse.csr_matrix:
    product = sparse.csr_matrix(block @ selector, dtype=np.float32)
    product.sort_indices()
    return product


def block_extremes(x: DaskArray) -> np.ndarray:
    """Smallest and largest stored values of each block, one pass over the data."""
    from dask import compute

    return np.concatenate(compute(*over_blocks(x, _extremes)))


def _extremes(block: Any) -> np.ndarray:
    values = block.data if sparse.issparse(block) else np.asarray(block)
    return np.array([values.min(), values.max()]) if values.size else np.zeros(2)


def without_matrix(adata: AnnData) -> AnnData:
    """Return the annotations of ``adata``, in memory, without ``X`` and layers.

    ``obs`` and ``var`` of :func:`anndata.experimental.read_lazy` are read, which is little.
    """
    own = {key: value for key, value in adata.uns.items() if not key.startswith("_scvi")}
    return AnnData(
        obs=_in_memory(adata.obs),
        var=_in_memory(adata.var),
        obsm={key: _in_memory(value) for key, value in adata.obsm.items()},
        uns=deepcopy(own),
    )


def _in_memory(value: Any) -> Any:
    if is_lazy(value):
        return value.compute()
    return value.to_memory() if hasattr(value, "to_memory") else value.copy()
