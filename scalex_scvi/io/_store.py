"""Cells on disk or in object storage, which are read in blocks and never loaded whole."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import uuid4

import anndata as ad
import h5py
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset, write_elem
from scipy import sparse

from scalex_scvi._core.csr_on_disk import CsrOnDisk, write_csr
from scalex_scvi._core.dask_blocks import computed_blocks
from scalex_scvi._core.files import (
    check_folder_of,
    check_is_local,
    check_not_read_from,
    is_address,
    is_zarr_store,
    whole_file,
)
from scalex_scvi._core.inputs import check_adata
from scalex_scvi._core.keys import own_keys
from scalex_scvi._core.matrices import get_matrix, in_memory, is_lazy
from scalex_scvi._core.ranges import check_whole
from scalex_scvi._core.reading import InputError, naming_file

from ._formats import check_chunks
from ._writable import make_writable

if TYPE_CHECKING:
    import zarr

logger = logging.getLogger(__name__)

Stored: TypeAlias = "str | os.PathLike[str] | zarr.Group"
"""Cells on disk or in object storage: a path, an address that fsspec knows, or an open group."""

CELLS_IN_BLOCK = 4096
"""Cells that are read at once: some tens of megabytes of counts."""

_ANNOTATIONS = ("obs", "var", "uns", "obsm", "varm")


def read_lazy(
    path: Stored, *, layer: str | None = None, cells_in_block: int = CELLS_IN_BLOCK
) -> AnnData:
    """Open cells with ``X`` as a dask array, which :func:`scalex_scvi.pp.rna` takes.

    Cells may lie on disk or in object storage; their matrix stays there.

    Parameters
    ----------
    path
        ``.h5ad`` or ``.zarr``, its matrix stored by cells: CSR or dense. Of a zarr store also an
        address that fsspec knows (``"s3://bucket/cells.zarr"``, with the package that it takes,
        ``s3fs``), or an open group, for options:
        ``zarr.open_group(address, mode="r", storage_options={"anon": True})``.
    layer
        Layer to open as ``X``, instead of ``X``.
    cells_in_block
        Cells that are read and processed at once. Memory grows with it and with the number of
        threads; 4096 cells take some tens of megabytes.

    Returns
    -------
    Cells × genes, with ``obs``, ``var``, ``obsm``, ``varm`` and ``uns`` in memory, and without
    ``raw`` and other layers. ``X`` is a dask array in blocks of cells.

    Raises
    ------
    FileNotFoundError
        If there is no such file or store.
    ValueError
        If it is no AnnData, has no ``X``, is incomplete, or its matrix is stored by genes (CSC);
        if ``cells_in_block`` is less than 1.
    KeyError
        If there is no such layer.
    TypeError
        If ``path`` is neither a path, an address nor a group.
    ImportError
        Without dask (extra ``scale``), or without the package that fsspec needs for an address.
    """
    check_whole(cells_in_block, 1, name="cells_in_block")
    try:
        import dask.array  # noqa: F401
    except ImportError as error:
        msg = "Reading in blocks needs dask: `pip install scalex-scvi[scale]`."
        raise ImportError(msg) from error
    root = _open_group(path)
    try:
        return _lazy_adata(root, _name(path), layer, cells_in_block)
    finally:
        if isinstance(root, h5py.File):  # blocks open it again
            root.close()


def _lazy_adata(root: Any, name: str, layer: str | None, cells_in_block: int) -> AnnData:
    matrix = _matrix(root, layer, name)
    encoding = matrix.attrs.get("encoding-type")
    if encoding == "csc_matrix":
        msg = (
            f"The matrix of {name!r} is stored by genes (CSC), so that blocks of cells cannot "
            "be read from it. Write it by cells first: `adata.X = adata.X.tocsr()`."
        )
        raise InputError(msg)
    adata = _annotations(root, name)
    rows = min(cells_in_block, adata.n_obs)
    if encoding == "csr_matrix":
        adata.X = _in_blocks(CsrOnDisk(matrix), rows)
    else:
        adata.X = ad.experimental.read_elem_lazy(matrix, chunks=(rows, -1))
    return adata


def _in_blocks(matrix: CsrOnDisk, rows: int) -> Any:
    """Return a dask array of blocks of rows.

    The dask arrays of anndata take three times as long to read from zarr, and have 64-bit indices.
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
    """Write cells to a zarr store that a model can be trained from.

    The store appears when it is complete. A dask array ``X`` is evaluated and written block by
    block. Values are stored as CSR in small compressed chunks, so that a few cells anywhere can be
    read quickly; many chunks share a file of some megabytes.

    Parameters
    ----------
    adata
        Cells × genes, usually from :func:`scalex_scvi.pp.rna`; ``X`` a dask array of blocks of
        cells, in memory or backed. It is not changed; annotations that no file can hold
        are converted, with a warning.
    path
        Folder of the store, ending in ``.zarr``; the folder that it lies in must exist.
    overwrite
        Whether to replace a store that exists.

    Raises
    ------
    FileExistsError
        If ``path`` exists, and with ``overwrite`` if it is no zarr store.
    FileNotFoundError
        If the folder that it lies in does not exist.
    TypeError
        If ``adata`` is no AnnData.
    ValueError
        If ``path`` is an address, has another ending, or is the store that ``adata`` is read from;
        if ``X`` is in chunks of columns, or there is none.
    """
    import zarr

    check_adata(adata)
    check_is_local(path)
    path = _check_target(Path(path).expanduser(), overwrite)
    check_not_read_from(path, adata)
    matrix, _ = get_matrix(adata, None)
    own = own_keys(adata.obs)
    light = AnnData(
        obs=adata.obs[own].copy(),
        var=adata.var.copy(),
        uns={key: adata.uns[key] for key in own_keys(adata.uns)},
        obsm=dict(adata.obsm),
        varm=dict(adata.varm),
    )
    make_writable(light)
    with whole_file(path) as temporary:
        root = zarr.open_group(str(temporary), mode="w", zarr_format=3)
        with warnings.catch_warnings():  # of anndata 0.12, what its next version will do
            warnings.filterwarnings("ignore", message="zarr v3 autosharding")
            write_elem(root, "/", light)
        write_csr(root, "X", _csr_blocks(matrix), adata.n_vars)
        with warnings.catch_warnings():  # of zarr, that its format does not have it yet
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            zarr.consolidate_metadata(root.store)  # one request instead of one for each array
    logger.info("Wrote %d cells × %d genes to %s.", *adata.shape, path)


