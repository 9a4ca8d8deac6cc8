"""Large files of one source, whose matrix stays on disk and is read in blocks of cells."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
from anndata import AnnData

from scalex_scvi._core.csr_on_disk import CsrOnDisk
from scalex_scvi._core.files import is_zarr_store
from scalex_scvi._core.reading import naming_file

from ._features import Choice, choose_features
from ._formats import checked
from ._read import DataSource, _as_list
from ._reading import Reading
from ._source import RAW, SOME_CELLS, Taking, whole_numbers
from ._store import _open_group, read_lazy

logger = logging.getLogger(__name__)

LARGE = 2 * 10**9
"""Bytes that a matrix takes in memory, from which on it is read in blocks."""

_BY_CELLS = ("csr_matrix", "array")


def read_if_large(
    data: DataSource | Sequence[DataSource], reading: Reading, taking: Taking, choice: Choice
) -> AnnData | None:
    """Open a large file with its matrix as a dask array; ``None``: it is to be read as any other.

    That is so of several sources, a sample of the cells, other formats than ``.h5ad`` and zarr,
    matrices that are stored by genes, and expression in ``.raw`` or ``obsm``. With
    ``reading.backed`` the size does not matter.

    Parameters
    ----------
    data
        See :func:`scalex_scvi.io.read`.
    reading, taking, choice
        What to read of it.

    Returns
    -------
    As :func:`scalex_scvi.io.read_lazy`, with the wanted features by their wanted names.
    """
    path = _path(data, reading)
    if path is None:
        return None
    root = _open_group(path)
    try:
        with naming_file(path, "an AnnData"):
            if not _is_wanted(root, path, reading, taking):
                return None
    finally:
        if isinstance(root, h5py.File):
            root.close()
    layer = None if reading.use_layer == Reading.use_layer else reading.use_layer
    adata = checked(read_lazy(path, layer=layer), path)
    logger.info("%s is read in blocks: its matrix stays on disk.", path)
    adata = choose_features(adata, choice, path)
    return taking.of([adata], [f"Source {str(path)!r}"])[0]


def _path(data: DataSource | Sequence[DataSource], reading: Reading) -> Path | None:
    """Return the path of a file or store that could be read in blocks."""
    sources = _as_list(data)
    sampled = reading.fraction is not None or reading.n_obs is not None
    if len(sources) != 1 or reading.batch_categories is not None or sampled:
        return None
    if not isinstance(sources[0], str | os.PathLike) or not os.fspath(sources[0]):
        return None
    path = Path(sources[0]).expanduser()
    known = path.is_file() and path.suffix.lower() == ".h5ad"
    return path if known or is_zarr_store(path) else None


def _is_wanted(root: Any, path: Path, reading: Reading, taking: Taking) -> bool:
    matrix = _matrix(root, reading.use_layer)
    if matrix is None or taking.raw:
        return False
    is_large = _bytes_in_memory(matrix) >= LARGE
    if not (is_large or reading.backed) or _counts_are_in_raw(root, matrix, taking):
        return False
    by_cells = matrix.attrs.get("encoding-type") in _BY_CELLS
    has_dask = importlib.util.find_spec("dask") is not None
    if is_large and not (by_cells and has_dask):
        logger.info(
            "%s is read into memory: %s.",
            path,
            "reading in blocks needs dask, `pip install scalex-scvi[scale]`"
            if by_cells
            else "its matrix is not stored by cells (CSR or dense), in blocks of which it is read",
        )
    return by_cells and has_dask


def _matrix(root: Any, use_layer: str) -> Any:
    if use_layer == Reading.use_layer:
        return root.get("X")
    layers = root.get("layers")
    return None if layers is None else layers.get(use_layer)


def _bytes_in_memory(matrix: Any) -> int:
    if not hasattr(matrix, "shape"):  # a group: sparse
        return sum(
            matrix[part].shape[0] * matrix[part].dtype.itemsize
            for part in ("data", "indices")
            if part in matrix
        )
    return math.prod(matrix.shape) * matrix.dtype.itemsize


def _counts_are_in_raw(root: Any, matrix: Any, taking: Taking) -> bool:
    """Whether counts are wanted, and may be those in ``.raw``: these are found in memory."""
    if taking.raw is not None or RAW not in root:
        return False
    sparse = not hasattr(matrix, "shape")
    n_cells = int(matrix.attrs["shape"][0] if sparse else matrix.shape[0])
    first = min(SOME_CELLS, n_cells)
    if sparse and matrix.attrs.get("encoding-type") != "csr_matrix":
        return True
    some = CsrOnDisk(matrix, reopen=False).read(0, first) if sparse else matrix[:first]
    return whole_numbers(some) is False
