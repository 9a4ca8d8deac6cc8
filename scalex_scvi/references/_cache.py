"""Where fetched references are kept."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from scalex_scvi._core.unfinished import current

from ._extra import needed
from ._format import ABOUT_FILE, read_about

logger = logging.getLogger(__name__)

VARIABLE = "SCALEX_SCVI_CACHE"
"""Environment variable that names the folder."""

SOURCE_FILE = "source.txt"
"""Beside the files of a fetched reference: where it is from."""


def cache_folder() -> Path:
    """Return the folder of fetched references; it is made on first use.

    ``SCALEX_SCVI_CACHE`` names it, else it is the usual one of the system for caches, on Linux
    ``~/.cache/scalex-scvi``.
    """
    named = os.environ.get(VARIABLE)
    folder = Path(named).expanduser() if named else Path(needed("pooch").os_cache("scalex-scvi"))
    return folder / "references"


def place_of(source: str, name: str) -> Path:
    """Folder of what is fetched from a source: readable, and of no other source."""
    return cache_folder() / f"{name}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"


def kept_from(source: str) -> Path | None:
    """Folder of what was fetched from a source before, ``None`` if nothing was."""
    return next((folder for folder, found, _ in _kept() if found == source), None)


def named(name: str) -> list[tuple[Path, str]]:
    """Folders and sources of the fetched references of a name."""
    return [(folder, source) for folder, source, about in _kept() if about["name"] == name]


def available() -> pd.DataFrame:
    """Return the references that were fetched, which can be used without a network.

    Returns
    -------
    One row for each, by name: ``name``, ``source`` (for :func:`load`), ``cells``, ``genes``,
    ``labels``, ``license`` and ``folder``. The name will do for :func:`load`, if it is the only one
    of that name.

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
    """Folders of what was fetched, where it is from, and what it says of itself."""
    if VARIABLE not in os.environ and find_spec("pooch") is None:
        return  # nothing can have been fetched
    for path in sorted(cache_folder().glob(f"*/{SOURCE_FILE}")):
        folder = current(path.parent)
        try:
            about = read_about(folder / ABOUT_FILE)
            source = path.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            logger.warning("A fetched reference is left out: %s Remove %s.", error, folder)
            continue
        yield folder, source, about
