"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .sources import files_behind
from .unfinished import arrive, unfinished

if TYPE_CHECKING:
    from anndata import AnnData

SUFFIXES = (".h5ad", ".zarr")
"""Of files that hold an AnnData."""


PROGRAM = "scalex-scvi"
"""In a picture of ours, by which it is known."""

RUN_FILE = "scalex_run.json"
"""File by which a folder of ours is known: its kind, and the files in it that are ours."""


def is_address(path: object) -> bool:
    """Whether it is the address of something in object storage: ``s3://bucket/cells.zarr``."""
    return isinstance(path, str) and "://" in path


def is_zarr_store(path: Path) -> bool:
    """Whether a path is a folder with a zarr store, of format 2 or 3."""
    return any((path / name).exists() for name in ("zarr.json", ".zgroup"))


def check_is_local(path: str | os.PathLike[str]) -> None:
    """Raise if results would be written to an address.

    Raises
    ------
    ValueError
        With what to do.
    """
    if is_address(path):
        msg = (
            f"`path` {str(path)!r} is an address: results are written to files of this machine, "
            "whole or not at all. Write a file, and upload it, for example by "
            "`fsspec.filesystem('s3').put(file, address, recursive=True)`."
        )
        raise ValueError(msg)


def own_files(folder: Path) -> dict[str, list[str]]:
    """Return kind and files of a folder of ours, ``{kind: files}``; empty for any other folder."""
    try:
        noted = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        return {str(noted["kind"]): [str(name) for name in noted["files"]]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def check_no_run_has(path: str | os.PathLike[str]) -> None:
    """Raise if a file belongs to the results of a run.

    Raises
    ------
    ValueError
        With the run folder.
    """
    given = Path(path).expanduser()
    for place in (given.absolute(), given.resolve()):
        for folder in place.parents[:3]:
            names = [name for files in own_files(folder).values() for name in files]
            if place.relative_to(folder).parts[0] in [*names, RUN_FILE]:
                msg = (
                    f"{str(path)!r} belongs to the results of the run in {str(folder)!r}, which it "
                    "would replace. Choose another name."
                )
                raise ValueError(msg)


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block succeeds.

    An interrupted or failed block leaves a previous file as it was, and no temporary file.

    Parameters
    ----------
    path
        Final place of the file or folder. Its parent must exist.

    Raises
    ------
    ValueError
        If it belongs to the results of a run.
    """
    path = Path(path)
    check_no_run_has(path)
    with unfinished(path.parent) as place:
        # The same suffix: writers choose their format by it.
        temporary = place / "new" / path.name
        yield temporary
        if temporary.is_dir():  # which could not be renamed to that of another one
            arrive(place)
        else:
            os.replace(temporary, path)


def check_folder_of(path: Path) -> None:
    """Raise unless the folder exists that a file is to be written into.

    Raises
    ------
    FileNotFoundError
        With what to do.
    """
    if not path.parent.is_dir():
        msg = f"The folder {str(path.parent)!r} of `path` does not exist. Make it first."
        raise FileNotFoundError(msg)


def check_store_path(path: str | os.PathLike[str], adata: AnnData) -> Path:
    """Raise unless a store can be written at ``path`` without loss of anything else.

    Raises
    ------
    ValueError
        For an address, another suffix, the file of a backed ``adata``, a file of a run folder, or
        a folder that is no zarr store.
    FileNotFoundError
        If the folder to write into does not exist.
    """
    check_is_local(path)
    path = Path(path).expanduser()
    if path.suffix not in SUFFIXES:
        msg = f"`path` {str(path)!r} must end in one of {list(SUFFIXES)!r}."
        raise ValueError(msg)
    check_folder_of(path)
    check_no_run_has(path)
    check_not_read_from(path, adata)
    if path.is_dir() and not is_zarr_store(path):
        msg = f"`path` {str(path)!r} is a folder that holds no zarr store. Choose another name."
        raise ValueError(msg)
    return path


def check_not_read_from(path: Path, adata: AnnData) -> None:
    """Raise if cells that are not in memory are read from the file that would be replaced.

    Raises
    ------
    ValueError
        With what to do.
    """
    behind = {Path(adata.filename).resolve()} if adata.isbacked else files_behind(adata.X)
    place = path.resolve()
    if behind & {place, *place.parents}:  # or lies in it, where that is a store
        msg = (
            f"`path` {str(path)!r} is what `adata` is read from: its cells would be gone. Choose "
            "another name, or read them into memory first (`adata.to_memory()`)."
        )
        raise ValueError(msg)


def write_adata(adata: AnnData, path: Path) -> None:
    """Write an AnnData to ``.h5ad`` or ``.zarr``, whole or not at all."""
    with whole_file(path) as temporary:
        if path.suffix == ".h5ad":
            adata.write_h5ad(temporary)
        else:
            adata.write_zarr(temporary)


def is_published(folder: Path) -> bool:
    """Whether the model in a folder, or in the checkpoint of a run, is the published package's."""
    place = folder if (folder / "model.pt").exists() else folder / "checkpoint"
    return (place / "config.pt").is_file()
