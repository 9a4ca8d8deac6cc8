"""Time to place new cells into a trained reference: ours, the published package, scVI, Harmony.

Usage: ``python -m benchmarks.speed.query [--data FILE.h5ad] [--cells 6000] [--query-cells 1000]
[--repeats 5] [--threads 2] [--methods ...] [--out runs/speed]``. See the README beside this.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from scvi import settings

import scalex_scvi as sx
from benchmarks.peers import SCVI_MAPPABLE, SCVI_QUERY
from benchmarks.speed.common import QUIET, argument_parser, quiet, read_cells, write

REFERENCE_STEPS = 100
"""Minibatches that references are trained for: how well does not matter for the query's time."""

Place = Callable[[], object]
"""Raw counts of the query in, latent out: what is timed."""


def ours(ref: AnnData, query: AnnData, batch_stats: str = "running") -> Place:
    """Place cells without training: preprocessing of the query included."""
    prepared = sx.pp.rna(ref, batch_key="batch", min_features=0)
    sx.SCALEXModel.setup_anndata(prepared, batch_key="batch")
    model = sx.SCALEXModel(prepared)
    model.train(max_steps=REFERENCE_STEPS, **QUIET)

    def place() -> np.ndarray:
        placed = sx.SCALEXModel.load_query_data(query, model, accelerator="cpu")
        return placed.get_latent_representation(batch_stats=batch_stats)

    return place


def published(ref: AnnData, query: AnnData) -> Place:
    """Project by scalex 1.0.4, which reads its model from disk; without UMAP and workers."""
    torch.load = partial(torch.load, weights_only=False)  # its config.pt holds more than tensors
    from scalex import SCALEX

    folder = tempfile.mkdtemp()
    run = partial(SCALEX, min_features=0, batch_name="batch", ignore_umap=True, num_workers=0)
    run(ref.copy(), outdir=folder, max_iteration=REFERENCE_STEPS)
    return lambda: run(query.copy(), projection=folder, repeat=True)


def scvi(ref: AnnData, query: AnnData) -> Place:
    """Map by training on the query, as scvi-tools' tutorial does."""
    from scvi.model import SCVI

    genes = sx.pp.rna(ref, batch_key="batch", min_features=0).var_names
    ref, query = (_rounded(adata[:, genes].copy()) for adata in (ref, query))
    SCVI.setup_anndata(ref, batch_key="batch")
    model = SCVI(ref, **SCVI_MAPPABLE)
    model.train(max_steps=REFERENCE_STEPS, **QUIET)

    def place() -> np.ndarray:
        mapped = SCVI.load_query_data(query.copy(), model)
        mapped.train(**SCVI_QUERY, **QUIET)
        return mapped.get_latent_representation()

    return place


def _rounded(counts: AnnData) -> AnnData:
    counts.X = sparse.csr_matrix(counts.X, dtype=np.float32).rint()
    return counts


def harmony(ref: AnnData, query: AnnData) -> Place:
    """Correct reference and query together from the start: there is no model to project with."""
    import anndata as ad
    import harmonypy

    def place() -> np.ndarray:
        both = sx.pp.rna(ad.concat([ref, query]), batch_key="batch", min_features=0)
        pca = sx.metrics.uncorrected_pca(both, n_components=50)
        return harmonypy.run_harmony(pca, both.obs, "batch", random_state=0).Z_corr

    return place


METHODS: dict[str, Callable[[AnnData, AnnData], Place]] = {
    "ours": ours,
    "ours, batch statistics": partial(ours, batch_stats="batch"),
    "scalex 1.0.4": published,
    "scvi, query training": scvi,
    "harmony, of both": harmony,
}


def split(counts: AnnData, n_query: int) -> tuple[AnnData, AnnData]:
    """Make the last batch the query, of at most ``n_query`` cells; all others are the reference."""
    batch = counts.obs["batch"].astype(str)
    is_query = (batch == sorted(batch.unique())[-1]).to_numpy()
    return counts[~is_query].copy(), counts[np.flatnonzero(is_query)[:n_query]].copy()


def measure(places: dict[str, Place], repeats: int) -> pd.DataFrame:
    """All methods in turn, as often as asked, after one round that warms up."""
    rows = []
    for repeat in range(repeats + 1):
        for name, place in places.items():
            wall, cpu = time.perf_counter(), time.process_time()
            place()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if repeat:
                rows.append((name, wall, cpu))
    runs = pd.DataFrame(rows, columns=["method", "seconds", "cpu_seconds"])
    table = runs.groupby("method", sort=False).median().reset_index()
    table["times_ours"] = table["seconds"] / table["seconds"].iloc[0]
    return table


def main() -> None:
    parser = argument_parser(__doc__, METHODS, n_cells=6_000)
    parser.add_argument("--query-cells", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    quiet()
    settings.num_threads = args.threads  # all methods have them, ours in training, too
    counts, _ = read_cells(args.data, args.cells, 2_000)
    ref, query = split(counts, args.query_cells)
    places = {name: METHODS[name](ref, query) for name in args.methods}
    table = measure(places, args.repeats)
    sizes = {"reference_cells": ref.n_obs, "query_cells": query.n_obs, "repeats": args.repeats}
    write(table.assign(**sizes), args.out / "query.csv")


if __name__ == "__main__":
    main()
