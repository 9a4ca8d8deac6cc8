"""What methods get: the cells of a set, or a reference and the batch that was left out of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from scipy import sparse

import scalex_scvi as sx
from benchmarks.sets import BATCH, LABELS, DataSet


@dataclass(frozen=True)
class Cells:
    """Cells with all genes, as in the file; how to prepare them, and the genes of all methods."""

    counts: ad.AnnData
    about: DataSet = field(default_factory=DataSet)
    batch_key: str = BATCH
    labels_key: str = LABELS
    preparation: dict[str, Any] = field(default_factory=dict)
    """Options of preprocessing beside the defaults."""

    @cached_property
    def prepared(self) -> ad.AnnData:
        """Prepared for ours; no cell is removed, as the sets are filtered by their sources."""
        return sx.pp.preprocess(
            self.counts,
            self.about.profile,
            batch_key=self.batch_key,
            min_features=0,
            log_normalized=self.about.log_normalized,
            **self.preparation,
        )

    def prepared_query(self, query: ad.AnnData) -> ad.AnnData:
        """Prepare other cells as these were, and with their genes."""
        return sx.pp.prepare_query(
            query,
            sx.pp.Preprocessing.from_adata(self.prepared),
            batch_key=self.batch_key,
            log_normalized=self.about.log_normalized,
        )[:, self.genes].copy()

    @property
    def genes(self) -> pd.Index:
        """The genes of all methods: the most variable ones."""
        return self.prepared.var_names

    @property
    def batches(self) -> np.ndarray:
        """Batch of each cell."""
        return self.counts.obs[self.batch_key].to_numpy(str)

    @property
    def labels(self) -> np.ndarray:
        """Label of each cell."""
        return self.counts.obs[self.labels_key].to_numpy(str)

    @property
    def log(self) -> sparse.csr_matrix:
        """Log-normalized expression of the common genes; of peaks, what ours gets."""
        if self.about.profile == "ATAC":
            return self.prepared.X
        return self.prepared.raw[:, self.genes].X

    def log_of(self, adata: ad.AnnData) -> np.ndarray:
        """Log-normalized expression of other cells, totals over all genes as in ours."""
        if not self.about.log_normalized:
            dropped = sx.pp.Preprocessing.from_adata(self.prepared).dropped_prefixes
            adata = adata[:, ~adata.var_names.str.startswith(tuple(dropped))].copy()
            sc.pp.normalize_total(adata, target_sum=1e4)
            sc.pp.log1p(adata)
        x = adata[:, self.genes].X
        return np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=np.float32)

    def raw_of(self, adata: ad.AnnData) -> ad.AnnData:
        """Pick the common genes; counts are rounded, as some sources hold expected counts."""
        adata = adata[:, self.genes].copy()
        if not self.about.log_normalized:
            adata.X = sparse.csr_matrix(adata.X, dtype=np.float32).rint()
        return adata


@dataclass(frozen=True)
class Case:
    """Reference and query. Labels of the query are for scoring only."""

    ref: Cells
    query: ad.AnnData
    scvi_reference: Path
    """Folder of scVI's trained reference, which scANVI starts from; the first of them makes it."""
    borrowed: Counter[str] = field(default_factory=Counter)
    """Seconds that another run has spent for what was taken from there."""


class Answer(NamedTuple):
    """Label of each query cell; where the method can say so whether it is unknown to it."""

    labels: np.ndarray
    unknown: np.ndarray | None = None
    p: np.ndarray | None = None
    """Share of held-out reference cells that the method is as unsure of."""
    misfit: np.ndarray | None = None
    """What these shares rank, larger for cells that it is less sure of."""


Answers = dict[str, Callable[[], Answer]]
"""What is left to do when a query comes, which is timed apart from the reference."""


def leave_out(
    adata: ad.AnnData, left_out: str, removed: str = "", *, batch_key: str, labels_key: str
) -> tuple[ad.AnnData, ad.AnnData]:
    """Split into the reference, without a type if one is named, and the batch left out."""
    is_query = (adata.obs[batch_key].astype(str) == left_out).to_numpy()
    is_removed = (adata.obs[labels_key].astype(str) == removed).to_numpy()
    return adata[~is_query & ~is_removed].copy(), adata[is_query].copy()
