"""The folder that a run leaves behind."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
from anndata import AnnData

from ._atomic import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PACKAGE_LOGGER = logging.getLogger("scalex_scvi")


class RunFolder:
    """``checkpoint/`` (the model), ``adata.h5ad``, pictures and ``log.txt`` of a run.

    Every file is written whole or not at all; an interrupted run leaves earlier results as they
    were.

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
        self.path.mkdir(parents=True, exist_ok=True)
        with whole_file(self.adata) as temporary:
            adata.write_h5ad(temporary, compression="gzip")

    def write_figure(self, figure: Figure, name: str) -> None:
        """Write a picture as ``name.png`` and ``name.pdf``."""
        self.path.mkdir(parents=True, exist_ok=True)
        for suffix in ("png", "pdf"):
            with whole_file(self.path / f"{name}.{suffix}") as temporary:
                figure.savefig(temporary, dpi=150, bbox_inches="tight")

    def write_text(self, text: str, name: str) -> None:
        """Write a text file."""
        self.path.mkdir(parents=True, exist_ok=True)
        with whole_file(self.path / name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @contextmanager
    def logged(self) -> Iterator[None]:
        """Write the package's log messages into ``log.txt`` while the block runs."""
        self.path.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(self.path / "log.txt", mode="w", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s - %(levelname)s - %(message)s"))
        level = PACKAGE_LOGGER.level
        PACKAGE_LOGGER.addHandler(handler)
        PACKAGE_LOGGER.setLevel(min(PACKAGE_LOGGER.getEffectiveLevel(), logging.INFO))
        try:
            yield
        except BaseException:
            PACKAGE_LOGGER.exception("The run ended early.")
            raise
        finally:
            PACKAGE_LOGGER.setLevel(level)
            PACKAGE_LOGGER.removeHandler(handler)
            handler.close()
