"""Sharing a reference."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from ._card import with_address
from ._extra import needed
from ._fetch import check_place, fetched, is_remote
from ._format import ABOUT_FILE, CARD_FILE, FILES, read_about
from ._hub import SCHEME, check_repository, explained, hub

logger = logging.getLogger(__name__)


def push(
    folder: str | os.PathLike[str],
    repository: str,
    *,
    private: bool = False,
    token: str | None = None,
    message: str = "Reference of scalex-scvi",
) -> str:
    """Put a reference on the Hugging Face hub, as a model repository of its own.

    Its files are checked, and uploaded in one commit; nothing else is. The card on the hub shows
    how to load the reference from there instead of from the folder. To share a reference on another
    server, copy the folder there: :func:`load` takes its address.

    Parameters
    ----------
    folder
        What :func:`save` wrote.
    repository
        ``"OWNER/NAME"``. It is made if there is none.
    private
        Whether a new repository is private.
    token
        Access token with the right to write; default: that of ``hf auth login`` or ``HF_TOKEN``.
    message
        Of the commit.

    Returns
    -------
    The address for :func:`load`, ``"hf://OWNER/NAME"``.

    Raises
    ------
    ConnectionError
        If the hub cannot be reached, or refuses.
    ImportError
        Without huggingface_hub (extra ``hub``).
    FileNotFoundError, ValueError
        If ``folder`` is no reference, or is damaged, for another ``repository``, or for a license
        that the hub does not know.
    TypeError
        If ``folder`` is neither text nor a path.

    Examples
    --------
    >>> import scalex_scvi as sx
    >>> sx.references.push("pancreas", "owner/pancreas")  # doctest: +SKIP
    'hf://owner/pancreas'
    """
    check_repository(repository)
    check_place(folder, name="folder")
    if is_remote(os.fspath(folder)):
        msg = f"`folder` {os.fspath(folder)!r} is an address: give the folder that `save` wrote."
        raise ValueError(msg)
    place = fetched(Path(folder), None, update=False)
    address = SCHEME + repository
    api = hub(token)
    with explained(address):
        api.create_repo(repository, private=private, exist_ok=True)
        added = [
            needed("huggingface_hub").CommitOperationAdd(file, _content(place, file, address))
            for file in FILES
            if (place / file).is_file()
        ]
        api.create_commit(repository, added, commit_message=message)
    logger.info("The reference is at %s.", address)
    return address


def _content(folder: Path, file: str, address: str) -> Path | bytes:
    path = folder / file
    if file != CARD_FILE:
        return path
    text = path.read_text(encoding="utf-8")
    return with_address(text, read_about(folder / ABOUT_FILE), address).encode()
