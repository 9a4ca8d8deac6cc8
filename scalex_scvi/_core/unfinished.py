"""Hidden folders in which files are written until they are whole.

``.scalex-unfinished-XXXXXXXX/`` lies beside the final places of its files, so that moving is
renaming. In it are

- ``owner``, locked while the process that writes lives: the lock goes with it, however it ends;
- ``new/``, what is being written;
- ``finished/``, the same when it is whole. The rename from ``new/`` decides: from then on these are
  the files, and whoever comes next moves them in if the process was killed before it could;
- ``leaving``, names that go when the new files come, and ``previous/``, what they replace.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # not on Windows: leftovers stay there
    fcntl = None  # type: ignore[assignment]

PREFIX = ".scalex-unfinished-"

HDF5_REASON = re.compile(r"\berrno = (\d+)")
"""In the text of HDF5's errors, of several lines; not all have it as their ``errno``."""


@contextmanager
def unfinished(folder: Path) -> Iterator[Path]:
    """Yield a new hidden folder in ``folder``, with an empty ``new/``; it is removed in the end.

    Leftovers of dead processes are removed first, or moved in where they were decided.

    Raises
    ------
    OSError
        If the folder cannot be written into, also where HDF5 finds that.
    """
    recover(folder)
    place, owner = _claimed(folder)
    try:
        (place / "new").mkdir()
        yield place
    except (OSError, RuntimeError) as error:  # of HDF5, too, which has the reason in its text
        reason = HDF5_REASON.search(str(error))
        if reason is None:
            raise
        number = int(reason[1])
        raise OSError(number, os.strerror(number), str(folder)) from error
    finally:
        with owner:
            _dismiss(place)


def arrive(place: Path, leaving: Sequence[str] = ()) -> None:
    """Put everything in ``new/`` of an unfinished folder into its place, all or nothing.

    Parameters
    ----------
    place
        What :func:`unfinished` yields.
    leaving
        Further names beside it, which go when these come.
    """
    new = {path.name for path in (place / "new").iterdir()}
    gone = [name for name in leaving if name not in new]
    (place / "leaving").write_text(json.dumps(gone), encoding="utf-8")
    os.replace(place / "new", place / "finished")
    _move_in(place)


def recover(folder: Path) -> None:
    """Remove what dead processes left unfinished in a folder, and move in what was finished."""
    for place in folder.glob(f"{PREFIX}*"):
        owner = _lock(place / "owner", wait=False)
        if owner is None:  # alive, or just being made, or nobody can tell
            with suppress(OSError):
                place.rmdir()
            continue
        with owner:
            _dismiss(place)


def current(path: Path) -> Path:
    """Return where a file or folder is: in its place, or finished and not moved in yet."""
    for finished in path.parent.glob(f"{PREFIX}*/finished"):
        if os.path.lexists(finished / path.name):
            return finished / path.name
    return path


def anyone_writes(folder: Path, but: Path | None = None) -> bool:
    """Whether a living process has an unfinished folder there, other than ``but``."""
    for place in folder.glob(f"{PREFIX}*"):
        if (but is None or place.name != but.name) and (place / "owner").exists():
            owner = _lock(place / "owner", wait=False)
            if owner is None:
                return True
            owner.close()
    return False


def _move_in(place: Path) -> None:
    folder, finished, previous = place.parent, place / "finished", place / "previous"
    previous.mkdir(exist_ok=True)
    names = sorted(path.name for path in finished.iterdir())
    gone = json.loads((place / "leaving").read_text(encoding="utf-8"))
    # All old files go before the first new one comes: never some of each.
    for name in [*gone, *names]:
        if os.path.lexists(folder / name):
            os.replace(folder / name, previous / name)
    for name in names:
        os.replace(finished / name, folder / name)
    finished.rmdir()


def _dismiss(place: Path) -> None:
    """Remove an unfinished folder; what was decided is moved in first, or stays if it cannot be."""
    if (place / "finished").exists():
        try:
            _move_in(place)
        except OSError:
            return
    shutil.rmtree(place, ignore_errors=True)


def _claimed(folder: Path) -> tuple[Path, IO[str]]:
    """Make a folder and lock it; made anew if it was taken for a leftover before it was locked."""
    while True:
        try:
            place = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
        except OSError as error:
            msg = f"nothing can be written into the folder {str(folder)!r}: {error.strerror}"
            raise type(error)(error.errno, msg) from error
        with suppress(FileNotFoundError):
            (place / "owner").write_text(f"scalex-scvi, process {os.getpid()}\n", encoding="utf-8")
            owner = _lock(place / "owner", wait=True)
            if owner is not None and (place / "owner").exists():
                return place, owner


def _lock(path: Path, *, wait: bool) -> IO[str] | None:
    """Open and lock a file, or return ``None`` where another process holds it."""
    try:
        file = path.open("r", encoding="utf-8")
    except OSError:
        return None
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            return file
    except OSError:  # held, or a file system without locks
        pass
    if wait:
        return file
    file.close()
    return None
