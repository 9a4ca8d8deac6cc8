"""What is bit-identical, and how close the rest is.

Usage: ``python -m benchmarks.reproducibility FILE.h5ad --out latent.npy [--against other.npy]``.

Trains on real counts with ``obs["batch"]`` and prints, as JSON, the largest difference of the
latent between two runs, another process, other numbers of threads, another order of the cells
that are placed, and another size of blocks. The latent is saved: ``--against`` compares it with
that of another environment (another Python, torch or machine).
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import torch

import scalex_scvi as sx

STEPS = 50


def train(
    path: Path, n_threads: int, n_cells: int, batch_key: str
) -> tuple[ad.AnnData, sx.SCALEXModel]:
    torch.set_num_threads(n_threads)
    adata = ad.read_h5ad(path)
    adata = adata[np.sort(np.random.default_rng(0).permutation(adata.n_obs)[:n_cells])].copy()
    sx.SCALEXModel.setup_anndata(adata, batch_key=batch_key)
    model = sx.SCALEXModel(adata, seed=0)
    model.train(max_steps=STEPS, seed=0, accelerator="cpu", enable_progress_bar=False)
    return adata, model


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference, in standard deviations of the latent; 0: bit for bit."""
    return float(np.abs(one - other).max() / one.std())


def elsewhere(args: argparse.Namespace, n_threads: int) -> np.ndarray:
    """Latent of another process."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "latent.npy"
        command = [
            *(sys.executable, "-m", "benchmarks.reproducibility", str(args.data), "--alone"),
            *("--threads", str(n_threads), "--cells", str(args.cells), "--out", str(out)),
            *("--batch-key", args.batch_key),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return np.load(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--cells", type=int, default=600)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--alone", action="store_true", help="train and save, nothing else")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("scalex_scvi").setLevel(logging.ERROR)
    adata, model = train(args.data, args.threads, args.cells, args.batch_key)
    latent = model.get_latent_representation()
    np.save(args.out, latent)
    if args.alone:
        return
    order = np.random.default_rng(1).permutation(adata.n_obs)
    query = adata[order].copy()
    placed = sx.SCALEXModel.load_query_data(query, model).get_latent_representation()
    again = train(args.data, args.threads, args.cells, args.batch_key)[1]
    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "another run": difference(latent, again.get_latent_representation()),
        "another process": difference(latent, elsewhere(args, args.threads)),
        "two threads": difference(latent, elsewhere(args, 2)),
        "other order of placed cells": difference(latent[order], placed),
        "small blocks": difference(latent, model.get_latent_representation(batch_size=7)),
    }
    if args.against is not None:
        found["another environment"] = difference(np.load(args.against), latent)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