def _csr_blocks(x: Any) -> Iterator[sparse.csr_matrix]:
    if is_lazy(x):
        yield from map(sparse.csr_matrix, computed_blocks(x))
    elif in_memory(x):
        yield sparse.csr_matrix(x)
    else:
        for start in range(0, x.shape[0], CELLS_IN_BLOCK):
            yield sparse.csr_matrix(x[start : start + CELLS_IN_BLOCK])


def open_store(path: Stored) -> AnnData:
    """Open cells on disk, or in object storage, to train a model from, or to project.

    Parameters
    ----------
    path
        A store of :func:`write_store`, or any ``.zarr`` whose ``X`` is CSR; also its address, or
        an open group: see :func:`read_lazy`.

    Returns
    -------
    Cells × genes, with ``obs``, ``var``, ``obsm``, ``varm`` and ``uns`` in memory, and ``X`` on
    disk: ``adata.X[rows]`` reads rows. A model can be set up and trained with it like with any
    other AnnData.

    Raises
    ------
    FileNotFoundError
        If there is no such store.
    ValueError
        If its ``X`` is not CSR, or chunks are missing.
    TypeError
        If ``path`` is neither a path, an address nor a group.
    ImportError
        Without the package that fsspec needs for an address.
    """
    name = _name(path)
    is_file = _is_path(path) and Path(name).is_file()
    root = None if is_file else _open_group(path)
    matrix = None if root is None else _matrix(root, None, name)
    if matrix is None or matrix.attrs.get("encoding-type") != "csr_matrix":
        msg = (
            f"{name!r} is no zarr store with a CSR matrix. Make one by "
            "`scalex_scvi.io.write_store(scalex_scvi.io.read_lazy(...), 'cells.zarr')`, or open "
            "an .h5ad by `scalex_scvi.io.read(..., backed=True)`."
        )
        raise InputError(msg)
    adata = _annotations(root, name)
    adata.X = sparse_dataset(matrix)
    return adata


