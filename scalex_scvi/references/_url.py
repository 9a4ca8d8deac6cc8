"""References at an address, a folder of files on any server, through pooch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from ._extra import LOCAL, in_one_line, needed

SCHEMES = ("https://", "http://")

TIMEOUT = 30
"""Seconds without an answer after which a server is not waited for."""


def check_url(url: str) -> None:
    """Raise unless it is the address of a folder on a server.

    Raises
    ------
    ValueError
        For anything else.
    """
    parts = urlsplit(url)
    if not parts.hostname or parts.query or parts.fragment or parts.username or len(url) > 2_000:
        msg = (
            f"{url[:120]!r} is no address of a reference: that of the folder with its files, "
            "'https://SERVER/FOLDER', without '?', '#' and passwords."
        )
        raise ValueError(msg)


def getter(url: str) -> Callable[[str, Path], None]:
    """Return what fetches a file of the folder at an address into a folder.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ConnectionError
        If the server cannot be reached, or refuses.
    """
    check_url(url)
    pooch = needed("pooch")
    download = pooch.HTTPDownloader(timeout=TIMEOUT, chunk_size=2**16)

    def get(file: str, folder: Path) -> None:
        logger = pooch.get_logger()
        level = logger.level
        logger.setLevel("WARNING")
        try:
            # What the file must be is checked with the others, whatever way they came.
            pooch.retrieve(f"{url}/{file}", None, fname=file, path=folder, downloader=download)
        except OSError as error:
            if error.errno in LOCAL:
                raise
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status in (403, 404, 410):
                msg = f"There is no reference at {url!r}: the server answers {status} to {file!r}."
                raise FileNotFoundError(msg) from error
            msg = f"{url!r} could not be reached, or refuses: {in_one_line(error)}"
            raise ConnectionError(msg) from error
        finally:
            logger.setLevel(level)

    return get
