"""Messages of the package reworded for the shell: ``--option value`` in place of an argument."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Callable, Mapping
from types import MappingProxyType

from ._config import actions_by_name

_ARGUMENT = re.compile(r"`(?P<name>[a-z]\w*)(?:=(?P<inside>[^`]*))?`(?:=(?P<outside>[^\s,;:)]+))?")
"""An argument in a message: `` `name` ``, `` `name=value` `` or `` `name`=value ``."""

_ALSO: Mapping[str, str] = MappingProxyType(
    {
        "batch_key": "batch_name",
        "keys": "use_rep",
        "labels_key": "label",
        "layer": "use_layer",
        "path": "out",
        "save": "out",
        "transform_batch": "batch",
    }
)
"""Names of options, by the arguments of functions that they are passed to under another name. An
option with the argument's own name takes precedence."""


def shell_wording(parser: argparse.ArgumentParser) -> Callable[[str], str]:
    """Return a function that replaces the arguments named in a message by a command's options.

    Arguments without an option of the command stay as they are.

    Parameters
    ----------
    parser
        Parser of the command.
    """
    options = {
        name.replace("-", "_"): action
        for name, action in actions_by_name(parser).items()
        if action.option_strings
    }

    def worded(text: str) -> str:
        return _ARGUMENT.sub(option, text)

    def option(found: re.Match[str]) -> str:
        name = found["name"]
        action = options.get(name) or options.get(_ALSO.get(name, ""))
        return found[0] if action is None else _typed(action, found["inside"] or found["outside"])

    return worded


def _typed(action: argparse.Action, value: str | None) -> str:
    """Return an option with its value, as it is typed."""
    flag = next(name for name in action.option_strings if name.startswith("--"))
    if value is None:
        return flag
    try:
        meant = ast.literal_eval(value)
    except (ValueError, SyntaxError):  # a description of values
        return f"{flag} {value}"
    if meant is False or meant is None:
        opposite = [name for name in action.option_strings if name.startswith("--no-")]
        return opposite[0] if opposite and meant is False else f"no {flag}"
    if meant is True and action.nargs in (0, "?"):
        return flag
    values = meant if isinstance(meant, list | tuple) else [meant]
    return " ".join([flag, *(shlex.quote(str(one)) for one in values)])
