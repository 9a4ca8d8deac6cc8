"""Commands that need no data, and import nothing that is slow to load."""

from __future__ import annotations

import argparse
import json
import platform
import sys

from scalex_scvi import __version__
from scalex_scvi._core.versions import versions_of

_PACKAGES = ("scvi-tools", "torch", "lightning", "anndata", "scanpy", "numpy", "scipy", "pandas")

_SCRIPT = """\
{first}_scalex_scvi() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} words
  case ${{COMP_WORDS[1]}} in
{cases}
    *) words="{commands}" ;;
  esac
  if [[ $cur == -* || $COMP_CWORD -eq 1 ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
  else
    COMPREPLY=($(compgen -f -- "$cur"))
  fi
}}
complete -o filenames -F _scalex_scvi scalex-scvi
"""


def versions(args: argparse.Namespace) -> None:
    """Print the versions of Python, this package and its main dependencies."""
    found: dict[str, str | None] = {
        "scalex-scvi": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    found |= versions_of(_PACKAGES)
    if args.json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return
    for name, value in found.items():
        sys.stdout.write(f"{name:12s} {value or 'not installed'}\n")


def completion(args: argparse.Namespace) -> None:
    """Print a script with which a shell completes commands and options."""
    from ._config import subparsers
    from ._parser import build_parser

    commands = subparsers(build_parser())
    cases = []
    for name, parser in commands.items():
        shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
        flags = [flag for action in shown for flag in action.option_strings]
        cases.append(f'    {name}) words="{" ".join(flags)}" ;;')
    first = "autoload -U +X bashcompinit && bashcompinit\n" if args.shell == "zsh" else ""
    script = _SCRIPT.format(first=first, cases="\n".join(cases), commands=" ".join(commands))
    sys.stdout.write(script)


COMMANDS = {"versions": versions, "completion": completion}
