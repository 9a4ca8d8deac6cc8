"""Command line: a thin layer over the package's functions."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from scalex_scvi._core.messages import messages_on_console

from ._config import apply_config, write_options
from ._parser import build_parser, build_scalex_parser

__all__ = ["build_parser", "build_scalex_parser", "main", "scalex_main"]

_USER_ERRORS = (OSError, KeyError, ValueError, TypeError, ImportError)
MISTAKE = 1
"""Exit code after a mistake of the user's."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``scalex-scvi``.

    Parameters
    ----------
    argv
        Arguments; default: those of the process.

    Returns
    -------
    Exit code: 0; 1 after a mistake of the user's, which is explained without a traceback; 130
    after an interruption. Wrong usage exits with 2.
    """
    args = _parse(build_parser(), argv)
    return _run(args, f"scalex-scvi {args.command}")


def scalex_main(argv: Sequence[str] | None = None) -> int:
    """Run ``SCALEX.py``: the flags of the published command. See :func:`main`."""
    return _run(_parse(build_scalex_parser(), argv), "SCALEX.py")


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    typed = _dashes(sys.argv[1:] if argv is None else argv)
    apply_config(parser, typed)
    return parser.parse_args(typed)


def _dashes(argv: Sequence[str]) -> list[str]:
    """Take ``--batch_name`` as ``--batch-name``; values stay as they are."""
    spelled = []
    for arg in argv:
        name, equals, value = arg.partition("=")
        spelled.append(name.replace("_", "-") + equals + value if name.startswith("--") else arg)
    return spelled


def _run(args: argparse.Namespace, name: str) -> int:
    level = logging.WARNING if args.quiet else logging.INFO
    try:
        from ._commands import COMMANDS, run_scalex  # all that is slow to load

        command = COMMANDS.get(getattr(args, "command", None), run_scalex)
        with messages_on_console(True, level):
            command(args)
            write_options(args)
    except _USER_ERRORS as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        sys.stderr.write(f"{name}: {' '.join(str(text).splitlines())}\n")
        return MISTAKE
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: interrupted; earlier results are as they were.\n")
        return INTERRUPTED
    return 0
