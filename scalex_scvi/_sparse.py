"""What sparse matrices need before they are read row by row."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from anndata.abc import CSCDataset
from scipy import sparse

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
