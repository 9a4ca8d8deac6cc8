"""Messages of the package, sent somewhere while a block runs."""

from __future__ import annotations

import logging
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGE_LOGGER = logging.getLogger("scalex_scvi")
SCVI_LOGGER = logging.getLogger("scvi")
LIGHTNING_LOGGER = logging.getLogger("lightning.pytorch")

_HINTS = (
    # Cells are taken from memory in blocks, see train/_loader: workers would only copy them.
    "The '.*' does not have many workers",
    # A saved model and a query's wait for cells in eval mode; train/_plan takes them out of it.
    r"Found \d+ module\(s\) in eval mode at the start of training",
    # Of a store all cells are trained on.
    "You defined a `validation_step` but have no `val_dataloader`",
    # Of Lightning's own use of torch.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)
"""Beginnings of Lightning's warnings of which a user of ours can act on none."""


def command_line() -> str | None:
    """Return the command of ours that runs, as it was typed; ``None`` in other programs."""
    program = Path(sys.argv[0]).name
    if program not in ("scalex-scvi", "SCALEX.py"):
        return None
    return shlex.join([program, *sys.argv[1:]])


@contextmanager
def messages_on_console(
    wanted: bool, level: int = logging.INFO, worded: Callable[[str], str] = str
) -> Iterator[None]:
    """Print the package's messages while the block runs, if ``wanted``.

    Nothing is added where the user's own logging prints the messages already, or a caller of ours
    has decided. A higher level that the user gave our logger, or all of scvi-tools
    (``scvi.settings.verbosity``), stays. ``worded`` is what a message becomes.
    """
    level = max(level, PACKAGE_LOGGER.level, _of_scvi())
    if not wanted or _printed_already(level):
        yield
        return
    handler = _Console()
    handler.setFormatter(_Worded(worded))
    with messages_to(handler, level):
        yield


@contextmanager
def without_hints_of_lightning() -> Iterator[None]:
    """Leave out what Lightning tells those who write a trainer, while a training of ours runs.

    These are its messages of level INFO, which neither Lightning nor scvi-tools has a setting for,
    and warnings of which a user of ours can act on none. Its other warnings are shown. A level
    that the user gave Lightning's logger stays: ``DEBUG`` shows all of its messages.
    """
    level = LIGHTNING_LOGGER.level
    if level in (logging.NOTSET, logging.INFO):  # by default
        level = logging.WARNING
    with warnings.catch_warnings(), _level(LIGHTNING_LOGGER, level):
        for hint in _HINTS:
            warnings.filterwarnings("ignore", hint)
        yield


@contextmanager
def without_hints_of_scvi() -> Iterator[None]:
    """Leave out what scvi-tools tells those who register data, which a command does by itself."""
    with _level(SCVI_LOGGER, max(SCVI_LOGGER.level, logging.WARNING)):
        yield


class _Worded(logging.Formatter):
    """Time and message, in the words of whoever reads it."""

    def __init__(self, worded: Callable[[str], str]) -> None:
        super().__init__("%(asctime)s %(message)s", datefmt="%H:%M:%S")
        self.worded = worded

    def format(self, record: logging.LogRecord) -> str:
        return self.worded(super().format(record))


class _Console(logging.StreamHandler):
    """By which the block of a caller is known."""


def _of_scvi() -> int:
    """Level that the user gave scvi-tools, if it is above its default."""
    level = SCVI_LOGGER.level
    return level if level > logging.INFO else logging.NOTSET


def _printed_already(level: int) -> bool:
    if any(isinstance(handler, _Console) for handler in PACKAGE_LOGGER.handlers):
        return True
    return bool(logging.getLogger().handlers) and PACKAGE_LOGGER.isEnabledFor(level)


@contextmanager
def messages_to(handler: logging.Handler, level: int = logging.INFO) -> Iterator[None]:
    """Send the package's messages of ``level`` and above to a handler while the block runs."""
    handler.setLevel(level)
    PACKAGE_LOGGER.addHandler(handler)
    try:
        with _level(PACKAGE_LOGGER, min(PACKAGE_LOGGER.getEffectiveLevel(), level)):
            yield
    finally:
        PACKAGE_LOGGER.removeHandler(handler)
        handler.close()


@contextmanager
def _level(logger: logging.Logger, level: int) -> Iterator[None]:
    previous = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(previous)
