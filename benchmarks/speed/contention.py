"""A training by one thread and by two, on idle cores and beside other programs.

Usage: ``python -m benchmarks.speed.contention [--steps 150] [--busy 2] [--repeats 3]``. The 500
embedded pancreas cells; wall seconds of ``--steps`` minibatches by the default recipe, medians of
``--repeats`` in turn, first with nothing beside, then beside ``--busy`` processes that compute.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time

from anndata import AnnData
from scvi import settings

import scalex_scvi as sx
from benchmarks.speed.common import QUIET, quiet


def compute() -> None:
    while True:
        sum(range(100_000))


def seconds(cells: AnnData, n_threads: int, steps: int) -> float:
    settings.num_threads = n_threads
    model = sx.SCALEXModel(cells)
    start = time.perf_counter()
    model.train(max_steps=steps, **QUIET)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--busy", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    quiet()
    cells = sx.pp.rna(sx.datasets.pancreas(), batch_key="batch", min_features=0)
    sx.SCALEXModel.setup_anndata(cells, batch_key="batch")
    seconds(cells, 1, 5)  # what is imported by the first one
    context = multiprocessing.get_context("spawn")
    for n_busy in (0, args.busy):
        others = [context.Process(target=compute, daemon=True) for _ in range(n_busy)]
        for other in others:
            other.start()
        time.sleep(3 if others else 0)
        runs = [[seconds(cells, n, args.steps) for n in (1, 2)] for _ in range(args.repeats)]
        for n_threads, found in zip((1, 2), zip(*runs, strict=True), strict=True):
            median, each = statistics.median(found), ", ".join(f"{run:.1f}" for run in found)
            print(f"{n_busy} beside, {n_threads} threads: {median:.1f} s ({each})", flush=True)
        for other in others:
            other.kill()


if __name__ == "__main__":
    main()
