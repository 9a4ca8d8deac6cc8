"""Peak memory and time of an integration, from counts to latent, each way in a process of its own.

Usage: ``python -m benchmarks.speed.memory --data FILE.h5ad [--max-steps 200]``. ``in place`` is
``sx.integrate``, ``prepared`` is ``sx.pp.rna`` and a model of what it gives. The first row is what
reading the counts and importing everything takes.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad

import scalex_scvi as sx

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


def nothing(counts: ad.AnnData, max_steps: int) -> None:
    """Import what the others import."""
    _ = sx.SCALEXModel


def in_place(counts: ad.AnnData, max_steps: int) -> None:
    sx.integrate(counts, "batch", max_steps=max_steps, **QUIET)


def prepared(counts: ad.AnnData, max_steps: int) -> None:
    adata = sx.pp.rna(counts, batch_key="batch")
    sx.SCALEXModel.setup_anndata(adata, batch_key="batch")
    model = sx.SCALEXModel(adata)
    model.train(max_steps=max_steps, **QUIET)
    adata.obsm["latent"] = model.get_latent_representation()


WAYS = {"nothing": nothing, "in place": in_place, "prepared": prepared}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="counts, obs batch")
    parser.add_argument("--max-steps", type=int, default=200)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way is None:
        for way in WAYS:
            subprocess.run([sys.executable, "-m", __spec__.name, *sys.argv[1:], "--way", way])
        return
    counts = ad.read_h5ad(args.data)
    start = time.perf_counter()
    WAYS[args.way](counts, args.max_steps)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"{args.way:10s} {seconds:6.1f} s  peak {peak:7.0f} MB", flush=True)


if __name__ == "__main__":
    main()
