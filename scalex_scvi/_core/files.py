"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData

SUFFIXES = (".h5ad", ".zarr")
"""Of files that hold an AnnData."""


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block succeeds.

    An interrupted or failed block leaves a previous file as it was, and no temporary file.

    Parameters
    ----------
    path
        Final place of the file. Its folder must exist.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        # The same suffix: writers choose their format by it.
        temporary = Path(folder) / path.name
        yield temporary
        if temporary.is_dir() and path.is_dir():  # a folder cannot be replaced by a folder
            os.replace(path, temporary.with_name("previous"))
        os.replace(temporary, path)


def check_store_path(path: str | os.PathLike[str], adata: AnnData) -> Path:
    """Raise unless a store can be written at ``path`` without loss of anything else.

    Raises
    ------
    ValueError
        For another suffix, the file of a backed ``adata``, or a folder that is no zarr store.
    FileNotFoundError
        If the folder to write into does not exist.
    """
    path = Path(path).expanduser()
    if path.suffix not in SUFFIXES:
        msg = f"`path` {str(path)!r} must end in one of {list(SUFFIXES)!r}."
        raise ValueError(msg)
    if not path.parent.is_dir():
        msg = f"The folder {str(path.parent)!r} of `path` does not exist. Make it first."
        raise FileNotFoundError(msg)
    if adata.isbacked and path.resolve() == Path(adata.filename).resolve():
        msg = f"`path` {str(path)!r} is the file of `adata`. Choose another one."
        raise ValueError(msg)
    if path.is_dir() and not any((path / name).exists() for name in ("zarr.json", ".zgroup")):
        msg = f"`path` {str(path)!r} is a folder that holds no zarr store. Choose another name."
        raise ValueError(msg)
    return path


def write_adata(adata: AnnData, path: Path) -> None:
    """Write an AnnData to ``.h5ad`` or ``.zarr``, whole or not at all."""
    with whole_file(path) as temporary:
        if path.suffix == ".h5ad":
            adata.write_h5ad(temporary)
        else:
            adata.write_zarr(temporary)
