"""The folder with the results of a run."""

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

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData

from scalex_scvi._core.dask_blocks import computed_blocks
from scalex_scvi._core.explained import is_explained
from scalex_scvi._core.files import RUN_FILE, is_zarr_store, own_files
from scalex_scvi._core.matrices import is_lazy, without_matrix
from scalex_scvi._core.messages import PACKAGE_LOGGER, command_line, messages_to
from scalex_scvi._core.unfinished import anyone_writes, arrive, current, recover, unfinished
from scalex_scvi._core.written_blocks import write_blocks

from ._formats import read_h5ad

logger = logging.getLogger(__name__)

FORMAT = 1
TRAINED = "trained_model"
"""Folder of a trained model whose run did not finish."""

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
"""All names that this package writes into a folder, by its kind."""


class RunFolder:
    """``checkpoint/`` (the model), ``adata.h5ad``, pictures and ``log.txt`` of a run.

    Parameters
    ----------
    path
        The folder; it is created on the first write. ``~`` is the home folder.
    kind
        ``"run"``, or ``"demo"`` for a folder with two run folders in it.

    Raises
    ------
    TypeError
        For anything but a path.
    ValueError
        If the path is empty, which would mean the current folder.
    """

    def __init__(self, path: str | os.PathLike[str], kind: str = "run") -> None:
        if not isinstance(path, str | os.PathLike):
            msg = (
                f"A run folder is named by its path, got a {type(path).__name__!r}. New cells are "
                "mapped onto a model or a reference by `scalex_scvi.map_query`."
            )
            raise TypeError(msg)
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
        """File of the state of an interrupted training; removed when the run is complete."""
        return self.path / TRAINING

    @property
    def adata(self) -> Path:
        """File with the results."""
        return current(self.path / "adata.h5ad")

    def read_adata(self) -> AnnData | None:
        """Return the results of an earlier run, cells × genes; ``None`` if there are none.

        Raises
        ------
        ValueError
            If the file is damaged.
        """
        return read_h5ad(self.adata) if self.adata.is_file() else None

    def write_adata(self, adata: AnnData) -> None:
        """Write the results to ``adata.h5ad``, compressed; a dask array ``X`` block by block.

        Parameters
        ----------
        adata
            What ``.h5ad`` cannot hold must be converted before: :func:`make_writable`.
        """
        if not is_lazy(adata.X):
            adata.write_h5ad(self.adata, compression="gzip")
            return
        without_matrix(adata).write_h5ad(self.adata, compression="gzip")
        with h5py.File(self.adata, "r+") as file:
            if "X" in file:
                del file["X"]  # which says that there is none
            write_blocks(file, computed_blocks(adata.X), compression="gzip")

    def pictures(self, name: str) -> list[Path]:
        """Files of a picture: ``name.png`` and ``name.pdf``."""
        return [self.path / f"{name}.{suffix}" for suffix in ("png", "pdf")]

    def add_text(self, text: str, name: str) -> None:
        """Write a text file beside the results, and record that this package wrote it.

        An error leaves no incomplete file.

        Parameters
        ----------
        text
            What to write.
        name
            Name of the file.
        """
        with unfinished(self.path) as place:
            (place / "new" / name).write_text(text, encoding="utf-8")
            (place / "new" / RUN_FILE).write_text(self._noted([name]), encoding="utf-8")
            arrive(place)

    def check(self, sources: Sequence[Path] = ()) -> None:
        """Raise unless a run may write here: only files of an earlier run are replaced.

        Parameters
        ----------
        sources
            Files and folders that are read: see :func:`paths_of`.

        Raises
        ------
        ValueError
            If the folder is a file, holds files that no run of this package wrote, another process
            is writing there, or a source would be replaced.
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
        """Save a trained model beside the results, until its run is complete.

        Parameters
        ----------
        save
            Function that saves the model into the folder it is given, which it creates.

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
        """Yield a temporary run folder; if the block succeeds, its files are moved here together.

        A run that fails or is interrupted leaves the results of the previous run unchanged. While
        the block runs, log messages of the package are appended to ``log.txt``; a line says when
        and by which command each run began. If there was no run before, one that fails leaves
        nothing, unless it kept its training or its traceback is needed (see :meth:`claimed`).

        Parameters
        ----------
        sources
            Files and folders that are read: see :meth:`check`.

        Raises
        ------
        ValueError, PermissionError
            See :meth:`check`.
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
        """Create the folder, and record that this package writes there; call :meth:`check` before.

        If the block fails, a new folder is removed again, and one that was empty is emptied. It
        stays if it holds more than a log, or if the error is unexpected: the log has its traceback.
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
        """Remove what a first run wrote before it failed, if that is the log alone."""
        with suppress(OSError):
            if {path.name for path in self.path.iterdir()} <= {_LOG, RUN_FILE}:
                for name in (_LOG, RUN_FILE):
                    (self.path / name).unlink(missing_ok=True)
                for folder in made:
                    folder.rmdir()

    def _noted(self, more: Sequence[str], forget: Sequence[str] = ()) -> str:
        """Content of ``scalex_run.json``, which lists the files that this package wrote.

        Parameters
        ----------
        more
            Names to add.
        forget
            Names to remove first.
        """
        names = set(own_files(self.path).get(self.kind, [])) - set(forget) | set(more)
        if self.kind == "run":
            names.add(_LOG)
        noted = {"format": FORMAT, "kind": self.kind, "files": sorted(names)}
        return json.dumps(noted, indent=1) + "\n"

    @contextmanager
    def _logged(self) -> Iterator[None]:
        """Append messages to the log while the block runs."""
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
    """Replace a log that is a link by a copy, so that the file it points to is not written."""
    if log.is_symlink() or (log.exists() and log.stat().st_nlink > 1):
        earlier = log.read_bytes() if log.is_file() else b""
        log.unlink()
        log.write_bytes(earlier)


def _into_file(handler: logging.Handler, level: int, text: str, error: Any = None) -> None:
    """Write into the file alone, not to the console: there the caller reports errors."""
    record = PACKAGE_LOGGER.makeRecord(
        PACKAGE_LOGGER.name, level, __file__, 0, text, (), exc_info=error
    )
    handler.handle(record)


def paths_of(data: Any) -> list[Path]:
    """Return the existing files and folders that sources name.

    Parameters
    ----------
    data
        A path, a pattern, an AnnData, or a list, array or column of these: see :func:`read`.

    Returns
    -------
    Patterns are expanded, ``data.h5mu/rna`` is its file, an AnnData its file if it is backed. Empty
    for anything else.
    """
    if isinstance(data, AnnData):
        return [Path(data.filename)] if data.isbacked else []
    if isinstance(data, str | os.PathLike):
        path = Path(data).expanduser()
        path = path.parent if path.parent.suffix.lower() == ".h5mu" else path
        found = [path] if path.exists() else [Path(name) for name in glob.glob(str(path))]
        return [one for one in found if one.exists()]
    is_array = isinstance(data, np.ndarray | pd.Series | pd.Index) and data.dtype.kind in "OUT"
    if is_array or isinstance(data, Sequence):
        return [path for source in data for path in paths_of(source)]
    return []
