"""Options that travel together as a frozen object, each with its default and its help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, TypeVar

Options = TypeVar("Options")


def option(default: Any, help: str) -> Any:
    """Return a dataclass field with a default, and the help that the command line shows."""
    return field(default=default, metadata={"help": help})


def options_in(kind: type[Options], given: Mapping[str, Any], **more: Any) -> Options:
    """Return the options of a kind, ``Reading`` for example, that are among others.

    Parameters
    ----------
    kind
        A dataclass.
    given
        Values by name; names that are no options of this kind are left out.
    **more
        Values that win.
    """
    names = [option.name for option in fields(kind)]  # type: ignore[arg-type]
    return kind(**({name: given[name] for name in names if name in given} | more))
