"""The folder that a run leaves behind."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anndata as ad
from anndata import AnnData

from scalex_scvi._core.messages import PACKAGE_LOGGER, messages_to

_DRAWN = {"umap.png", "umap.pdf", "report.html"}


class RunFolder:
    """``checkpoint/`` (the model), ``adata.h5ad``, pictures and ``log.txt`` of a run.

    Parameters
    ----------
    path
        The folder; it is made on the first write.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def checkpoint(self) -> Path:
        """Folder of the saved model."""
        return self.path / "checkpoint"

    @property
    def adata(self) -> Path:
        """File with the results."""
        return self.path / "adata.h5ad"

    def read_adata(self) -> AnnData | None:
        """Return the results of an earlier run, or ``None`` where there are none."""
        return ad.read_h5ad(self.adata) if self.adata.is_file() else None

    def write_adata(self, adata: AnnData) -> None:
        """Write the results."""
        adata.write_h5ad(self.adata, compression="gzip")

    def pictures(self, name: str) -> list[Path]:
        """Files of a picture: ``name.png`` and ``name.pdf``."""
        return [self.path / f"{name}.{suffix}" for suffix in ("png", "pdf")]

    def write_text(self, text: str, name: str) -> None:
        """Write a text file."""
        (self.path / name).write_text(text, encoding="utf-8")

    @contextmanager
    def run(self) -> Iterator[RunFolder]:
        """Yield a run folder to write into; its files arrive here together, if the block succeeds.

        A run that fails or is interrupted leaves the results of the previous one as they were,
        all of the same run; only ``log.txt`` is of the failed one. The package's log messages go
        there while the block runs.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        # Inside the folder: on the same disk, so that moving is renaming.
        with tempfile.TemporaryDirectory(dir=self.path, prefix=".unfinished-") as unfinished:
            with self._logged():
                yield RunFolder(unfinished)
            made = sorted(Path(unfinished).iterdir())
            for result in made:
                _move(result, self.path / result.name, Path(unfinished))
            for name in _DRAWN - {result.name for result in made}:
                (self.path / name).unlink(missing_ok=True)  # a picture of other results

    @contextmanager
    def _logged(self) -> Iterator[None]:
        handler = logging.FileHandler(self.path / "log.txt", mode="w", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s - %(levelname)s - %(message)s"))
        with messages_to(handler):
            try:
                yield
            except BaseException:
                # Into the file alone: whoever catches the error says it in their own way.
                handler.handle(
                    PACKAGE_LOGGER.makeRecord(
                        PACKAGE_LOGGER.name,
                        logging.ERROR,
                        __file__,
                        0,
                        "The run ended early.",
                        (),
                        sys.exc_info(),
                    )
                )
                raise


def _move(made: Path, place: Path, aside: Path) -> None:
    """Put a finished file or folder into its place; a previous folder is swapped out first."""
    if place.is_dir() and not place.is_symlink():
        previous = aside / f"previous-{place.name}"
        os.replace(place, previous)
        os.replace(made, place)
        shutil.rmtree(previous)
    else:
        os.replace(made, place)
