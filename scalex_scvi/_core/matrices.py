"""Kinds of matrices, and what they need before they are read row by row."""

from __future__ import annotations

import sys
from copy import deepcopy
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.abc import CSCDataset
from scipy import sparse

from .keys import own_keys

Matrix = TypeVar("Matrix", bound=Any)


def by_rows(matrix: Any) -> Any:
    """Return a matrix that rows are fast to take of; CSC becomes CSR, all of it, in memory.

    Parameters
    ----------
    matrix
        Any matrix, in memory or of a backed AnnData; it stays as it is.
    """
    if isinstance(matrix, CSCDataset):
        matrix = matrix.to_memory()
    if not sparse.issparse(matrix):
        return matrix
    return with_one_index_type(matrix.tocsr())


def with_one_index_type(matrix: Matrix) -> Matrix:
    """Give a CSR matrix row pointers of the type of its column numbers; nothing else is copied.

    Files often hold 64-bit pointers beside 32-bit numbers. SciPy would copy *all* numbers into the
    larger type whenever it takes some rows: a quarter of a second for 10^8 values, in each block.

    Parameters
    ----------
    matrix
        A CSR matrix or array in memory; it stays as it is.
    """
    narrow = matrix.indices.dtype
    if matrix.indptr.dtype == narrow or matrix.nnz > np.iinfo(narrow).max:
        return matrix
    parts = (matrix.data, matrix.indices, matrix.indptr.astype(narrow))
    return type(matrix)(parts, shape=matrix.shape, copy=False)


def in_memory(matrix: Any) -> bool:
    """Whether ``matrix`` is an array or a sparse matrix of this process."""
    return isinstance(matrix, np.ndarray) or sparse.issparse(matrix)


def is_lazy(matrix: Any) -> bool:
    """Whether ``matrix`` is a dask array."""
    dask_array = sys.modules.get("dask.array")
    return dask_array is not None and isinstance(matrix, dask_array.Array)


def check_no_mask(matrix: Any, *, name: str) -> None:
    """Raise for a masked array: whatever computes with it loses the mask without a word.

    Raises
    ------
    TypeError
        With what to do instead.
    """
    if isinstance(matrix, np.ma.MaskedArray):
        n_masked = int(np.ma.count_masked(matrix))
        msg = (
            f"{name} is a masked array ({n_masked} of {matrix.size} values are masked), whose mask "
            "would be lost. Say what the masked values are: `array.filled(0)`, or leave out their "
            "cells or columns."
        )
        raise TypeError(msg)


def check_numbers(matrix: Any, *, name: str) -> None:
    """Raise for text, objects and masked arrays in the place of numbers.

    Raises
    ------
    TypeError
        With what to do instead.
    """
    check_no_mask(matrix, name=name)
    dtype = getattr(matrix, "dtype", np.dtype(np.float32))
    if isinstance(dtype, np.dtype) and dtype.kind not in "biuf":
        msg = (
            f"{name} holds no real numbers, but values of type {dtype}. Make them numbers: "
            "`matrix.astype('float32')`."
        )
        raise TypeError(msg)


def check_finite(points: np.ndarray, *, name: str) -> None:
    """Raise for cells × dimensions of which some are NaN or infinite.

    Raises
    ------
    ValueError
        With the number of cells, and how to leave them out.
    """
    is_number = np.isfinite(points)
    if is_number.all():
        return
    n_bad = int((~is_number.reshape(len(points), -1).all(axis=1)).sum())
    msg = (
        f"{name} has values that are NaN or infinite, in {n_bad} of {len(points)} cells. Leave "
        f"those cells out: `np.isfinite({name}).all(axis=1)` is True of the others."
    )
    raise ValueError(msg)


def to_csr(matrix: Any, *, name: str) -> sparse.csr_matrix:
    """Return a float32 CSR copy of a dense, sparse or backed matrix.

    Raises
    ------
    TypeError
        For any other kind of matrix.
    """
    if hasattr(matrix, "to_memory"):  # backed sparse
        matrix = matrix.to_memory()
    elif type(matrix).__module__.startswith("h5py"):  # backed dense
        matrix = matrix[:]
    if isinstance(matrix, pd.DataFrame):
        matrix = matrix.to_numpy()
    check_no_mask(matrix, name=name)
    if is_lazy(matrix):
        msg = (
            f"{name} is a dask array, which this function does not take: it would have to read all "
            "of it. Read it into memory first: `adata.to_memory()`."
        )
        raise TypeError(msg)
    if not (sparse.issparse(matrix) or isinstance(matrix, np.ndarray)):
        msg = (
            f"{name} is a {type(matrix).__name__!r}; allowed are numpy arrays, scipy sparse "
            "matrices and AnnData's backed matrices. Convert it first."
        )
        raise TypeError(msg)
    csr = sparse.csr_matrix(matrix, dtype=np.float32, copy=True)
    csr.sum_duplicates()
    csr.eliminate_zeros()
    return csr


