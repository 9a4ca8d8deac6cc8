"""Cells on disk that are read in blocks, and never held whole."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import anndata as ad
import h5py
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset, write_elem
from scipy import sparse

from scalex_scvi._core.blocks import computed_blocks
from scalex_scvi._core.csr_on_disk import CsrOnDisk, write_csr
from scalex_scvi._core.files import check_not_read_from, whole_file
from scalex_scvi._core.matrices import is_lazy

from ._formats import InputError, check_chunks, naming_file

logger = logging.getLogger(__name__)

CELLS_IN_BLOCK = 4096
"""Cells that are read at once: some tens of megabytes of counts."""

_ANNOTATIONS = ("obs", "var", "uns", "obsm", "varm")


def read_lazy(
    path: str | os.PathLike[str], *, layer: str | None = None, cells_in_block: int = CELLS_IN_BLOCK
) -> AnnData:
    """Open cells on disk with ``X`` as a dask array, which :func:`scalex_scvi.pp.rna` takes.

    Parameters
    ----------
    path
        ``.h5ad`` or ``.zarr``, its matrix stored by cells: CSR or dense.
    layer
        Layer to open as ``X``, instead of ``X``.
    cells_in_block
        Cells that are read and worked on at once. Memory grows with it and with the number of
        threads.

    Returns
    -------
    AnnData with ``obs``, ``var``, ``obsm``, ``varm`` and ``uns`` in memory, without other layers
    and ``raw``.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, if it is no AnnData, or if its matrix is stored by genes (CSC).
    KeyError
        If there is no such layer.
    ImportError
        Without dask (extra ``scale``).
    """
    try:
        import dask.array  # noqa: F401
    except ImportError as error:
        msg = "Reading in blocks needs dask: `pip install scalex-scvi[scale]`."
        raise ImportError(msg) from error
    path = Path(path).expanduser()
    root = _open_group(path)
    try:
        return _lazy_adata(root, path, layer, cells_in_block)
    finally:
        if isinstance(root, h5py.File):  # blocks open it again
            root.close()


def _lazy_adata(
    root: Any, path: str | os.PathLike[str], layer: str | None, cells_in_block: int
) -> AnnData:
    matrix = _matrix(root, layer, path)
    encoding = matrix.attrs.get("encoding-type")
    if encoding == "csc_matrix":
        msg = (
            f"The matrix of {str(path)!r} is stored by genes (CSC), so that blocks of cells cannot "
            "be read from it. Write it by cells first: `adata.X = adata.X.tocsr()`."
        )
        raise InputError(msg)
    adata = _annotations(root, path)
    rows = min(cells_in_block, adata.n_obs)
    if encoding == "csr_matrix":
        adata.X = _in_blocks(CsrOnDisk(matrix), rows)
    else:
        adata.X = ad.experimental.read_elem_lazy(matrix, chunks=(rows, -1))
    return adata


def _in_blocks(matrix: CsrOnDisk, rows: int) -> Any:
    """Return a dask array of blocks of rows.

    AnnData's own takes three times as long to read from zarr, and has 64-bit indices.
    """
    import dask.array as da

    return da.map_blocks(
        matrix.read_block,
        chunks=da.core.normalize_chunks((rows, -1), matrix.shape),
        dtype=matrix.dtype,
        meta=sparse.csr_matrix((0, 0), dtype=matrix.dtype),
        name=f"cells-{uuid4().hex}",  # what is on disk may be another thing the next time
    )


def write_store(adata: AnnData, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write cells to a zarr store that a model can be trained from, whole or not at all.

    A dask array ``X`` is evaluated and written block by block. Values are stored as CSR in small
    compressed chunks, so that some dozen cells can be read anywhere; chunks lie together in files
    of some megabytes.

    Parameters
    ----------
    adata
        Cells × genes, usually from :func:`scalex_scvi.pp.rna`; ``X`` a dask array of blocks of
        cells, or a sparse matrix in memory. It is not changed.
    path
        Ends in ``.zarr``; its folder must exist.
    overwrite
        Whether to replace a store that exists.

    Raises
    ------
    FileExistsError
        If ``path`` exists, and with ``overwrite`` if it is no zarr store.
    FileNotFoundError
        If its folder does not exist.
    ValueError
        For another ending, ``X`` in chunks of columns, or the store that ``adata`` is read from.
    """
    import zarr

    path = _check_target(Path(path).expanduser(), overwrite)
    check_not_read_from(path, adata)
    own = [column for column in adata.obs if not str(column).startswith("_scvi")]
    light = AnnData(
        obs=adata.obs[own].copy(),
        var=adata.var.copy(),
        uns={key: value for key, value in adata.uns.items() if not key.startswith("_scvi")},
        obsm=dict(adata.obsm),
        varm=dict(adata.varm),
    )
    with whole_file(path) as temporary:
        root = zarr.open_group(str(temporary), mode="w", zarr_format=3)
        write_elem(root, "/", light)
        write_csr(root, "X", _csr_blocks(adata.X), adata.n_vars)
    logger.info("Wrote %d cells × %d genes to %s.", *adata.shape, path)


