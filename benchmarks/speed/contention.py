"""A training and labels by one thread and by two, on idle cores and beside other programs.

Usage: ``python -m benchmarks.speed.contention [--data FILE.h5ad] [--steps 150] [--busy 2]
[--repeats 3]``. Counts with ``obs["batch"]`` and ``obs["celltype"]``; default: the 500 embedded
pancreas cells. Wall seconds of ``--steps`` minibatches by the default recipe, and of ``map_query``
with labels, latent included, of the smallest batch by a reference of the others; medians of
``--repeats`` in turn, first with nothing beside, then beside ``--busy`` processes that compute.
One thread is the default; ``OMP_NUM_THREADS`` asks for two.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import torch
from anndata import AnnData

import scalex_scvi as sx
from benchmarks.speed.common import QUIET, quiet


def compute() -> None:
    while True:
        sum(range(100_000))


def jobs(cells: AnnData, steps: int) -> dict[str, Callable[[], object]]:
    """Name what is timed."""
    batch = cells.obs["batch"].astype(str)
    is_query = (batch == batch.value_counts().index[-1]).to_numpy()
    query, ref = cells[is_query].copy(), cells[~is_query].copy()
    reference = sx.integrate(ref, "batch", max_steps=20, **QUIET)
    sx.SCALEXModel.setup_anndata(cells, batch_key="batch", n_top_features=2_000)
    print(f"{cells.n_obs} cells; {query.n_obs} are labeled by the others")
    return {
        f"{steps} minibatches": lambda: sx.SCALEXModel(cells).train(max_steps=steps, **QUIET),
        "labels": lambda: sx.map_query(query.copy(), reference, labels="celltype"),
    }


def seconds(job: Callable[[], object], n_threads: int) -> float:
    os.environ.pop("OMP_NUM_THREADS", None)
    if n_threads > 1:
        os.environ["OMP_NUM_THREADS"] = str(n_threads)
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def report(timed: dict[str, Callable[[], object]], n_busy: int, repeats: int) -> None:
    """Time each job by one thread and by two, in turn, and print the medians."""
    for name, job in timed.items():
        runs = [[seconds(job, n) for n in (1, 2)] for _ in range(repeats)]
        for n_threads, found in zip((1, 2), zip(*runs, strict=True), strict=True):
            median, each = statistics.median(found), ", ".join(f"{run:.1f}" for run in found)
            print(f"{name}, {n_busy} beside, {n_threads} threads: {median:.1f} s ({each})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--busy", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    quiet()
    torch.set_num_threads(2)
    cells = sx.datasets.pancreas() if args.data is None else ad.read_h5ad(args.data)
    timed = jobs(cells, args.steps)
    for job in timed.values():
        job()  # what is imported by the first one
    context = multiprocessing.get_context("spawn")
    for n_busy in (0, args.busy):
        others = [context.Process(target=compute, daemon=True) for _ in range(n_busy)]
        for other in others:
            other.start()
        time.sleep(3 if others else 0)
        report(timed, n_busy, args.repeats)
        for other in others:
            other.kill()


if __name__ == "__main__":
    main()
