"""References of this machine: where fetched ones are kept, and where saved ones are."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from scalex_scvi._core.files import whole_file
from scalex_scvi._core.unfinished import current

from ._extra import needed
from ._format import ABOUT_FILE, read_about

logger = logging.getLogger(__name__)

VARIABLE = "SCALEX_SCVI_CACHE"
"""Environment variable that names the folder."""

SOURCE_FILE = "source.txt"
"""Beside the files of a fetched reference: where it is from."""

NOTE_PREFIX = "saved-"
"""Begins the names of notes: each holds the path of a folder that a reference was saved in."""


def has_cache() -> bool:
    """Whether it is known where the cache is: without pooch only if it is named."""
    return bool(os.environ.get(VARIABLE)) or find_spec("pooch") is not None


def cache_folder() -> Path:
    """Return the folder of fetched references and of notes; it is made on first use.

    ``SCALEX_SCVI_CACHE`` names it, else it is the usual one of the system for caches, on Linux
    ``~/.cache/scalex-scvi``.
    """
    named = os.environ.get(VARIABLE)
    folder = Path(named).expanduser() if named else Path(needed("pooch").os_cache("scalex-scvi"))
    return folder / "references"


def place_of(source: str, name: str) -> Path:
    """Folder of what is fetched from a source: readable, and of no other source."""
    return cache_folder() / f"{name}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"


def note_saved(folder: Path) -> None:
    """Note where a reference was saved, so that its name will do; a log line if that fails.

    The note is named by the path alone, and its text is the path: nothing in it comes from the
    name of the reference, which is read from the folder whenever it is asked for.
    """
    if not has_cache():
        logger.debug("%s is unset and there is no pooch: no note of %s is kept.", VARIABLE, folder)
        return
    try:
        path = os.fsencode(folder.resolve())
        cache = cache_folder()
        cache.mkdir(parents=True, exist_ok=True)
        note = f"{NOTE_PREFIX}{hashlib.sha256(path).hexdigest()[:12]}.txt"
        with whole_file(cache / note) as unfinished_note:
            unfinished_note.write_bytes(path)
    except (OSError, RuntimeError, ValueError) as error:  # a home that cannot be written, or none
        logger.info("Only the path of %s will do, not its name: %s", folder, error)


def kept_from(source: str) -> Path | None:
    """Folder of what was fetched from a source before, ``None`` if nothing was."""
    return next((folder for folder, found, _ in _kept() if found == source), None)


def named(name: str) -> list[tuple[Path, str]]:
    """Folders and sources of the references of a name, fetched or saved."""
    return [(folder, source) for folder, source, about in _kept() if about["name"] == name]


def available() -> pd.DataFrame:
    """List the references on this machine, fetched or saved: they load without a network.

    Returns
    -------
    One row for each, sorted by name: ``name``, ``source`` (the address that it was fetched from, or
    the folder that :func:`save` wrote; :func:`load` takes either), ``cells``, ``genes``,
    ``labels``, ``license`` and ``folder``. :func:`load` also takes the name, if no other reference
    has it. A folder that was moved or removed is not listed.

    Examples
    --------
    >>> import scalex_scvi as sx
    >>> list(sx.references.available())
    ['name', 'source', 'cells', 'genes', 'labels', 'license', 'folder']
    """
    columns = ["name", "source", "cells", "genes", "labels", "license", "folder"]
    rows = []
    for folder, source, about in _kept():
        facts = (about["n_cells"], about["n_genes"], ", ".join(about["labels"]), about["license"])
        rows.append((about["name"], source, *facts, str(folder)))
    return pd.DataFrame(sorted(rows), columns=columns)


def _kept() -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """Folders of what was fetched or saved, where it is from, and what it says of itself."""
    if not has_cache():
        return  # nothing can have been fetched or noted
    yield from _fetched()
    yield from _saved()


def _fetched() -> Iterator[tuple[Path, str, dict[str, Any]]]:
    for path in sorted(cache_folder().glob(f"*/{SOURCE_FILE}")):
        folder = current(path.parent)
        try:
            about = read_about(folder / ABOUT_FILE)
            source = path.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            logger.warning("A fetched reference is left out: %s Remove %s.", error, folder)
            continue
        yield folder, source, about


def _saved() -> Iterator[tuple[Path, str, dict[str, Any]]]:
    for note in sorted(cache_folder().glob(f"{NOTE_PREFIX}*.txt")):
        try:
            path = Path(os.fsdecode(note.read_bytes()))
            folder = current(path)
            if not os.path.isfile(folder / ABOUT_FILE):
                continue  # moved, removed, or on a disk that is not there now
            about = read_about(folder / ABOUT_FILE)
        except (OSError, ValueError) as error:
            logger.warning("A saved reference is left out: %s", error)
            continue
        yield folder, str(path), about
