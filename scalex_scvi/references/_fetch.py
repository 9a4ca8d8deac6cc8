"""From what a user calls a reference to a folder with its files."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scalex_scvi._core.unfinished import arrive, current, unfinished

from . import _hub, _url
from ._cache import (
    SOURCE_FILE,
    VARIABLE,
    available,
    cache_folder,
    has_cache,
    kept_from,
    named,
    place_of,
)
from ._format import ABOUT_FILE, FILES, NAME, check_files, read_about, sha256_of

logger = logging.getLogger(__name__)


def fetched(where: str | os.PathLike[str], sha256: str | None, *, update: bool) -> Path:
    """Return the folder of a reference, fetched if need be; its files are checked.

    Parameters
    ----------
    where, sha256, update
        See :func:`scalex_scvi.references.load`.
    """
    check_place(where, name="where")
    folder = _folder(where, update=update)
    about = read_about(folder / ABOUT_FILE)
    _check_pinned(folder, sha256)
    check_files(folder, about)
    return folder


def check_place(where: Any, *, name: str) -> None:
    """Raise a ``TypeError`` unless a reference is named by text or a path."""
    if not isinstance(where, str | os.PathLike):
        msg = (
            f"`{name}` is a {type(where).__name__!r}; a reference is named by its folder, its "
            "address or its name. A model is made one by `scalex_scvi.references.save`."
        )
        raise TypeError(msg)


def is_remote(where: str) -> bool:
    """Whether it is an address on the hub or on a server.

    Parameters
    ----------
    where
        See :func:`load`.
    """
    return where.startswith((_hub.SCHEME, *_url.SCHEMES))


def _folder(where: str | os.PathLike[str], *, update: bool) -> Path:
    text = os.fspath(where)
    if is_remote(text):
        text = text.rstrip("/")
        found = None if update else kept_from(text)
        return _fetch(text) if found is None else found
    folder = current(Path(text).expanduser())
    if folder.exists():
        return folder
    if NAME.fullmatch(text) is None:
        msg = (
            f"There is no folder {text[:200]!r}. A reference is a folder, 'hf://OWNER/NAME', an "
            "address 'https://…', or the name of one that was fetched, or saved here, before."
        )
        raise FileNotFoundError(msg)
    return _by_name(text, update=update)


def _by_name(name: str, *, update: bool) -> Path:
    found = named(name)
    if len(found) == 1:
        folder, source = found[0]
        return _fetch(source) if update and is_remote(source) else folder
    if found:
        sources = [source for _, source in found]
        msg = (
            f"{name!r} is the name of {len(found)} references: {sources!r}. Give one of these "
            "instead."
        )
        raise ValueError(msg)
    known = list(available()["name"].unique())
    hint = "" if has_cache() else f" Names are kept with the extra 'hub', or where {VARIABLE} says."
    msg = (
        f"There is no folder {name!r}, and no reference of this name was fetched, or saved here, "
        f"before: {known!r}. Give its folder, 'hf://OWNER/NAME' or 'https://…'.{hint}"
    )
    raise FileNotFoundError(msg)


def _fetch(source: str) -> Path:
    """Fetch all files of a reference into the cache, whole or not at all."""
    on_hub = source.startswith(_hub.SCHEME)
    get: Callable[[str, Path], None] = (_hub if on_hub else _url).getter(source)
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    logger.info("Fetching %s.", source)
    with unfinished(cache) as hidden:
        got = hidden / "got"
        got.mkdir()
        get(ABOUT_FILE, got)
        about: dict[str, Any] = read_about(got / ABOUT_FILE)
        for file in FILES:
            if file != ABOUT_FILE:
                get(file, got)
        check_files(got, about)
        place = place_of(source, about["name"])
        new = hidden / "new" / place.name
        new.mkdir()
        for file in FILES:  # and nothing that a program left beside them
            os.replace(got / file, new / file)
        (new / SOURCE_FILE).write_text(source + "\n", encoding="utf-8")
        earlier = kept_from(source)
        leaving = [] if earlier is None or earlier.name == place.name else [earlier.name]
        arrive(hidden, leaving)
    return place


def _check_pinned(folder: Path, sha256: str | None) -> None:
    if sha256 is None:
        return
    found = sha256_of(folder / ABOUT_FILE)
    if found != sha256.lower():
        msg = (
            f"{str(folder)!r} is not the expected reference: the SHA-256 of its "
            f"{ABOUT_FILE!r} is {found!r}, not {sha256[:80]!r}. `update=True` fetches it anew."
        )
        raise ValueError(msg)
