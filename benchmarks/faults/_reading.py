"""What reading a file does."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from ._child import SERVER

LONGEST = 120
"""Seconds after which reading a small file is taken to never end."""


def outcome(read_it: Callable[[], object]) -> str:
    """Tell what reading does: it is ``read``, ``refused`` by an error of ours, or ``raw``.

    An error is ours if it is of a usual class and is raised by code of the package.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read_it()
    except (ValueError, FileNotFoundError, KeyError, MemoryError, TypeError) as error:
        raised_by = traceback.extract_tb(error.__traceback__)[-1].filename
        return "refused" if "/scalex_scvi/" in raised_by else f"raw {error!r:.80}"
    except Exception as error:
        return f"raw {error!r:.80}"
    return "read"


def outcome_elsewhere(read_it: Callable[[Path], object], path: Path) -> str:
    """Read a file in a process of its own: the HDF5 library may crash, or never end.

    See :func:`outcome`.
    """
    here, there = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=_send_outcome, args=(read_it, path, there))
    process.start()
    there.close()
    try:
        found = here.recv() if here.poll(LONGEST) else "hung"
    except EOFError:
        found = "crashed"
    process.kill()
    process.join()
    return found


def _send_outcome(read_it: Callable[[Path], object], path: Path, pipe: Connection) -> None:
    pipe.send(outcome(lambda: read_it(path)))
