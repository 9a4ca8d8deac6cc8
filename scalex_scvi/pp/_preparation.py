"""Options of the preparation of counts, for all kinds of data in one object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from scalex_scvi._core.options import option

ScaleBy = Literal["batch", "global"]
NewBatches = Literal["reference", "own"]

DROPPED_PREFIXES = ("ERCC-", "ERCC_", "ERCC.", "MT-", "mt-", "Mt-")
"""Spike-ins and mitochondrial genes. The genes ERCC1 to ERCC8 are none of these."""

DOCUMENTED_MIN_FEATURES = {"RNA": 600, "ATAC": 100}
"""Detected features that a cell must have by the published documentation."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How counts become values in [0, 1]; ``None`` is the default of the profile.

    Attributes
    ----------
    profile
        Kind of data: ``"RNA"``, ``"ATAC"`` or ``"ADT"``.
    min_features
        Cells with fewer detected features are left out. Default: none are;
        :func:`scalex_scvi.SCALEX` alone has the published default (:meth:`as_documented`).
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
    new_batches
        What each feature of a batch that is in the query alone is divided by: ``"reference"``, the
        geometric mean of the feature's maxima in the batches of the reference, so that the latent
        of a cell depends on that cell alone; ``"own"`` (published), its maximum in the cells of
        that batch which are given together. Transferred labels were as accurate with either
        (docs/projection.md).
    log_normalized
        Whether the values are normalized already. ``None``: counts are expected, and values that
        look normalized raise an error.
    log1p
        ATAC: whether logarithms are taken. Default: they are.
    processed
        Whether the values are normalized and the features selected already: they are only scaled.
    """

    profile: str = option("RNA", "kind of data: RNA, ATAC or ADT")
    min_features: int | None = option(
        None, "remove cells with fewer features, 0: none (RNA 600, ATAC 100, ADT 0)"
    )
    min_cells: int | None = option(None, "remove features in fewer cells (RNA and ATAC 3)")
    target_sum: float | Literal["median"] | None = option(None, "total of a cell (RNA, ATAC 10000)")
    # A number, names, or the path of a file with names: see `_select.Selection`.
    n_top_features: Any = option(
        None, "variable features to keep, -1 for all, or a file with one a line (RNA 2000)"
    )
    dropped_prefixes: Sequence[str] | None = option(None, "drop genes whose names start so")
    scale_by: ScaleBy = option("batch", "scale within each batch, or over all cells")
    new_batches: NewBatches = option(
        "reference", "scale new batches of a query as the reference, or by their own maxima"
    )
    log_normalized: bool | None = option(
        None, "whether the values are log-normalized already (decided by the values)"
    )
    log1p: bool | None = option(None, "take logarithms")
    processed: bool = option(False, "values are normalized and selected already: only scale them")

    def but(self, **changes: Any) -> Preparation:
        """Return the same with other values for some names."""
        return replace(self, **changes)

    def as_documented(self) -> Preparation:
        """Return the same with the published least number of features of a cell as default."""
        least = 0 if self.processed else DOCUMENTED_MIN_FEATURES.get(str(self.profile).upper(), 0)
        return self if self.min_features is not None else self.but(min_features=least)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the options."""
        return tuple(field.name for field in fields(cls))
