"""Which files a matrix is read from, as long as it is not in memory."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py

from .csr_on_disk import CsrOnDisk


def files_behind(matrix: Any) -> set[Path]:
    """Return the files and stores on disk that a matrix is read from when it is used.

    Parameters
    ----------
    matrix
        A matrix of a backed AnnData or of a store, or a dask array made of such; one in memory
        has none.

    Returns
    -------
    Real paths.
    """
    return {Path(found).resolve() for found in _paths(matrix, set())}


def _paths(value: Any, seen: set[int]) -> Iterator[str | Path]:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Path):
        yield value
    elif isinstance(value, h5py.Dataset | h5py.Group):
        yield value.file.filename
    elif isinstance(getattr(getattr(value, "store", None), "root", None), str | Path):  # of zarr
        yield value.store.root
    else:
        for part in _parts(value):
            yield from _paths(part, seen)


def _parts(value: Any) -> Iterator[Any]:
    """Go through what a graph of dask and a sparse matrix on disk are made of."""
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list | tuple):
        yield from value
    elif isinstance(value, partial):
        yield from (value.args, value.keywords)
    elif hasattr(value, "__dask_graph__"):
        yield dict(value.__dask_graph__())
    elif type(value).__module__.startswith("dask."):  # a task, or data in it
        for name in ("func", "args", "kwargs", "value"):
            yield getattr(value, name, None)
    elif type(value).__module__.startswith("anndata."):  # a sparse matrix on disk
        yield getattr(value, "group", None)
    elif isinstance(value, CsrOnDisk):
        yield value.parts
    elif inspect.ismethod(value):
        yield value.__self__
