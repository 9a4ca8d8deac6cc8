"""The data sets: their columns, how they are read, what is left out of them, the pooled ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

BATCH, LABELS = "batch", "celltype"


@dataclass(frozen=True)
class DataSet:
    """What a method must know of a set, and what the label benchmark leaves out of it."""

    profile: str = "RNA"
    log_normalized: bool = False
    """Whether the file holds log-normalized values instead of counts."""
    unlabeled: tuple[str, ...] = ()
    """Labels that say nothing: such cells are not scored."""
    left_out: tuple[str, ...] = ()
    """Batches that are left out to ask for "unknown" cells."""
    types_left_out: tuple[str, ...] = ()
    """Those of them for which each cell type in turn is taken out of the reference, too."""


SETS = {
    "kang_pbmc_published_labels": DataSet(left_out=("ctrl", "stim")),
    "pancreas_3study_cepo": DataSet(
        left_out=("Baron", "Lawlor", "Segerstolpe"),
        types_left_out=("Baron", "Lawlor", "Segerstolpe"),
    ),
    "mesc_2batch_scmerge": DataSet(
        left_out=("batch2", "batch3"), types_left_out=("batch2", "batch3")
    ),
    "celllines_3cl_3platforms_832genes": DataSet(
        left_out=("10x_3cl", "CELseq2_3cl", "Dropseq_3cl"), types_left_out=("CELseq2_3cl",)
    ),
    "kang_pbmc_ctrl_8donors": DataSet(left_out=("donor1015",), types_left_out=("donor1015",)),
    "rnamix_celseq2_sortseq": DataSet(),
    "pbmc_cite_5k_10k_scvi_testdata": DataSet(unlabeled=("ungated",)),
    "pancreas_wang_xin_scclassify": DataSet(log_normalized=True),
    "granja_bmmc_atac_peaks": DataSet(profile="ATAC"),
}
NOT_RNA = {
    "snare_mouse_cortex_atac": DataSet(profile="ATAC"),
    "pbmc_cite_proteins": DataSet(profile="ADT", unlabeled=("ungated",)),
}
"""Beside the default sets; `benchmarks.pooled_sets` takes the proteins from the file of the RNA."""
RNA_SETS = [name for name, about in SETS.items() if about.profile == "RNA"]
LABEL_SETS = [name for name, about in SETS.items() if about.left_out]


def describe(name: str) -> DataSet:
    """Say how to read a set; one that is not known holds RNA counts."""
    return (SETS | NOT_RNA).get(name, DataSet())


def read_set(data: Path, name: str, batch_key: str = BATCH, labels_key: str = LABELS) -> ad.AnnData:
    """Read the cells of a set as they are in its file, batches and labels as text."""
    adata = ad.read_h5ad(data / f"{name}.h5ad")
    for key in (batch_key, labels_key):
        adata.obs[key] = adata.obs[key].astype(str)
    return adata


def read_labeled(data: Path, name: str, most_cells: int | None = None) -> ad.AnnData:
    """Read the cells whose label says something, at most so many of each batch, at random."""
    adata = read_set(data, name)
    adata = adata[~adata.obs[LABELS].isin(describe(name).unlabeled)]
    if most_cells is not None:
        order = np.random.default_rng(0).permutation(adata.n_obs)
        shuffled = adata.obs[BATCH].iloc[order]
        rank = shuffled.groupby(shuffled).cumcount()
        adata = adata[np.sort(order[(rank < most_cells).to_numpy()])]
    return adata


BLOOD = ("B", "CD14 Mono", "CD4 T", "CD8 T", "NK", "DC", "FCGR3A Mono", "Mk")
SORTED = {
    "CD14+ Monocyte": "CD14 Mono",
    "CD19+ B": "B",
    "CD34+": "CD34+",
    "CD4+/CD25 T Reg": "CD4 T",
    "CD4+/CD45RA+/CD25- Naive T": "CD4 T",
    "CD4+/CD45RO+ Memory": "CD4 T",
    "CD56+ NK": "NK",
    "CD8+ Cytotoxic T": "CD8 T",
    "CD8+/CD45RA+ Naive Cytotoxic": "CD8 T",
    "Dendritic": "DC",
}
# The source of the wells has H2228 and HCC827 the wrong way round: wells that it calls H2228 have
# the EGFR and SFTA2 of HCC827, those that it calls HCC827 the LCN2, SAA1 and AKR1C3 of H2228.
LINES = {
    "H2228_1.0|H1975_0.0|HCC827_0.0": "HCC827",
    "H2228_0.0|H1975_1.0|HCC827_0.0": "H1975",
    "H2228_0.0|H1975_0.0|HCC827_1.0": "H2228",
}


@dataclass(frozen=True)
class Part:
    """What a pooled set takes of a file: cells of some types, of some batches (default: all)."""

    file: str
    types: Mapping[str, str]
    batches: Sequence[str] | None = None

    def read(self, data: Path) -> ad.AnnData:
        """Read its cells, with batches and the common names of their types.

        Raises
        ------
        ValueError
            If the file has no cells of one of the types.
        """
        adata = ad.read_h5ad(data / f"{self.file}.h5ad")
        if missing := sorted(set(self.types) - set(adata.obs[LABELS])):
            msg = f"{self.file}.h5ad has no cells of {missing!r}, only {set(adata.obs[LABELS])!r}."
            raise ValueError(msg)
        kept = adata.obs[LABELS].isin(list(self.types))
        if self.batches is not None:
            kept &= adata.obs[BATCH].isin(self.batches)
        adata = adata[kept.to_numpy()]
        obs = adata.obs[[BATCH, LABELS]].astype(str)
        obs[LABELS] = obs[LABELS].map(self.types)
        x = sparse.csr_matrix(adata.X, dtype=np.float32)
        return ad.AnnData(x, obs=obs, var=adata.var[[]])


CONTROL = Part("kang_pbmc_published_labels", {name: name for name in BLOOD}, ["ctrl"])
CITE = Part("pbmc_cite_5k_10k_scvi_testdata", {name: name for name in BLOOD[:5]})
POOLED = {
    "pooled_pbmc": (CONTROL, CITE),
    "pooled_pbmc_sorted": (CONTROL, CITE, Part("pbmc68k_reduced_scanpy", SORTED)),
    "pooled_celllines_wells": (
        Part("celllines_3cl_3platforms_832genes", {name: name for name in LINES.values()}),
        Part("rnamix_celseq2_sortseq", LINES),
    ),
}


def pool(parts: Sequence[Part], data: Path) -> ad.AnnData:
    """Put the parts under one another, on the genes that all of them have."""
    return ad.concat([part.read(data) for part in parts], join="inner", index_unique="-")


def read_proteins(data: Path) -> ad.AnnData:
    """Read the proteins of the cells whose RNA is a set of its own."""
    adata = ad.read_h5ad(data / f"{CITE.file}.h5ad")
    counts = adata.obsm["protein_expression"]
    obs = adata.obs[[BATCH, LABELS]].astype(str)
    var = pd.DataFrame(index=counts.columns.astype(str))
    return ad.AnnData(sparse.csr_matrix(counts.to_numpy(np.float32)), obs=obs, var=var)