def _is_path(stored: Stored) -> bool:
    return isinstance(stored, str | os.PathLike) and not is_address(stored)


def _name(stored: Stored) -> str:
    """Return a path, with ``~`` expanded, or the name of an address or group for messages."""
    if _is_path(stored):
        return str(Path(stored).expanduser())  # type: ignore[arg-type]
    if isinstance(stored, str):
        return stored
    return str(getattr(stored, "store_path", stored))


def _open_group(stored: Stored) -> Any:
    """Open a file, a folder or an address for reading; an open group is returned."""
    if not isinstance(stored, str | os.PathLike) and not hasattr(stored, "attrs"):
        msg = (
            f"`path` is a {type(stored).__name__!r}; allowed are a path, an address, and an open "
            "zarr group. Cells in memory need no store."
        )
        raise TypeError(msg)
    name = _name(stored)
    if _is_path(stored) and ".h5mu" in (Path(name).suffix, Path(name).parent.suffix):
        msg = (
            f"{name!r} is of a MuData, which is not read in blocks. Read a modality into memory, "
            "`scalex_scvi.io.read('data.h5mu/rna')`, or write it to an .h5ad first."
        )
        raise InputError(msg)
    if _is_path(stored) and not Path(name).exists():
        msg = f"There is no file {name!r}."
        raise FileNotFoundError(msg)
    with naming_file(name, "an AnnData"):
        if not isinstance(stored, str | os.PathLike):
            root = stored
        elif is_address(stored) or Path(name).is_dir():
            root = _open_store(name)
        else:
            root = h5py.File(name, "r")
        if root is not None and not all(key in root for key in ("obs", "var")):
            msg = f"{name!r} is no AnnData: it has no obs and var."
            raise InputError(msg)
    if root is None:
        msg = f"There is no zarr store at {name!r}. Other files are copied to this machine first."
        raise FileNotFoundError(msg)
    return root


def _open_store(name: str) -> Any:
    """Open a zarr store; ``None`` where there is none at an address."""
    import zarr

    try:
        return zarr.open_group(name, mode="r")
    except FileNotFoundError:
        if is_address(name):
            return None
        raise


def _matrix(root: Any, layer: str | None, name: str) -> Any:
    key = "X" if layer is None else f"layers/{layer}"
    with naming_file(name, "an AnnData"):
        layers = list(root["layers"]) if "layers" in root else []
        matrix = root[key] if key in root else None
        encoding = None if matrix is None else matrix.attrs.get("encoding-type")
        if encoding is not None and not isinstance(root, h5py.File):
            check_chunks(root, name, key)
    if layer is not None and layer not in layers:
        msg = f"`layer` {layer!r} is not in the layers of {name!r}: {layers!r}."
        raise KeyError(msg)
    if encoding in ("null", None):
        msg = f"{name!r} has no `X`. Pass `layer`, one of {layers!r}."
        raise InputError(msg)
    return matrix


def _annotations(root: Any, name: str) -> AnnData:
    with naming_file(name, "an AnnData"):
        parts = {key: read_elem(root[key]) for key in _ANNOTATIONS if key in root}
        return AnnData(**parts)


def _check_target(path: Path, overwrite: bool) -> Path:
    if path.suffix != ".zarr":
        msg = f"`path` {str(path)!r} must end in .zarr."
        raise ValueError(msg)
    check_folder_of(path)
    if not path.exists():
        return path
    is_store = is_zarr_store(path)
    if not overwrite or not is_store:
        reason = "exists; pass `overwrite=True` to replace it" if is_store else "is no zarr store"
        msg = f"`path` {str(path)!r} {reason}."
        raise FileExistsError(msg)
    return path
