"""What numba compiles is kept on disk, for the next process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def compiled(signature: Any, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function for types of arguments by numba, once for all processes if possible.

    What is compiled releases the interpreter's lock.

    Parameters
    ----------
    signature
        Types of the arguments and the result, e.g. ``numba.void(numba.int64)``.
    **options
        Further options of :func:`numba.njit`.
    """
    from numba import njit

    how: dict[str, Any] = {"nogil": True, "error_model": "numpy"} | options

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(signature, cache=True, **how)(function)
        except RuntimeError:  # no folder that what is compiled could be kept in
            return njit(signature, **how)(function)

    return decorate
