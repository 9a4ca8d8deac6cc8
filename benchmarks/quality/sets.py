"""The data sets: how each is prepared, and which of its cells have no label to score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad

import scalex_scvi as sx


@dataclass(frozen=True)
class DataSet:
    """How to read a set that is not plain RNA counts."""

    profile: str = "RNA"
    log_normalized: bool | None = None  # None: counts
    unlabelled: str = ""


KNOWN = {
    "pancreas_3study_cepo": DataSet(),
    "mesc_2batch_scmerge": DataSet(),
    "celllines_3cl_3platforms_832genes": DataSet(),
    "rnamix_celseq2_sortseq": DataSet(),
    "pbmc_cite_5k_10k_scvi_testdata": DataSet(unlabelled="ungated"),
    "pancreas_wang_xin_scclassify": DataSet(log_normalized=True),
    "granja_bmmc_atac_peaks": DataSet(profile="ATAC"),
    "kang_pbmc_published_labels": DataSet(),
    "kang_pbmc_ctrl_8donors": DataSet(),
}


def describe(name: str) -> DataSet:
    """How to prepare a set; one that is not known holds RNA counts."""
    return KNOWN.get(name, DataSet())


def read_set(path: Path, batch_key: str, **preparation: Any) -> tuple[ad.AnnData, ad.AnnData]:
    """Read a set: its cells as they are, and prepared for the model with the genes of all methods.

    The sources filtered the cells: none is removed.
    """
    counts = ad.read_h5ad(path)
    about = describe(path.stem)
    prepared = sx.pp.preprocess(
        counts,
        about.profile,
        batch_key=batch_key,
        min_features=0,
        log_normalized=about.log_normalized,
        **preparation,
    )
    return counts, prepared
