"""Writing ``X`` of an AnnData on disk block by block, as anndata writes it whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

from .blocks import Block

_CHUNK_VALUES = 2**20
"""Values in a compressed chunk of a dense matrix on disk (4 MB)."""


def write_blocks(root: Any, blocks: Iterator[Block], **options: Any) -> None:
    """Write blocks of rows under one another as ``X``.

    Parameters
    ----------
    root
        An open .h5ad file, or a group of zarr.
    blocks
        Dense or CSR, at least one; all of one kind and width.
    **options
        Of each array on disk, ``compression`` for example.
    """
    _write_first(root, next(blocks), options)
    for block in blocks:
        _append(root, block)


def _write_first(root: Any, block: Block, options: dict[str, Any]) -> None:
    if sparse.issparse(block):
        # All blocks together may hold more values than 32 bits count.
        wide = sparse.csr_matrix(block)
        wide.indptr = wide.indptr.astype(np.int64)
        write_elem(root, "X", wide, dataset_kwargs=options)
        return
    n_rows = max(1, min(len(block), _CHUNK_VALUES // block.shape[1]))
    options = options | {"chunks": (n_rows, block.shape[1])}
    if isinstance(root, h5py.File):
        options["maxshape"] = (None, block.shape[1])
    write_elem(root, "X", block, dataset_kwargs=options)


def _append(root: Any, block: Block) -> None:
    stored = root["X"]
    if sparse.issparse(block):
        sparse_dataset(stored).append(block)
        return
    start = stored.shape[0]
    stored.resize((start + len(block), block.shape[1]))
    stored[start:] = block
