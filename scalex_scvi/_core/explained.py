"""Errors that say what is wrong, and others, whose traceback is needed to find out."""

from __future__ import annotations

import traceback

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
    modules = [module for module, _ in _lines(error)]
    return bool(modules) and modules[-1].startswith(PACKAGE)


def last_line_of_ours(error: BaseException) -> str:
    """Say which line of this package an error came through last, for a report of it."""
    ours = [
        f"{module}, line {line}" for module, line in _lines(error) if module.startswith(PACKAGE)
    ]
    return ours[-1] if ours else "no line of this package"


def _lines(error: BaseException) -> list[tuple[str, int]]:
    """Modules and lines that an error came through, that which raised it last."""
    return [
        (frame.f_globals.get("__name__", ""), line)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
