"""The folder that a run leaves behind."""

from __future__ import annotations

import glob
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from anndata import AnnData

from scalex_scvi._core.explained import is_explained
from scalex_scvi._core.files import RUN_FILE, is_zarr_store, own_files
from scalex_scvi._core.messages import PACKAGE_LOGGER, command_line, messages_to
from scalex_scvi._core.unfinished import anyone_writes, arrive, current, recover, unfinished

from ._formats import read_h5ad

logger = logging.getLogger(__name__)

FORMAT = 1
TRAINED = "trained_model"
"""Folder of a trained model whose run did not come to its end."""

TRAINING = "training.ckpt"
"""File of the state of a training, while it runs."""

_LOG = "log.txt"
_FILES = {
    "run": (
        "checkpoint",
        "adata.h5ad",
        "umap.png",
        "umap.pdf",
        "report.html",
        "mapped_labels.csv",
        "options.yaml",
        TRAINED,
        TRAINING,
        _LOG,
    ),
    "demo": ("reference", "projection", "scores.csv", "options.yaml"),
}
"""All names that we write into a folder, by its kind."""


class RunFolder:
    """``checkpoint/`` (the model), ``adata.h5ad``, pictures and ``log.txt`` of a run.

    Parameters
    ----------
    path
        The folder; it is made on the first write. ``~`` is the home folder.
    kind
        ``"run"``, or ``"demo"`` for one with two run folders in it.

    Raises
    ------
    ValueError
        For an empty path, which would be the current folder.
    """

    def __init__(self, path: str | os.PathLike[str], kind: str = "run") -> None:
        if not os.fspath(path):
            msg = "The name of the run folder is empty. Name a folder, '.' for the current one."
            raise ValueError(msg)
        self.path = Path(path).expanduser()
        self.kind = kind

    @property
    def checkpoint(self) -> Path:
        """Folder of the saved model."""
        return current(self.path / "checkpoint")

    @property
    def training(self) -> Path:
        """File of the state of an interrupted training; it goes when the run is complete."""
        return self.path / TRAINING

    @property
    def adata(self) -> Path:
        """File with the results."""
        return current(self.path / "adata.h5ad")

    def read_adata(self) -> AnnData | None:
        """Return the results of an earlier run, or ``None`` where there are none."""
        return read_h5ad(self.adata) if self.adata.is_file() else None

    def write_adata(self, adata: AnnData) -> None:
        """Write the results."""
        adata.write_h5ad(self.adata, compression="gzip")

    def pictures(self, name: str) -> list[Path]:
        """Files of a picture: ``name.png`` and ``name.pdf``."""
        return [self.path / f"{name}.{suffix}" for suffix in ("png", "pdf")]

    def add_text(self, text: str, name: str) -> None:
        """Write a text file beside the results, whole or not at all, as one of ours."""
        with unfinished(self.path) as place:
            (place / "new" / name).write_text(text, encoding="utf-8")
            (place / "new" / RUN_FILE).write_text(self._noted([name]), encoding="utf-8")
            arrive(place)

    def check(self, sources: Sequence[Path] = ()) -> None:
        """Raise unless a run may write here: nothing but an earlier run's files is replaced.

        Parameters
        ----------
        sources
            Files and folders that are read: see :func:`paths_of`.

        Raises
        ------
        ValueError
            If the folder is a file, holds files that are not of a run of ours, is written by
            another process, or a source would be replaced.
        PermissionError
            If nothing can be written there.
        """
        given, there = str(self.path), self.path
        while not os.path.lexists(there):
            there = there.parent
        if not there.is_dir():
            msg = f"`outdir` {given!r}: {str(there)!r} is a file. Name a folder."
            raise ValueError(msg)
        if not os.access(there, os.W_OK | os.X_OK):
            msg = f"`outdir` {given!r}: nothing can be written into {str(there)!r}. Name another."
            raise PermissionError(msg)
        self._check_sources(sources)
        if there != self.path:
            return
        recover(self.path)
        if anyone_writes(self.path):
            msg = f"`outdir` {given!r}: another run is writing there. Name another, or wait for it."
            raise ValueError(msg)
        self._check_foreign()

    def _check_sources(self, sources: Sequence[Path]) -> None:
        own = self.path.resolve()
        for source in sources:
            real = source.expanduser().resolve()
            inside = real.relative_to(own).parts if real.is_relative_to(own) else ("",)
            replaced = inside and inside[0] in [*_FILES[self.kind], RUN_FILE]
            in_store = is_zarr_store(real) and own.is_relative_to(real)
            if own == real or replaced or in_store:
                msg = (
                    f"`outdir` {str(self.path)!r}: its results would replace {str(source)!r}, "
                    "which is read. Name a new folder."
                )
                raise ValueError(msg)

    def _check_foreign(self) -> None:
        ours = own_files(self.path)
        everything = sorted(
            path.name for path in self.path.iterdir() if not path.name.startswith(".scalex-")
        )
        foreign = everything
        if self.kind in ours:
            foreign = [name for name in everything if name in _FILES[self.kind]]
            foreign = [name for name in foreign if name not in ours[self.kind]]
        if foreign:
            more = ", …" if len(foreign) > 3 else ""
            names = ", ".join(repr(name) for name in foreign[:3]) + more
            msg = (
                f"`outdir` {str(self.path)!r} holds {names}, not of an earlier {self.kind} of this "
                "package. Name a folder that is new, empty or of an earlier one: nothing else is "
                "replaced."
            )
            raise ValueError(msg)

    def keep_model(self, save: Callable[[Path], None]) -> Path:
        """Save a trained model beside the results, until its run comes to its end.

        Parameters
        ----------
        save
            Saves the model into a folder that it makes.

        Returns
        -------
        The folder of the model.
        """
        with unfinished(self.path) as place:
            save(place / "new" / TRAINED)
            (place / "new" / RUN_FILE).write_text(self._noted([TRAINED]), encoding="utf-8")
            arrive(place)
        return self.path / TRAINED

    @contextmanager
    def run(self, sources: Sequence[Path] = ()) -> Iterator[RunFolder]:
        """Yield a run folder to write into; its files arrive here together, if the block succeeds.

        A run that fails or is interrupted leaves the results of the previous one as they were,
        all of the same run. The package's log messages go into ``log.txt`` while the block runs,
        below those of earlier runs: a line says when and by which command each began. Where there
        was no run before, one that fails leaves nothing, unless it kept its training or its
        traceback is needed (see :meth:`claimed`).

        Parameters
        ----------
        sources
            Files and folders that are read: see :meth:`check`.
        """
        self.check(sources)
        with self.claimed(), unfinished(self.path) as place:
            if anyone_writes(self.path, but=place):  # it began a moment ago
                self.check(sources)
            with self._logged():
                if self.adata.exists():
                    where = str(self.path)
                    logger.info("%r holds the results of an earlier run until this is done.", where)
                yield RunFolder(place / "new")
            made = [path.name for path in (place / "new").iterdir()]
            earlier = own_files(self.path).get(self.kind, [])
            (place / "new" / RUN_FILE).write_text(
                self._noted(made, forget=earlier), encoding="utf-8"
            )
            arrive(place, leaving=[name for name in earlier if name != _LOG])

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder, and note that it is ours; :meth:`check` comes first.

        If the block fails and the folder is new or was empty, it is so again, unless there is more
        in it than a log, or the error does not explain itself, so that the log is needed.
        """
        was_ours = (self.path / RUN_FILE).exists()
        made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with unfinished(self.path) as place:
                noted = self._noted([TRAINING] if self.kind == "run" else _FILES[self.kind])
                (place / "new" / RUN_FILE).write_text(noted, encoding="utf-8")
                arrive(place)
            yield
        except BaseException as error:
            if not was_ours and is_explained(error):
                self._remove_traces(made)
            raise

    def _remove_traces(self, made: Sequence[Path]) -> None:
        """Remove what a first run that failed has written, if that is the log alone."""
        with suppress(OSError):
            if {path.name for path in self.path.iterdir()} <= {_LOG, RUN_FILE}:
                for name in (_LOG, RUN_FILE):
                    (self.path / name).unlink(missing_ok=True)
                for folder in made:
                    folder.rmdir()

    def _noted(self, more: Sequence[str], forget: Sequence[str] = ()) -> str:
        """Text of the file by which the folder is known, with more files of ours."""
        names = set(own_files(self.path).get(self.kind, [])) - set(forget) | set(more)
        if self.kind == "run":
            names.add(_LOG)
        noted = {"format": FORMAT, "kind": self.kind, "files": sorted(names)}
        return json.dumps(noted, indent=1) + "\n"

    @contextmanager
    def _logged(self) -> Iterator[None]:
        """Send messages to the log, below those of earlier runs."""
        log = self.path / _LOG
        _make_own(log)
        handler = logging.FileHandler(log, mode="a", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s - %(levelname)s - %(message)s"))
        with messages_to(handler):
            _into_file(
                handler, logging.INFO, f"A run begins: {command_line() or 'called in Python'}"
            )
            try:
                yield
            except BaseException:
                _into_file(handler, logging.ERROR, "The run ended early.", sys.exc_info())
                raise


def _make_own(log: Path) -> None:
    """Replace a log that is a link by a copy: what it points to stays as it is."""
    if log.is_symlink() or (log.exists() and log.stat().st_nlink > 1):
        earlier = log.read_bytes() if log.is_file() else b""
        log.unlink()
        log.write_bytes(earlier)


def _into_file(handler: logging.Handler, level: int, text: str, error: Any = None) -> None:
    """Write into the file alone: whoever catches an error says it in their own way."""
    record = PACKAGE_LOGGER.makeRecord(
        PACKAGE_LOGGER.name, level, __file__, 0, text, (), exc_info=error
    )
    handler.handle(record)


def paths_of(data: Any) -> list[Path]:
    """Return the files and folders that sources name, patterns expanded; those that exist."""
    if isinstance(data, AnnData):
        return [Path(data.filename)] if data.isbacked else []
    if isinstance(data, str | os.PathLike):
        path = Path(data).expanduser()
        path = path.parent if path.parent.suffix.lower() == ".h5mu" else path
        found = [path] if path.exists() else [Path(name) for name in glob.glob(str(path))]
        return [one for one in found if one.exists()]
    if isinstance(data, list | tuple):
        return [path for source in data for path in paths_of(source)]
    return []
