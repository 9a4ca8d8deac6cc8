"""Numbers that a user gives: whether they are in their range."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any


def check_whole(value: Any, least: int, *, name: str) -> None:
    """Raise unless ``value`` is a whole number of at least ``least``."""
    if isinstance(value, bool) or not (isinstance(value, Integral) and int(value) >= least):
        msg = f"`{name}` must be a whole number of at least {least}, got {value!r}."
        raise ValueError(msg)


def check_share(value: Any, *, name: str, zero: bool = False) -> None:
    """Raise unless ``value`` is in (0, 1], or with ``zero`` in [0, 1]."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not (is_number and 0 <= float(value) <= 1 and (zero or value > 0)):
        allowed = "[0, 1]" if zero else "(0, 1]"
        msg = f"`{name}` is a share and must be in {allowed}, got {value!r}."
        raise ValueError(msg)
