"""Errors of reading that name their file, whatever library raises them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import h5py


class InputError(ValueError):
    """An error that names its file already."""


@contextmanager
def naming_file(path: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """Turn whatever a reader raises for a damaged file into one error that names the file.

    h5py, zarr, gzip, pandas, scipy and anndata raise many kinds. A missing package is not the
    file's fault and passes; too little memory, or a size that no machine has, is named.
    """
    try:
        yield
    except (InputError, ImportError):
        raise
    except MemoryError as error:
        msg = (
            f"{str(path)!r} does not fit into memory as {kind}: {str(error) or 'out of memory'}. "
            "Is its declared size right? Large data: `scalex_scvi.io.read_lazy`, or `backed`."
        )
        raise MemoryError(msg) from error
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        msg = (
            f"{str(path)!r} cannot be read as {kind}: {reason}. If it is damaged or incomplete, "
            "copy, download or write it again."
        )
        raise InputError(msg) from error


def place_of(matrix: Any) -> str | None:
    """Return the file or store of a matrix of AnnData, h5py or zarr; ``None`` for any other."""
    matrix = getattr(matrix, "group", matrix)
    if isinstance(matrix, h5py.Group | h5py.Dataset):
        return str(matrix.file.filename)
    place = getattr(matrix, "store_path", None)
    return None if place is None else str(place)


def reading(matrix: Any) -> AbstractContextManager[None]:
    """Name the file of a matrix where its values cannot be read; of one in memory, errors pass."""
    place = place_of(matrix)
    return nullcontext() if place is None else naming_file(place, "a matrix")
