"""Errors that say what is wrong, and others, whose traceback is needed to find out."""

from __future__ import annotations

PACKAGE = "scalex_scvi"

_OF_THE_USER = (KeyError, ValueError, TypeError, RuntimeError, ConnectionError)


def is_explained(error: BaseException) -> bool:
    """Whether the text of an error is all that its user needs.

    That holds for errors that this package raises, for those of the system (no such file, disk
    full, a missing package), and for an interruption. Any other error of a library below is a bug
    of this package, whose traceback is needed.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return True
    if isinstance(error, _OF_THE_USER):
        return is_ours(error)
    return isinstance(error, KeyboardInterrupt | OSError | ImportError)


def is_ours(error: BaseException) -> bool:
    """Whether an error was raised by a line of this package, and not below it."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return at is not None and at.tb_frame.f_globals.get("__name__", "").startswith(PACKAGE)
