"""Freed memory goes back to the system."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any


def give_back_memory() -> None:
    """Give memory that was freed back to the system, where the C library is glibc.

    Threads that work on one large block after the other leave holes of a few hundred megabytes
    between what is still in use, which glibc keeps for later.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    """Return the function of glibc; other C libraries have none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
