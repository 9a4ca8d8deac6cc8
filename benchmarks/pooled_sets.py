"""Sets that no default was chosen on: cells of several studies that come as sets of their own.

Usage: ``python -m benchmarks.pooled_sets --data FOLDER --out FOLDER``, then
``python -m benchmarks.quality --data OUT --sets pooled_pbmc ...`` and the same of
``benchmarks/projection``.

The cells are known from the other sets; that they have to be integrated with those of another
study is new. Genes are those that all parts measured, counts stay as they are. Cells of types that
are not named here are left out: ungated ones, and mixtures of cell lines.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

BATCH, LABEL = "batch", "celltype"

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
        if missing := sorted(set(self.types) - set(adata.obs[LABEL])):
            msg = f"{self.file}.h5ad has no cells of {missing!r}, only {set(adata.obs[LABEL])!r}."
            raise ValueError(msg)
        kept = adata.obs[LABEL].isin(list(self.types))
        if self.batches is not None:
            kept &= adata.obs[BATCH].isin(self.batches)
        adata = adata[kept.to_numpy()]
        obs = adata.obs[[BATCH, LABEL]].astype(str)
        obs[LABEL] = obs[LABEL].map(self.types)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pooled ones")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, parts in POOLED.items():
        adata = pool(parts, args.data)
        adata.write_h5ad(args.out / f"{name}.h5ad")
        print(name, *adata.shape, sep="\t")
        print(pd.crosstab(adata.obs[BATCH], adata.obs[LABEL]).to_string())


if __name__ == "__main__":
    main()
