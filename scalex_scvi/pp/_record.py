"""The record of what preprocessing did, so that it can be repeated on new cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pandas as pd
from anndata import AnnData

from ._profiles import ATAC

ScaleBy = Literal["batch", "global"]

UNS_KEY = "scalex"
"""Where the record lies in ``adata.uns``."""

SCALE_KEY = "scalex_scale"
"""Where the maximum of each gene and batch lies in ``adata.varm``."""

DROPPED_PREFIXES = ("ERCC", "MT-", "mt-")
"""Spike-ins and mitochondrial genes."""


@dataclass(frozen=True)
class Preprocessing:
    """What was done to the reference, and what a query needs to go through the same.

    Attributes
    ----------
    profile
        Kind of data: ``"RNA"``, ``"ATAC"`` or ``"ADT"``.
    target_sum
        Total counts per cell after normalisation; ``None`` where totals are not normalised.
    scale_by
        ``"batch"``: genes were divided by their maximum within each batch; ``"global"``: by their
        maximum over all cells.
    dropped_prefixes
        Genes whose names start with one of these were dropped before normalisation.
    genes
        Genes (peaks, proteins) of the reference, in order.
    scale
        Genes × batches: normalised value that was scaled to 1 (0 for a gene without counts in the
        batch). Columns are batch names as strings.
    panel
        ATAC, ADT: the features over which each cell was normalised, which may be more than
        ``genes``. Empty for RNA, which is normalised over all that the data has.
    log_normalized
        Whether the values came normalised, so that counts cannot be taken through the same.
    log1p
        Whether logarithms were taken after the totals: always in RNA, by option in ATAC. Proteins
        have a way of their own.
    batch_key
        Column of ``obs`` with the batches of ``scale``; ``None``: all cells are one batch. Of these
        cells alone: a query may have another.
    """

    profile: str = "RNA"
    target_sum: float | None = 1e4
    scale_by: ScaleBy = "batch"
    dropped_prefixes: tuple[str, ...] = DROPPED_PREFIXES
    genes: tuple[str, ...] = ()
    scale: pd.DataFrame = field(default_factory=pd.DataFrame, compare=False)
    panel: tuple[str, ...] = ()
    log_normalized: bool = False
    log1p: bool = True
    batch_key: str | None = field(default=None, compare=False)

    def to_adata(self, adata: AnnData) -> None:
        """Write the record into ``adata.uns`` and ``adata.varm``, as plain types."""
        adata.uns[UNS_KEY] = self.to_dict()
        adata.varm[SCALE_KEY] = self.scale.set_axis(adata.var_names, axis=0)

    @classmethod
    def from_adata(cls, adata: AnnData) -> Preprocessing | None:
        """Read the record, or ``None`` if ``adata`` carries none.

        The genes are those of ``adata`` now: a record stays true when genes are subset.
        """
        if UNS_KEY not in adata.uns or SCALE_KEY not in adata.varm:
            return None
        return cls.from_dict(adata.uns[UNS_KEY], adata.var_names, adata.varm[SCALE_KEY])

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], genes: Any, scale: pd.DataFrame) -> Preprocessing:
        """Build a record from plain types, as they come back from a file."""
        target_sum = record.get("target_sum")
        return cls(
            profile=str(record["profile"]),
            target_sum=None if target_sum is None else float(target_sum),
            scale_by="global" if record["scale_by"] == "global" else "batch",
            dropped_prefixes=tuple(str(prefix) for prefix in record["dropped_prefixes"]),
            genes=tuple(str(gene) for gene in genes),
            scale=pd.DataFrame(scale).set_axis([str(gene) for gene in genes], axis=0),
            panel=tuple(str(feature) for feature in record.get("panel", ())),
            log_normalized=bool(record.get("log_normalized", False)),
            # Peaks were left without logarithms before there was a choice.
            log1p=bool(record.get("log1p", record["profile"] != ATAC.name)),
            batch_key=record.get("batch_key"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the record without genes and scale as plain types, less what is not set."""
        record: dict[str, Any] = {
            "profile": self.profile,
            "scale_by": self.scale_by,
            "dropped_prefixes": list(self.dropped_prefixes),
            "log_normalized": self.log_normalized,
            "log1p": self.log1p,
        }
        if self.target_sum is not None:  # no file format for None is older than anndata 0.12
            record["target_sum"] = float(self.target_sum)
        if self.panel:
            record["panel"] = list(self.panel)
        if self.batch_key is not None:
            record["batch_key"] = self.batch_key
        return record

    def with_scale(self, scale: pd.DataFrame, batch_key: str | None) -> Preprocessing:
        """Return the same record with the scale of other batches, and their column of ``obs``."""
        return replace(self, scale=scale, batch_key=batch_key)

    def with_batches_of(self, other: Preprocessing) -> Preprocessing:
        """Return the record with the batches of ``other`` added, where they are not known."""
        new = other.scale.loc[:, ~other.scale.columns.isin(self.scale.columns)]
        return self.with_scale(pd.concat([self.scale, new], axis=1), self.batch_key)
