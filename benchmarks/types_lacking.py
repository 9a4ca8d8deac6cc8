"""How well types stay apart where each batch lacks a third of them.

    python -m benchmarks.types_lacking --data FOLDER [--sets NAME ...] [--seeds 0 1 2] [--out runs]
        [--methods scalex_scvi scalex_scvi:alignment_weight=0]

Types and batches are counted by name; the first batch lacks types 0, 3, 6 ..., the next one 1, 4,
7 .... So some types are in one batch alone, beside others of which the same is true. Printed, by
both statistics of the encoder: purity of 30 neighbors, types counting alike, and scores of
scib-metrics.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from sklearn.neighbors import NearestNeighbors

import scalex_scvi as sx
from benchmarks.cells import Cells
from benchmarks.components import components
from benchmarks.options import one_of, parse
from benchmarks.ours import integrate
from benchmarks.quality.report import AGGREGATES, BIO_METRICS
from benchmarks.sets import BATCH, LABELS, describe, read_set
from benchmarks.speed.common import quiet

SETS = ("mesc_2batch_scmerge", "pancreas_3study_cepo", "pancreas_wang_xin_scclassify")


def lacking(adata: ad.AnnData) -> ad.AnnData:
    """Leave out of each batch a third of the types."""
    batch, celltype = (adata.obs[key].astype("category").cat.codes for key in (BATCH, LABELS))
    return adata[(celltype % 3 != batch % 3).to_numpy()].copy()


def purity(latent: np.ndarray, labels: np.ndarray, n_neighbors: int = 30) -> float:
    """Share of neighbors of the same type, mean over types."""
    search = NearestNeighbors(n_neighbors=n_neighbors).fit(latent)
    near = search.kneighbors(return_distance=False)
    same = (labels[near] == labels[:, None]).mean(axis=1)
    return float(pd.Series(same).groupby(labels).mean().mean())


def rows_of(data: Path, name: str, method: str, seed: int) -> list[dict[str, object]]:
    _, preparation, options = parse(method)
    cells = Cells(lacking(read_set(data, name)), describe(name), BATCH, LABELS, preparation)
    latents = dict(integrate(cells, seed, **options))
    scored = ad.AnnData(
        obs=cells.counts.obs[[BATCH, LABELS]],
        obsm={"before": components(cells, standardize=True), **latents},
    )
    scores = sx.metrics.benchmark(
        scored,
        list(latents),
        batch_key=BATCH,
        labels_key=LABELS,
        pre_integrated="before",
        metrics=(*BIO_METRICS, *sx.metrics.BATCH_METRICS),
    )
    return [
        {"method": method, "set": name, "seed": seed, "statistics": stats}
        | {"purity": purity(latent, cells.labels)}
        | scores.loc[stats, AGGREGATES].to_dict()
        for stats, latent in latents.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument(
        "--methods", nargs="+", default=["scalex_scvi"], type=one_of(["scalex_scvi"])
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs"))
    args = parser.parse_args()
    quiet()
    rows = [
        row
        for method in args.methods
        for name in args.sets
        for seed in args.seeds
        for row in rows_of(args.data, name, method, seed)
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    found = pd.DataFrame(rows)
    found.to_csv(args.out / "types_lacking.csv", index=False, float_format="%.4g")
    means = found.drop(columns="seed").groupby(["method", "set", "statistics"], sort=False).mean()
    print(means.round(3).to_string())


if __name__ == "__main__":
    main()
