"""What a run leaves behind: results in the AnnData, and the run folder."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from anndata import AnnData

from . import metrics, pl
from .io import RunFolder
from .io._load import BATCH
from .model import SCALEXModel
from .tl import embed

logger = logging.getLogger(__name__)

LABEL = "celltype"
"""Column of ``obs`` that is drawn and assessed if it is there and no other is named."""

IMPUTED = "impute"
"""Layer of the imputed expression."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Which results a run adds and writes: arguments of :func:`scalex_scvi.SCALEX`."""

    outdir: str | os.PathLike[str] | None = None
    label: str | None = None
    unknown: bool = False
    batch_stats: str = "running"
    impute: bool | str | None = None
    chunk_size: int = 20_000
    ignore_umap: bool = False
    assess: bool = False
    show: bool = False
    seed: int | None = None

    def run(self) -> AbstractContextManager[RunFolder | None]:
        """Yield the folder to write into, or ``None``."""
        return nullcontext() if self.outdir is None else RunFolder(self.outdir).run()

    def check(self, adata: AnnData) -> None:
        """Find mistakes before a long training.

        Raises
        ------
        KeyError, ValueError
            If there is no such label or batch.
        """
        if self.label is not None and self.label not in adata.obs:
            msg = f"`label` {self.label!r} is not a column of obs: {list(adata.obs.columns)!r}."
            raise KeyError(msg)
        batches = list(adata.obs[BATCH].astype(str).unique())
        if isinstance(self.impute, str) and self.impute not in batches:
            msg = f"`impute` {self.impute!r} is not a batch: {sorted(batches)!r}."
            raise ValueError(msg)

    def finish(self, adata: AnnData, model: SCALEXModel, folder: RunFolder | None) -> None:
        """Add what is wanted to ``adata``, and write and show it."""
        if self.impute:
            batch = self.impute if isinstance(self.impute, str) else model.batch_names[0]
            model.impute(adata, layer=IMPUTED, transform_batch=batch, chunk_size=self.chunk_size)
        forget_registration(adata)
        if not self.ignore_umap:
            embed(adata, seed=self.seed)
        if self.assess:
            self._assess(adata)
        if folder is not None:
            model.save(folder.checkpoint)
            folder.write_adata(adata)
        if not self.ignore_umap:
            self._draw(adata, folder)
        if self.outdir is not None:
            logger.info("Results are in %s.", self.outdir)

    def _label_in(self, adata: AnnData) -> str | None:
        if self.label is not None:
            return self.label
        return LABEL if LABEL in adata.obs else None

    def _assess(self, adata: AnnData) -> None:
        """Write the scores of the latent space into ``uns``."""
        scores = metrics.integration_scores(
            adata, batch_key=BATCH, labels_key=self._label_in(adata), seed=self.seed
        )
        for name, value in scores.items():
            logger.info("%s: %.3f", name, value)
        adata.uns.update(scores)

    def _draw(self, adata: AnnData, folder: RunFolder | None) -> None:
        label = self._label_in(adata)
        wanted = (BATCH, str(label), f"{label}_transfer", "leiden")
        colors = [name for name in wanted if name in adata.obs]
        files = [] if folder is None else folder.pictures("umap")
        if "projection" in adata.obs and adata.obs["projection"].nunique() > 1:
            colors.remove("leiden")
            pl.projection(adata, colors, show=self.show, save=files)
        else:
            pl.umap(adata, colors, show=self.show, save=files)


def forget_registration(adata: AnnData) -> None:
    """Remove scvi-tools' registration, which means nothing outside this process."""
    for column in [c for c in adata.obs if str(c).startswith("_scvi")]:
        del adata.obs[column]
    for key in [key for key in adata.uns if key.startswith("_scvi")]:
        del adata.uns[key]
