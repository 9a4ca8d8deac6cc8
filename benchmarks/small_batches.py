"""How small batches mix with a large one, and what iLISI says of it.

    python -m benchmarks.pooled_sets --data FOLDER --out POOLED
    python -m benchmarks.small_batches --data POOLED [--sets NAME ...] [--seeds 0 1 2]
        [--methods scalex_scvi harmony scanorama uncorrected] [--out runs]

Beside each method stands a perfect mixing: cells of a type are points at random, whatever their
batch, and types lie far apart. Printed for each batch: the share of the 30 nearest cells that are
of other batches, and how many cells have one of the batch among their 30 nearest, for each of its
cells. In a perfect mixing that is 30 for all batches.
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
from benchmarks.options import one_of, parse
from benchmarks.peers import INTEGRATING, Embeddings
from benchmarks.sets import BATCH, LABELS, POOLED, describe, read_set
from benchmarks.speed.common import quiet

METHODS = ("scalex_scvi", "harmony", "scanorama", "uncorrected")
N_NEIGHBORS = 30
N_DIMENSIONS = 10


def mixed_perfectly(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return points of which only the label tells where they lie."""
    rng = np.random.default_rng(seed)
    types, of_cell = np.unique(labels, return_inverse=True)
    centers = 1000 * rng.normal(size=(len(types), N_DIMENSIONS))
    return centers[of_cell] + rng.normal(size=(len(labels), N_DIMENSIONS))


def embeddings(cells: Cells, methods: list[str], seed: int) -> Embeddings:
    yield "mixed perfectly", mixed_perfectly(cells.labels, seed)
    for method in methods:
        name, _, options = parse(method)
        yield from INTEGRATING[name](cells, seed, **options)


def of_batches(points: np.ndarray, batches: np.ndarray) -> pd.DataFrame:
    """Return what the neighbors of each batch's cells are, and how often these are neighbors."""
    search = NearestNeighbors(n_neighbors=N_NEIGHBORS).fit(points)
    near = search.kneighbors(return_distance=False)
    cells = pd.DataFrame(
        {
            "batch": batches,
            "of other batches": (batches[near] != batches[:, None]).mean(axis=1),
            "times a neighbor": np.bincount(near.ravel(), minlength=len(points)),
        }
    )
    return cells.groupby("batch").mean()


def ilisi(points: np.ndarray, cells: Cells) -> float:
    """Return scib-metrics' iLISI."""
    scored = ad.AnnData(obs=cells.counts.obs[[BATCH, LABELS]], obsm={"points": points})
    scores = sx.metrics.benchmark(
        scored, ["points"], batch_key=BATCH, labels_key=LABELS, metrics=["ilisi_knn"]
    )
    return float(scores.loc["points", "iLISI"])


def rows_of(data: Path, name: str, methods: list[str], seed: int) -> list[pd.DataFrame]:
    cells = Cells(read_set(data, name), describe(name), BATCH, LABELS)
    return [
        of_batches(points, cells.batches)
        .reset_index()
        .assign(set=name, seed=seed, method=method, iLISI=ilisi(points, cells))
        for method, points in embeddings(cells, methods, seed)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the pooled sets")
    parser.add_argument("--sets", nargs="+", default=list(POOLED))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), type=one_of(INTEGRATING))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs"))
    args = parser.parse_args()
    quiet()
    found = pd.concat(
        table
        for name in args.sets
        for seed in args.seeds
        for table in rows_of(args.data, name, args.methods, seed)
    )
    args.out.mkdir(parents=True, exist_ok=True)
    found.to_csv(args.out / "small_batches.csv", index=False, float_format="%.4g")
    means = found.drop(columns="seed").groupby(["set", "method", "batch"], sort=False).mean()
    print(means.round(3).to_string())


if __name__ == "__main__":
    main()
