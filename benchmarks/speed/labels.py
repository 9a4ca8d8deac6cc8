"""Labels, probabilities and "unknown" of many cells: seconds and peak memory.

Usage: ``python -m benchmarks.speed.labels --data FOLDER [--cells 100000]``. As many query cells as
reference cells, both drawn with replacement from the eight donors of kang_pbmc_ctrl_8donors
(2 000 genes); the latent is drawn around the cells' labels, which takes no training. The first row
is the process with both in memory, the second is ``sx.tl.label_scores``.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import anndata as ad
import numpy as np

import scalex_scvi as sx
from benchmarks.speed.common import quiet


def draw(counts: ad.AnnData, n_cells: int, seed: int) -> ad.AnnData:
    """Draw cells, with a latent in which labels lie apart by about what one of them scatters."""
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.integers(counts.n_obs, size=n_cells))
    obs = counts.obs[["batch", "celltype"]].iloc[rows]
    obs.index = [f"{seed}_{i}" for i in range(n_cells)]
    cells = ad.AnnData(counts.X[rows], obs=obs, var=counts.var)
    center = np.unique(obs["celltype"].astype(str), return_inverse=True)[1]
    latent = rng.normal(size=(n_cells, 10)) + center[:, None]
    cells.obsm["latent"] = latent.astype(np.float32)
    return cells


def prepare(data: Path, n_cells: int, out: Path) -> None:
    """Write a reference of eight donors, and a query that is one new batch, both prepared."""
    quiet()
    counts = ad.read_h5ad(data / "kang_pbmc_ctrl_8donors.h5ad")
    reference = sx.pp.rna(draw(counts, n_cells, 1), batch_key="batch", n_top_features=2000)
    reference.raw = None
    query = draw(counts, n_cells, 2)
    query.obs["batch"] = "new"
    record = sx.pp.Preprocessing.from_adata(reference)
    reference.write_h5ad(out / "reference.h5ad")
    sx.pp.prepare_query(query, record, batch_key="batch").write_h5ad(out / "query.h5ad")


def peak() -> float:
    """Peak memory of the process, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--cells", type=int, default=100_000)
    args = parser.parse_args()
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        # In a process of its own, so that its memory does not count.
        preparing = get_context("spawn").Process(target=prepare, args=(args.data, args.cells, out))
        preparing.start()
        preparing.join()
        reference, query = (ad.read_h5ad(out / f"{name}.h5ad") for name in ("reference", "query"))
    print(f"cells     {'':8s} peak {peak():5.2f} GB", flush=True)
    start = time.perf_counter()
    sx.tl.label_scores(reference, query, "latent", batch_key="batch")
    print(f"labels    {time.perf_counter() - start:6.1f} s peak {peak():5.2f} GB", flush=True)


if __name__ == "__main__":
    main()
