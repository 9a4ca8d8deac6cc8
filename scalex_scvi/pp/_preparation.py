"""How counts are prepared: the options of every profile together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scalex_scvi._core.options import option

from ._profiles import ADT, ATAC, RNA, get_profile

if TYPE_CHECKING:
    from ._record import ScaleBy
    from ._select import Selection

PUBLISHED_MIN_FEATURES = {RNA.name: 600, ATAC.name: 100, ADT.name: 0}
"""Detected features that a cell must have by the published documentation; ADT is of our own."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How counts become values in [0, 1]; ``None`` is the profile's default.

    Attributes
    ----------
    profile
        ``"RNA"``, ``"ATAC"`` or ``"ADT"``: see :func:`scalex_scvi.pp.preprocess`.
    min_features
        Cells with fewer detected features are removed; 0 keeps all. ``None``: as documented for
        the published package, 600 in RNA and 100 in ATAC; 0 in ADT.
    min_cells
        Features detected in fewer cells are removed.
    target_sum
        Total of a cell after normalization.
    n_top_features
        Number of variable features, -1 for all, a list, or a text file with one a line.
    dropped_prefixes
        RNA: genes whose names start with one of these are dropped.
    scale_by
        ``"batch"`` or ``"global"``.
    log_normalized
        Whether the values are log-normalized already, to be selected and scaled only. ``None``
        decides, and raises when it looks like it.
    log1p
        ATAC: whether to take logarithms.
    processed
        Whether the values are processed already: nothing is filtered, normalized or selected,
        features are only scaled to [0, 1] within each batch.
    """

    profile: str = option("RNA", "kind of data: RNA, ATAC or ADT")
    min_features: int | None = option(
        None, "remove cells with fewer features, 0: none (RNA 600, ATAC 100, ADT 0)"
    )
    min_cells: int | None = option(None, "remove features in fewer cells (RNA and ATAC 3)")
    target_sum: float | None = option(None, "total of a cell (RNA, ATAC 10000)")
    n_top_features: Selection | None = option(
        None, "variable features to keep, -1 for all, or a file with one a line (RNA 2000)"
    )
    dropped_prefixes: Sequence[str] | None = option(None, "drop genes whose names start so")
    scale_by: ScaleBy | None = option(None, "scale within each batch, or over all cells")
    log_normalized: bool | None = option(
        None, "whether the values are log-normalized already (decided by the values)"
    )
    log1p: bool | None = option(None, "take logarithms")
    processed: bool = option(False, "values are normalized and selected already: only scale them")

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of :func:`scalex_scvi.pp.preprocess`.

        Raises
        ------
        ValueError
            For an unknown profile.
        """
        profile = get_profile(self.profile).name
        if self.processed:
            only_scaled = {"min_features": 0, "min_cells": 0, "n_top_features": -1}
            only_scaled |= {"profile": profile, "log_normalized": True}
            return only_scaled | ({"dropped_prefixes": ()} if profile == RNA.name else {})
        wanted = {name: value for name, value in vars(self).items() if name != "processed"}
        given = {name: value for name, value in wanted.items() if value is not None}
        return {"min_features": PUBLISHED_MIN_FEATURES[profile]} | given | {"profile": profile}
