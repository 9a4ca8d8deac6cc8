"""What is to be done to counts: the options of every profile, as one object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pandas as pd

    Selection: TypeAlias = int | str | Path | Sequence[str] | np.ndarray | pd.Index

ScaleBy = Literal["batch", "global"]

DROPPED_PREFIXES = ("ERCC-", "ERCC_", "ERCC.", "MT-", "mt-", "Mt-")
"""Spike-ins and mitochondrial genes. The genes ERCC1 to ERCC8 are none of these."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How counts become values in [0, 1]; ``None`` is the default of the profile.

    Attributes
    ----------
    profile
        Kind of data: ``"RNA"``, ``"ATAC"`` or ``"ADT"``.
    min_features
        Cells with fewer detected features are left out. Default: none are.
    min_cells
        Features detected in fewer cells are left out. Default: 3 in RNA and ATAC, 1 in ADT.
    target_sum
        Total of a cell after normalization, or ``"median"``. Default: 1e4; ADT takes none.
    n_top_features
        Number of features to select, -1 for all, a list of names, or a text file with one name a
        line. Default: 2000 in RNA, 30 000 in ATAC, all in ADT.
    dropped_prefixes
        RNA: genes whose symbols start with one of these are left out. Default: spike-ins and
        mitochondrial genes.
    scale_by
        ``"batch"``: each feature is divided by its maximum within each batch; ``"global"``: over
        all cells.
    log_normalized
        Whether the values are normalized already. ``None``: decided by the values.
    log1p
        ATAC: whether logarithms are taken. Default: they are.
    processed
        Whether nothing is to be done but the scaling.
    """

    profile: str = "RNA"
    min_features: int | None = None
    min_cells: int | None = None
    target_sum: float | Literal["median"] | None = None
    n_top_features: Selection | None = None
    dropped_prefixes: Sequence[str] | None = None
    scale_by: ScaleBy = "batch"
    log_normalized: bool | None = None
    log1p: bool | None = None
    processed: bool = False

    def but(self, **changes: Any) -> Preparation:
        """Return the same with other values for some names."""
        return replace(self, **changes)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the options."""
        return tuple(field.name for field in fields(cls))
