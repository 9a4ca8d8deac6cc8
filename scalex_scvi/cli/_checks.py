"""Check of the path that a command writes its result to, before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py

from scalex_scvi._core.files import PROGRAM, check_no_run_has


def check_result(
    path: str, sources: Sequence[Path], suffixes: Sequence[str], known_by: str = PROGRAM
) -> str:
    """Return the path of a result, after checking that writing it replaces nothing else.

    Parameters
    ----------
    path
        Value of ``--out``.
    sources
        Files and folders that are read.
    suffixes
        Allowed endings.
    known_by
        How an earlier result of the same command, which may be replaced, is recognized: first
        column of a table, or key of ``uns``. Pictures name the program that made them.

    Returns
    -------
    The path, with the home folder for ``~``.

    Raises
    ------
    ValueError
        If the ending is not allowed, the folder is a file, the path is one of the sources or
        belongs to a run, or a file is there that is no earlier result of this command.
    """
    place = Path(path).expanduser()
    if place.suffix not in suffixes:
        msg = f"--out {path!r} must end in one of {list(suffixes)!r}."
        raise ValueError(msg)
    parent = place.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        msg = f"--out {path!r}: {str(parent)!r} is a file, not a folder."
        raise ValueError(msg)
    check_no_run_has(place)
    for source in sources:
        real = source.expanduser().resolve()
        if place.resolve() == real or (place.exists() and place.samefile(real)):
            msg = f"--out {path!r} is {str(source)!r}, which is read. Choose another name."
            raise ValueError(msg)
    if place.exists() and not _is_ours(place, known_by):
        msg = (
            f"--out {path!r} exists, and is not an earlier result of this command. Choose another "
            "name, or remove it first."
        )
        raise ValueError(msg)
    return str(place)


def _is_ours(path: Path, known_by: str) -> bool:
    try:
        if path.suffix == ".h5ad":
            with h5py.File(path, "r") as file:
                return f"uns/{known_by}" in file
        if path.suffix == ".zarr":
            return (path / "uns" / known_by).exists()
        if path.suffix != ".csv":
            return PROGRAM.encode() in path.read_bytes()
        with path.open(encoding="utf-8") as table:
            return table.readline().split(",")[0].strip() == known_by
    except (OSError, UnicodeDecodeError):
        return False