def _csr_blocks(x: Any) -> Iterator[sparse.csr_matrix]:
    if is_lazy(x):
        yield from map(sparse.csr_matrix, computed_blocks(x))
    else:
        yield sparse.csr_matrix(x)


def open_store(path: str | os.PathLike[str]) -> AnnData:
    """Open cells on disk to train a model from, or to project.

    Parameters
    ----------
    path
        A store of :func:`write_store`, or any ``.zarr`` whose ``X`` is CSR.

    Returns
    -------
    AnnData with ``obs``, ``var``, ``obsm``, ``varm`` and ``uns`` in memory, and ``X`` on disk:
    ``adata.X[rows]`` reads rows. It can be registered and trained from like any other.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such store, or if its ``X`` is not CSR.
    """
    path = Path(path).expanduser()
    root = _open_group(path) if path.is_dir() or not path.exists() else None
    matrix = None if root is None else _matrix(root, None, path)
    if matrix is None or matrix.attrs.get("encoding-type") != "csr_matrix":
        msg = (
            f"{str(path)!r} is no zarr store with a CSR matrix. Make one by "
            "`scalex_scvi.io.write_store(scalex_scvi.io.read_lazy(...), 'cells.zarr')`, or open "
            "an .h5ad by `scalex_scvi.io.read(..., backed=True)`."
        )
        raise InputError(msg)
    adata = _annotations(root, path)
    adata.X = sparse_dataset(matrix)
    return adata


def _open_group(path: str | os.PathLike[str]) -> Any:
    """Open a file or folder for reading."""
    path = Path(path)
    if not path.exists():
        msg = f"There is no file {str(path)!r}."
        raise FileNotFoundError(msg)
    with naming_file(path, "an AnnData"):
        if path.is_dir():
            import zarr

            root = zarr.open_group(str(path), mode="r")
        else:
            root = h5py.File(path, "r")
        if not all(key in root for key in ("obs", "var")):
            msg = f"{str(path)!r} is no AnnData: it has no obs and var."
            raise InputError(msg)
    return root


def _matrix(root: Any, layer: str | None, path: str | os.PathLike[str]) -> Any:
    key = "X" if layer is None else f"layers/{layer}"
    with naming_file(path, "an AnnData"):
        layers = list(root["layers"]) if "layers" in root else []
        matrix = root[key] if key in root else None
        encoding = None if matrix is None else matrix.attrs.get("encoding-type")
        if encoding is not None and not isinstance(root, h5py.File):
            check_chunks(path, key)
    if layer is not None and layer not in layers:
        msg = f"`layer` {layer!r} is not in the layers of {str(path)!r}: {layers!r}."
        raise KeyError(msg)
    if encoding in ("null", None):
        msg = f"{str(path)!r} has no `X`. Pass `layer`, one of {layers!r}."
        raise InputError(msg)
    return matrix


def _annotations(root: Any, path: str | os.PathLike[str]) -> AnnData:
    with naming_file(path, "an AnnData"):
        parts = {key: read_elem(root[key]) for key in _ANNOTATIONS if key in root}
        return AnnData(**parts)


def _check_target(path: Path, overwrite: bool) -> Path:
    if path.suffix != ".zarr":
        msg = f"`path` {str(path)!r} must end in .zarr."
        raise ValueError(msg)
    if not path.parent.is_dir():
        msg = f"The folder {str(path.parent)!r} of `path` does not exist. Make it first."
        raise FileNotFoundError(msg)
    if not path.exists():
        return path
    is_store = any((path / name).exists() for name in ("zarr.json", ".zgroup"))
    if not overwrite or not is_store:
        reason = "exists; pass `overwrite=True` to replace it" if is_store else "is no zarr store"
        msg = f"`path` {str(path)!r} {reason}."
        raise FileExistsError(msg)
    return path
