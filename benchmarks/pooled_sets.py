"""Sets that no default was chosen on: cells of several studies that come as sets of their own.

Usage: ``python -m benchmarks.pooled_sets --data FOLDER --out FOLDER``, then
``python -m benchmarks.quality --data OUT --sets pooled_pbmc ...`` and the same of
``benchmarks.left_out``.

The cells are known from the other sets; that they have to be integrated with those of another
study is new. Genes are those that all parts measured, counts stay as they are. Cells of types that
are not named in ``benchmarks.sets`` are left out: ungated ones, and mixtures of cell lines. One set
more holds the surface proteins of the cells whose RNA is a set already.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from benchmarks.sets import BATCH, LABELS, POOLED, pool, read_proteins


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pooled ones")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    made = {name: pool(parts, args.data) for name, parts in POOLED.items()}
    made["pbmc_cite_proteins"] = read_proteins(args.data)
    for name, adata in made.items():
        adata.write_h5ad(args.out / f"{name}.h5ad")
        print(name, *adata.shape, sep="\t")
        print(pd.crosstab(adata.obs[BATCH], adata.obs[LABELS]).to_string())


if __name__ == "__main__":
    main()
