"""References on the Hugging Face hub, through huggingface_hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ._extra import LOCAL, in_one_line, needed

SCHEME = "hf://"

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_ADDRESS = re.compile(rf"hf://({_PART}/{_PART})(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,95}}))?")


def repository(address: str) -> tuple[str, str | None]:
    """Return repository and revision of ``hf://OWNER/NAME`` or ``hf://OWNER/NAME@REVISION``.

    Raises
    ------
    ValueError
        For anything else.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None or ".." in address:
        msg = (
            f"{address[:120]!r} is no address on the hub: 'hf://OWNER/NAME', or "
            "'hf://OWNER/NAME@REVISION' with a branch, tag or commit."
        )
        raise ValueError(msg)
    return found[1], found[2]


def check_repository(name: str) -> None:
    """Raise unless it is ``OWNER/NAME``."""
    if re.fullmatch(f"{_PART}/{_PART}", name) is None:
        msg = f"`repository` {name[:120]!r} must be 'OWNER/NAME'."
        raise ValueError(msg)


def hub(token: str | None = None) -> Any:
    """Return what speaks to the hub: at ``HF_ENDPOINT`` if that is set, by the user's own token."""
    return needed("huggingface_hub").HfApi(
        endpoint=os.environ.get("HF_ENDPOINT"),
        token=token,
        library_name="scalex-scvi",
        library_version=version("scalex-scvi"),
    )


def getter(address: str) -> Callable[[str, Path], None]:
    """Return what fetches a file of a repository into a folder, all of one commit."""
    name, revision = repository(address)
    api = hub()
    with explained(address):
        commit = api.model_info(name, revision=revision).sha

    def get(file: str, folder: Path) -> None:
        with explained(address):
            api.hf_hub_download(name, file, revision=commit, local_dir=folder)

    return get


@contextmanager
def explained(address: str) -> Iterator[None]:
    """Say in our words what went wrong with the hub.

    Raises
    ------
    FileNotFoundError
        If there is no such repository, revision or file, or none that the user may see.
    ConnectionError
        If the hub cannot be reached, or refuses.
    ValueError
        If the hub cannot take it, for a license that it does not know, for example.
    """
    errors = needed("huggingface_hub").errors
    nothing = (
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
        errors.EntryNotFoundError,
    )
    try:
        yield
    except (OSError, _of_the_network()) as error:
        if getattr(error, "errno", None) in LOCAL:
            raise
        if isinstance(error, nothing) and not isinstance(error, errors.LocalEntryNotFoundError):
            msg = (
                f"There is no reference at {address!r}, or none that you may see. Where it is "
                "private, log in first: `hf auth login`."
            )
            raise FileNotFoundError(msg) from error
        msg = f"{address!r} could not be reached, or refuses: {in_one_line(error)}"
        raise ConnectionError(msg) from error
    except ValueError as error:
        msg = f"The hub does not take {address!r}: {in_one_line(error)}"
        raise ValueError(msg) from error


def _of_the_network() -> type[Exception]:
    """Return the errors of whatever the installed huggingface_hub speaks through."""
    for cls in needed("huggingface_hub").errors.HfHubHTTPError.__mro__:
        if cls.__name__ == "HTTPError":
            return cls
    return OSError