def to_shared_csr(block: Any, *, name: str) -> sparse.csr_matrix:
    """Return float32 CSR without repeated entries, to be read only: it is copied if it must be.

    Parameters
    ----------
    block
        See :func:`to_csr`. Zeros that are stored stay.
    name
        What to call it in a message.
    """
    if not sparse.issparse(block):
        return to_csr(block, name=name)
    csr = sparse.csr_matrix(block, dtype=np.float32)
    if csr.has_canonical_format:
        return csr
    csr = csr.copy()
    csr.sum_duplicates()
    return csr


def layer_names(adata: AnnData) -> list[str]:
    """Return the names of the layers, without the one of ``X``, which newer versions list, too."""
    return [name for name in adata.layers if name]


def get_matrix(adata: AnnData, layer: str | None, *, features: str = "genes") -> tuple[Any, str]:
    """Return ``adata.X`` or a layer, and what to call it in a message."""
    if adata.n_obs == 0 or adata.n_vars == 0:
        msg = f"`adata` is empty: {adata.n_obs} cells × {adata.n_vars} {features}."
        raise ValueError(msg)
    if layer is None:
        if adata.X is None:
            msg = f"`adata.X` is None. Add counts, or pass `layer`, one of {layer_names(adata)!r}."
            raise ValueError(msg)
        check_numbers(adata.X, name="adata.X")
        return adata.X, "adata.X"
    if layer not in layer_names(adata):
        msg = (
            f"`layer` {layer!r} is not in adata.layers: {layer_names(adata)!r}. For the values in "
            "adata.X leave `layer` out, or, of a query whose reference was in a layer, give "
            "`layer='X'`."
        )
        raise KeyError(msg)
    name = f"adata.layers[{layer!r}]"
    check_numbers(adata.layers[layer], name=name)
    return adata.layers[layer], name


def expression_in_raw(adata: AnnData, cells: np.ndarray) -> Any:
    """Return ``adata.raw.X`` of some cells, over the genes of ``adata``, in their order.

    Raises
    ------
    ValueError
        If ``adata.raw`` lacks some of them, or has several of a name.
    """
    if not adata.raw.var_names.is_unique:
        repeated = list(adata.raw.var_names[adata.raw.var_names.duplicated()].unique()[:3])
        msg = (
            f"Gene names of adata.raw repeat, such as {repeated!r}: those of `adata` cannot be "
            "found in it. Remove it to use adata.X: `del adata.raw`."
        )
        raise ValueError(msg)
    places = adata.raw.var_names.get_indexer(adata.var_names)
    if (places < 0).any():
        missing = list(adata.var_names[places < 0])
        msg = (
            f"adata.raw lacks {len(missing)} of the {adata.n_vars} genes of `adata`, such as "
            f"{missing[:3]!r}. Remove it to use adata.X: `del adata.raw`."
        )
        raise ValueError(msg)
    return adata.raw.X[cells][:, places]


def in_frames(adata: AnnData) -> AnnData:
    """Return what has ``obs`` and ``var`` of ``adata`` as data frames: most often itself."""
    return adata if isinstance(adata.obs, pd.DataFrame) else without_matrix(adata)


def without_matrix(adata: AnnData) -> AnnData:
    """Return the annotations of ``adata``, in memory, without ``X`` and layers.

    ``obs`` and ``var`` of :func:`anndata.experimental.read_lazy` are read, which is little.
    """
    own = {key: adata.uns[key] for key in own_keys(adata.uns)}
    return AnnData(
        obs=_read(adata.obs),
        var=_read(adata.var),
        obsm={key: _read(value) for key, value in adata.obsm.items()},
        uns=deepcopy(own),
    )


def _read(value: Any) -> Any:
    if is_lazy(value):
        return value.compute()
    return value.to_memory() if hasattr(value, "to_memory") else value.copy()
