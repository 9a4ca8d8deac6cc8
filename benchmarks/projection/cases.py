"""The cases: a set with one batch left out, as every method gets it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from scipy import sparse

import scalex_scvi as sx


@dataclass(frozen=True)
class DataSet:
    """What a method must know of a set."""

    log_normalized: bool = False
    unlabelled: tuple[str, ...] = ()


SETS = {
    "mesc_2batch_scmerge": DataSet(),
    "pancreas_3study_cepo": DataSet(),
    "pbmc_cite_5k_10k_scvi_testdata": DataSet(unlabelled=("ungated",)),
    "rnamix_celseq2_sortseq": DataSet(),
    "pancreas_wang_xin_scclassify": DataSet(log_normalized=True),
    "celllines_3cl_3platforms_832genes": DataSet(),
    "kang_pbmc_published_labels": DataSet(),
    "kang_pbmc_ctrl_8donors": DataSet(),
}


@dataclass(frozen=True)
class Case:
    """Reference and query, all genes, as in the file. Labels of the query are for scoring only."""

    ref: ad.AnnData
    query: ad.AnnData
    about: DataSet
    batch_key: str
    label_key: str
    scvi_reference: Path
    """Folder of scVI's trained reference, which scANVI starts from; the first of them makes it."""
    borrowed: Counter[str] = field(default_factory=Counter)
    """Seconds that another run has spent for what was taken from there."""

    @cached_property
    def prepared(self) -> ad.AnnData:
        """The reference, prepared: its genes are those of all methods."""
        return self.prepare()

    def prepare(self, **options: Any) -> ad.AnnData:
        """Prepare the reference; no cell is removed, as the sets are filtered by their sources."""
        return sx.pp.rna(
            self.ref,
            batch_key=self.batch_key,
            min_features=0,
            log_normalized=self.about.log_normalized,
            **options,
        )

    @property
    def genes(self) -> pd.Index:
        """The genes of all methods."""
        return self.prepared.var_names

    @property
    def labels(self) -> np.ndarray:
        """Label of each cell of the reference."""
        return self.ref.obs[self.label_key].to_numpy(str)

    def log(self, adata: ad.AnnData) -> np.ndarray:
        """Log-normalised expression of the common genes, totals over all genes as in ours."""
        if not self.about.log_normalized:
            dropped = sx.pp.Preprocessing.from_adata(self.prepared).dropped_prefixes
            adata = adata[:, ~adata.var_names.str.startswith(tuple(dropped))].copy()
            sc.pp.normalize_total(adata, target_sum=1e4)
            sc.pp.log1p(adata)
        x = adata[:, self.genes].X
        return np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=np.float32)

    def raw(self, adata: ad.AnnData) -> ad.AnnData:
        """Pick the common genes; counts are rounded, as some sources hold expected counts."""
        adata = adata[:, self.genes].copy()
        if not self.about.log_normalized:
            adata.X = sparse.csr_matrix(adata.X, dtype=np.float32).rint()
        return adata


def read_case(
    data: Path, name: str, left_out: str, batch_key: str, label_key: str, scvi_reference: Path
) -> Case:
    """Leave a batch out. Cells without a label are in neither: no method may learn from them."""
    about = SETS.get(name, DataSet())
    adata = ad.read_h5ad(data / f"{name}.h5ad")
    for key in (batch_key, label_key):
        adata.obs[key] = adata.obs[key].astype(str)
    adata = adata[~adata.obs[label_key].isin(about.unlabelled)]
    is_query = (adata.obs[batch_key] == left_out).to_numpy()
    parts = (adata[~is_query].copy(), adata[is_query].copy())
    return Case(*parts, about, batch_key, label_key, scvi_reference)


def batches(data: Path, name: str, batch_key: str) -> list[str]:
    return sorted(
        ad.read_h5ad(data / f"{name}.h5ad", backed="r").obs[batch_key].astype(str).unique()
    )
