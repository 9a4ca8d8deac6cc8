"""Writing imputed expression to disk, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

from scalex_scvi._core.files import whole_file
from scalex_scvi._core.keys import IMPUTED_KEY, own_keys

_CHUNK_VALUES = 2**20
"""Values in a compressed chunk of a dense matrix on disk (4 MB)."""

Block: TypeAlias = "np.ndarray | sparse.csr_matrix"


def write_store(path: Path, blocks: Iterator[Block], obs: pd.DataFrame, var: pd.DataFrame) -> None:
    """Write blocks of rows as ``X`` of an AnnData on disk, whole or not at all.

    Parameters
    ----------
    path
        ``.h5ad`` or ``.zarr``.
    blocks
        Dense or CSR, at least one; all of one kind and width.
    obs, var
        Of all rows and columns. scvi-tools' own columns of ``obs`` are left out.
    """
    own = own_keys(obs.columns)
    with whole_file(path) as temporary:
        with _root(temporary) as root:
            cells = AnnData(obs=obs[own].copy(), var=var.copy(), uns={IMPUTED_KEY: True})
            write_elem(root, "/", cells)
            _write_first(root, next(blocks))
            for block in blocks:
                _append(root, block)


@contextmanager
def _root(path: Path) -> Iterator[Any]:
    if path.suffix == ".h5ad":
        with h5py.File(path, "w") as file:
            yield file
        return
    try:
        import zarr
    except ImportError as error:
        msg = "Writing '.zarr' needs the package zarr: `pip install zarr`, or write '.h5ad'."
        raise ImportError(msg) from error
    # The format that the user chose for anndata (a setting since 0.12).
    version = getattr(ad.settings, "zarr_write_format", None)
    yield zarr.open_group(str(path), mode="w", **({"zarr_format": version} if version else {}))


def _write_first(root: Any, block: Block) -> None:
    if sparse.issparse(block):
        # All blocks together may hold more values than 32 bits count.
        wide = sparse.csr_matrix(block)
        wide.indptr = wide.indptr.astype(np.int64)
        write_elem(root, "X", wide)
        return
    n_rows = max(1, min(len(block), _CHUNK_VALUES // block.shape[1]))
    options: dict[str, Any] = {"chunks": (n_rows, block.shape[1])}
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
