"""Which results a run adds and writes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from ._core.options import option
from ._core.ranges import check_whole

LABEL = "celltype"
"""Column of ``obs`` that is drawn and assessed if it is there and no other is named."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Which results a run adds and writes: arguments of :func:`scalex_scvi.SCALEX`.

    Attributes
    ----------
    outdir
        Run folder to write; ``None``: nothing is written.
    label
        Column of ``obs`` with cell types to draw and assess (``"celltype"`` if there is one). In a
        projection, also transferred from the reference.
    unknown
        Whether transferred labels may be ``"unknown"``.
    batch_stats
        Statistics of the encoder, ``"running"`` or ``"batch"``: see
        :meth:`scalex_scvi.SCALEXModel.get_latent_representation`.
    impute
        Whether to add imputed expression as if all cells were of the first batch (``True``), or
        of the batch named.
    chunk_size
        Cells that are imputed at a time.
    ignore_umap
        Whether to leave out UMAP and clusters.
    assess
        Whether to add scores to ``uns``.
    show
        Whether to show the UMAP.
    repeat
        Whether a projection returns the projected cells alone, else with the reference.
    resume
        Whether to continue the interrupted training of an earlier run into ``outdir``, of the same
        data and options.
    """

    outdir: str | os.PathLike[str] | None = option(None, "run folder for the results")
    label: str | None = option(None, "column of obs to draw, assess and, projecting, transfer")
    unknown: bool = option(False, "transferred labels may be 'unknown'")
    batch_stats: Literal["running", "batch"] = option(
        "running", "statistics of the encoder's batch normalization"
    )
    impute: bool | str | None = option(
        None, "add imputed expression, decoded by BATCH (the first one)"
    )
    chunk_size: int = option(20_000, "cells imputed at a time")
    ignore_umap: bool = option(False, "no UMAP and clusters")
    assess: bool = option(False, "add scores")
    show: bool = option(True, "show the UMAP")
    repeat: bool = option(False, "return the projected cells without the reference")
    resume: bool = option(False, "continue the interrupted training of this run folder")

    def __post_init__(self) -> None:
        if self.resume and self.outdir is None:
            msg = "`resume=True` continues the training of a run folder: name it, `outdir`."
            raise ValueError(msg)
        check_whole(self.chunk_size, 1, name="chunk_size")
