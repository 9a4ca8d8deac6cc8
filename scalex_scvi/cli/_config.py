"""Options read from a YAML file (``--config``), and written to one after a run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OPTIONS_FILE = "options.yaml"
"""File in the run folder with the options of the run, in the form that ``--config`` reads."""

_NOT_REPEATED = ("command", "config", "resume")


def apply_config(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Make the options of ``--config FILE`` the parser's defaults, which typed options override.

    Parameters
    ----------
    parser
        The parser that will read ``argv``; its defaults are changed.
    argv
        What was typed.

    Raises
    ------
    SystemExit
        With 2, after a line on stderr, if the file cannot be read, or an option or value is not
        allowed.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    path = finder.parse_known_args(argv)[0].config
    if path is None:
        return
    target = subparsers(parser).get(argv[0], parser)
    actions = actions_by_name(target)
    for name, value in _read(path, target).items():
        if name not in actions:
            target.error(f"--config {path!r}: no option {name!r}. Options: {sorted(actions)}.")
        action = actions[name]
        action.default = _checked(action, value, target, f"--config {path!r}: {name!r}")
        action.required = False
        if action.nargs == "+" and not action.option_strings:
            action.nargs = "*"


def write_options(args: argparse.Namespace) -> None:
    """Write the options that were used into the run folder, for ``--config``.

    The command, ``--config`` itself and ``--resume`` are left out. Commands without a run folder
    write nothing.

    Parameters
    ----------
    args
        Parsed options.
    """
    outdir = getattr(args, "outdir", None)
    if outdir is None:
        return
    import yaml

    from scalex_scvi.io import RunFolder

    used = {
        name.replace("_", "-"): value
        for name, value in vars(args).items()
        if name not in _NOT_REPEATED and value is not None
    }
    kind = "demo" if getattr(args, "command", None) == "demo" else "run"
    RunFolder(outdir, kind).add_text(yaml.safe_dump(used, sort_keys=False), OPTIONS_FILE)


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command by its name; empty for a parser without commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    return {}


def actions_by_name(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return the parser's actions by each name that ``--config`` takes, with dashes."""
    named: dict[str, argparse.Action] = {}
    for action in parser._actions:
        names = [action.dest, *(flag.lstrip("-") for flag in action.option_strings)]
        named |= {name.replace("_", "-"): action for name in names if len(name) > 1}
    return {name: a for name, a in named.items() if name not in ("help", "version", "config")}


def _read(path: str, parser: argparse.ArgumentParser) -> dict[str, Any]:
    import yaml

    try:
        options = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        parser.error(f"--config {path!r} cannot be read: {error}")
    if not isinstance(options, dict):
        parser.error(f"--config {path!r} must hold lines 'option: value'.")
    return {str(name).replace("_", "-"): value for name, value in options.items()}


def _checked(
    action: argparse.Action, value: Any, parser: argparse.ArgumentParser, where: str
) -> Any:
    """Return a value of the file converted as on the command line, or report it and exit."""
    is_switch = action.nargs == 0
    if is_switch or isinstance(value, bool):
        if isinstance(value, bool) and (is_switch or action.nargs == "?"):
            return value
        parser.error(f"{where} must be {'true or false' if is_switch else 'a value'}: {value!r}.")
    if action.nargs in ("+", "*"):
        values = value if isinstance(value, list) else [value]
        return [_typed(action, one, parser, where) for one in values]
    return _typed(action, value, parser, where)


def _typed(action: argparse.Action, value: Any, parser: argparse.ArgumentParser, where: str) -> Any:
    convert = action.type if callable(action.type) else str
    try:
        typed = convert(str(value))
    except ValueError:
        parser.error(f"{where}: {value!r} is not a valid {getattr(convert, '__name__', 'value')}.")
    if action.choices is not None and typed not in action.choices:
        parser.error(f"{where} must be one of {list(action.choices)}, not {value!r}.")
    return typed
