"""Options that travel together as a frozen object, each with its default and its help."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def option(default: Any, help: str) -> Any:
    """Return a dataclass field with a default, and the help that the command line shows."""
    return field(default=default, metadata={"help": help})
