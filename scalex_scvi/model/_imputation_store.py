"""Writing imputed expression to disk, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import pandas as pd
from anndata import AnnData
from anndata.io import write_elem

from scalex_scvi._core.blocks import Block
from scalex_scvi._core.files import whole_file
from scalex_scvi._core.keys import IMPUTED_KEY, own_keys
from scalex_scvi._core.written_blocks import write_blocks
from scalex_scvi.io import make_writable


def write_store(path: Path, blocks: Iterator[Block], obs: pd.DataFrame, var: pd.DataFrame) -> None:
    """Write blocks of rows as ``X`` of an AnnData on disk, whole or not at all.

    Parameters
    ----------
    path
        ``.h5ad`` or ``.zarr``.
    blocks
        Dense or CSR, at least one; all of one kind and width.
    obs, var
        Of all rows and columns. scvi-tools' own columns of ``obs`` are left out, and what a file
        cannot hold is converted (:func:`scalex_scvi.io.make_writable`).
    """
    own = own_keys(obs.columns)
    with whole_file(path) as temporary:
        with _root(temporary) as root:
            cells = AnnData(obs=obs[own].copy(), var=var.copy(), uns={IMPUTED_KEY: True})
            make_writable(cells)
            write_elem(root, "/", cells)
            write_blocks(root, blocks)


@contextmanager
def _root(path: Path) -> Iterator[Any]:
    if path.suffix == ".h5ad":
        with h5py.File(path, "w") as file:
            yield file
        return
    import zarr

    # The format that the user chose for anndata (a setting since 0.12).
    version = getattr(ad.settings, "zarr_write_format", None)
    yield zarr.open_group(str(path), mode="w", **({"zarr_format": version} if version else {}))
