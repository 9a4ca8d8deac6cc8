"""Command line: parses options, calls the package's functions, and reports their errors."""

from __future__ import annotations

import argparse
import errno
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from scalex_scvi._core.explained import is_explained, is_ours, last_line_of_ours
from scalex_scvi._core.messages import messages_on_console, without_hints_of_scvi

from ._config import apply_config, subparsers, write_options
from ._light import COMMANDS as LIGHT_COMMANDS
from ._parser import build_parser, build_scalex_parser
from ._wording import shell_wording

__all__ = ["build_parser", "build_scalex_parser", "main", "scalex_main"]

FAILED = 1
"""Exit code of a run that failed for another reason than its arguments or data: a full disk, no
network, training that diverged, or a defect of this package."""

MISTAKE = 2
"""Exit code for wrong arguments or data."""

_NOT_OF_THE_USER = (errno.ENOSPC, errno.EDQUOT, errno.EIO)

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
    Exit code: 0 for success; 2 for wrong arguments or data, 1 for a run that failed, 130 after an
    interruption (see ``docs/reliability.md``), each with one line on stderr.

    Raises
    ------
    SystemExit
        With 2 for options that cannot be parsed, with 0 after ``--help`` and ``--version``.
    """
    parser = build_parser()
    args = _parse(parser, argv)
    return _run(args, f"scalex-scvi {args.command}", subparsers(parser)[args.command])


def scalex_main(argv: Sequence[str] | None = None) -> int:
    """Run ``SCALEX.py``, which takes the flags of the published command: see :func:`main`."""
    parser = build_scalex_parser()
    return _run(_parse(parser, argv), "SCALEX.py", parser)


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    typed = _dashes(sys.argv[1:] if argv is None else argv)
    apply_config(parser, typed)
    return parser.parse_args(typed)


def _dashes(argv: Sequence[str]) -> list[str]:
    """Spell ``--batch_name`` as ``--batch-name``; values stay as they are."""
    spelled = []
    for arg in argv:
        name, equals, value = arg.partition("=")
        spelled.append(name.replace("_", "-") + equals + value if name.startswith("--") else arg)
    return spelled


def _run(args: argparse.Namespace, name: str, parser: argparse.ArgumentParser) -> int:
    worded = shell_wording(parser)
    level = logging.WARNING if getattr(args, "quiet", False) else logging.INFO
    try:
        if getattr(args, "command", None) in LIGHT_COMMANDS:
            LIGHT_COMMANDS[args.command](args)
            return 0
        from ._commands import COMMANDS, run_scalex  # all that is slow to load

        command = COMMANDS.get(getattr(args, "command", None), run_scalex)
        with messages_on_console(True, level, worded), without_hints_of_scvi():
            command(args)
            write_options(args)
    except KeyboardInterrupt as error:
        _say(name, "interrupted; earlier results are as they were.", error, worded)
        return INTERRUPTED
    except Exception as error:
        _say(name, _text_of(error, getattr(args, "outdir", None)), error, worded)
        return _code_of(error)
    return 0


def _say(name: str, text: str, error: BaseException, worded: Callable[[str], str]) -> None:
    """Write one line to stderr: the text, then the notes of the error (PEP 678)."""
    words = worded(" ".join([text, *getattr(error, "__notes__", [])])).split()
    sys.stderr.write(f"{name}: {' '.join(words)}\n")


def _code_of(error: Exception) -> int:
    """Return :data:`MISTAKE` for errors of arguments and data, :data:`FAILED` for all others.

    A KeyError, ValueError or TypeError is one of arguments or data if this package raised it.
    """
    if isinstance(error, ConnectionError):
        return FAILED
    if isinstance(error, OSError):
        return FAILED if error.errno in _NOT_OF_THE_USER else MISTAKE
    if isinstance(error, ImportError):
        return MISTAKE
    expected = isinstance(error, KeyError | ValueError | TypeError)
    return MISTAKE if expected and is_ours(error) else FAILED


def _text_of(error: Exception, outdir: str | None) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        place = f": {error.filename!r}" if error.filename else ""
        return f"{error.strerror or error}{place}"
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if is_explained(error):
        return text
    log = None if outdir is None else Path(outdir).expanduser() / "log.txt"
    more = "" if log is None or not log.exists() else f"; the traceback is in {str(log)!r}"
    return f"unexpected {type(error).__name__}: {text} (in {last_line_of_ours(error)}{more})"
