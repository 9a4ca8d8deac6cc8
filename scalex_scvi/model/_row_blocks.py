"""Reading a matrix in blocks of rows, in memory and on disk, without making all of it dense."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

Block: TypeAlias = "np.ndarray | sparse.csr_matrix"

SPARSE_BELOW = 0.12
"""Share of values other than zero below which CSR times dense takes less time than dense times
dense. Measured for 2 000 genes and 1 024 hidden units, one thread: half of it at 5 %, three
quarters at 10 %, 1.5 times at 20 %."""

ROWS = 512
"""Rows encoded at once: larger blocks are not faster (measured up to 4 096)."""

_ROWS_READ = 4096
_VALUES_READ = 2**24
"""What is read from a file at once, in rows, and in values if they were dense (64 MB): files are
compressed in chunks of many rows, and each one should be read once."""

_SPAN = 4
"""Scattered rows of a file are read as one piece if it is not this many times larger."""


def row_blocks(matrix: Any, rows: np.ndarray, size: int) -> Iterator[Block]:
    """Yield rows of a matrix, ``size`` at a time, as CSR or dense arrays.

    Parameters
    ----------
    matrix
        Dense or CSR, in memory or of a backed AnnData.
    rows
        Their numbers, ascending; they may repeat.
    size
        Rows of a block.
    """
    n_read = size
    if not _in_memory(matrix):
        n_read *= max(1, min(_ROWS_READ, _VALUES_READ // matrix.shape[1]) // size)
    for start in range(0, len(rows), n_read):
        piece = read_rows(matrix, rows[start : start + n_read])
        for first in range(0, piece.shape[0], size):
            yield piece[first : first + size]


def _in_memory(matrix: Any) -> bool:
    return isinstance(matrix, np.ndarray) or sparse.issparse(matrix)


def read_rows(matrix: Any, rows: np.ndarray) -> Block:
    """Return ascending rows; what lies together on disk is read at once."""
    first, span = rows[0], int(rows[-1] - rows[0]) + 1
    if span == len(rows) and (np.diff(rows) == 1).all():
        return matrix[first : first + span]
    if _in_memory(matrix):
        return matrix[rows]
    if span <= _SPAN * len(rows):
        return matrix[first : first + span][rows - first]
    found, inverse = np.unique(rows, return_inverse=True)
    return matrix[found][inverse]


def as_tensor(block: Block, device: torch.device) -> Tensor:
    """Return a block as float32: sparse (CSR) where that is faster, else dense.

    torch multiplies sparse matrices by MKL, on CPUs; without it they become dense.
    """
    if isinstance(block, np.ndarray):
        dense = np.require(block, dtype=np.float32, requirements=["C", "W"])
        return torch.from_numpy(dense).to(device)
    few = block.nnz < SPARSE_BELOW * block.shape[0] * block.shape[1]
    if few and device.type == "cpu" and torch.backends.mkl.is_available():
        return _csr_tensor(sparse.csr_matrix(block))
    return torch.from_numpy(block.astype(np.float32, copy=False).toarray()).to(device)


def _csr_tensor(csr: sparse.csr_matrix) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            torch.from_numpy(csr.indptr),
            torch.from_numpy(csr.indices),
            torch.from_numpy(csr.data.astype(np.float32, copy=False)),
            size=csr.shape,
        )
