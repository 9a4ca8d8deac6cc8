"""What only those need who fetch and share references."""

from __future__ import annotations

import errno
from importlib import import_module
from typing import Any

LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO)
"""What may go wrong with a download that is no fault of the network."""


def needed(module: str) -> Any:
    """Import a package of the extra ``hub``.

    Raises
    ------
    ImportError
        If it is not installed, with how to install it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module:
            raise
        msg = (
            f"References from the network need {module!r}: pip install 'scalex-scvi[hub]'. A "
            "reference in a folder needs nothing more."
        )
        raise ImportError(msg) from error


def in_one_line(error: BaseException) -> str:
    """Return what an error of another package says."""
    return " ".join(str(error).split())[:300] or type(error).__name__
