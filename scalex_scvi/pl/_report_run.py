"""What a report is about."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scalex_scvi._core.colors import UNKNOWN
from scalex_scvi._core.columns import as_text, one_column
from scalex_scvi._core.keys import MEASURED_IN_QUERY_KEY, MEASURED_KEY
from scalex_scvi._core.measured import measured_genes

from ._categories import categories_of

if TYPE_CHECKING:
    from scalex_scvi.model import SCALEXModel


@dataclass(frozen=True, eq=False)
class Run:
    """Cells of a run and what is known of it; see :func:`scalex_scvi.pl.report`."""

    adata: AnnData
    model: SCALEXModel | None
    before: AnnData | None
    labels_key: str | None
    batch_key: str
    about: dict[str, Any]

    @cached_property
    def is_query(self) -> np.ndarray | None:
        """Which cells were projected; ``None`` if all or none were."""
        if "projection" not in self.adata.obs:
            return None
        is_query = (self.adata.obs["projection"].astype(str) == "query").to_numpy()
        return is_query if is_query.any() else None

    @cached_property
    def measured(self) -> np.ndarray:
        """Which genes were measured in all cells, or in all of the query."""
        var = self.adata.var
        marks = [measured_genes(var, key) for key in (MEASURED_KEY, MEASURED_IN_QUERY_KEY)]
        found = [mark for mark in marks if mark is not None]
        return np.logical_and.reduce(found) if found else np.ones(len(var), dtype=bool)

    @cached_property
    def batches(self) -> pd.Series:
        """Batch of each cell."""
        return categories_of(self.adata, self.batch_key, "batch_key")

    @cached_property
    def labels(self) -> pd.Series | None:
        """Type of each cell, as it came."""
        key = self.labels_key
        return None if key is None else categories_of(self.adata, key, "labels_key")

    @cached_property
    def clusters(self) -> pd.Series | None:
        """Cluster of each cell. Numbers are names, too: fractions once some are missing."""
        if "leiden" not in self.adata.obs:
            return None
        return pd.Series(as_text(one_column(self.adata.obs, "leiden")), self.adata.obs_names)

    @cached_property
    def transferred(self) -> pd.Series | None:
        """Label that was transferred to each query cell."""
        key = f"{self.labels_key}_transfer"
        return categories_of(self.adata, key, "labels_key") if key in self.adata.obs else None

    @property
    def may_be_unknown(self) -> bool:
        """Whether query cells that fit no label were to be called unknown."""
        if self.transferred is None or self.is_query is None:
            return False
        refused = UNKNOWN in self.transferred.cat.categories
        return refused or self.p_values is not None

    @property
    def p_values(self) -> pd.Series | None:
        """How well each query cell fits the reference; earlier versions wrote 1 minus that."""
        obs, key = self.adata.obs, self.labels_key
        if f"{key}_p_value" in obs:
            return obs[f"{key}_p_value"]
        return 1 - obs[f"{key}_uncertainty"] if f"{key}_uncertainty" in obs else None

    @property
    def groups(self) -> pd.Series | None:
        """Groups of cells to compare: transferred labels, else their own labels, else clusters."""
        if self.transferred is not None:
            return self.transferred
        if self.labels is not None:
            return self.labels
        return self.clusters

    @property
    def title(self) -> str:
        """Name of the page."""
        if self.is_query is None:
            return f"Integration of {self.batches.nunique()} batches"
        return f"Projection of {_listed(self.batches[self.is_query])}"

    @property
    def subtitle(self) -> str:
        """What was done, in a sentence."""
        if self.is_query is None:
            return f"Batches: {_listed(self.batches)}. Trained on all of these cells."
        if self.is_query.all():
            return "The reference's cells are not in this result. Nothing was trained."
        ref = _listed(self.batches[~self.is_query])
        return f"Onto a reference of {ref}. Nothing was trained, and the reference did not move."


def _listed(column: pd.Series) -> str:
    names = [str(name) for name in column.dropna().unique()]
    shown = ", ".join(names[:6])
    return shown if len(names) <= 6 else f"{shown} and {len(names) - 6} more"


def is_empty(values: Any) -> bool:
    """Whether cells have no expression: those of a reference without counts, or minified ones."""
    return values is None or (sparse.issparse(values) and values.nnz == 0)
