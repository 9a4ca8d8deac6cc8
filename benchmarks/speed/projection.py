"""Cells per second and memory of projection, beside the encoder's matrix product alone.

    python -m benchmarks.speed.projection --data kang_pbmc_published_labels.h5ad --batch-key batch \
        --cells 1000000 --folder scratch/

Makes that many cells by drawing real ones with replacement, written in blocks to ``--folder``, and
trains a model for some steps. Every measurement is a process of its own: it prints wall and CPU
seconds, cells per second and peak memory (resident set, `getrusage`). ``floor`` is the product of
dense float32 blocks with the first layer's weight and nothing else; ``loader`` is the same encoder
through scvi-tools' data loader. ``--counts`` also projects raw counts from disk (``store``).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

MEASUREMENTS = {
    "floor": {},
    "memory": {},
    "memory, batch": {"batch_stats": "batch"},
    "disk": {"backed": "r"},
    "disk, batch": {"backed": "r", "batch_stats": "batch"},
    "loader": {"num_workers": 0},
}
STORE = {"store": {}, "store, batch": {"batch_stats": "batch"}}


def make(args: argparse.Namespace) -> None:
    """Write the model and the drawn cells, prepared and if asked for as counts."""
    import anndata as ad

    import scalex_scvi as sx
    from benchmarks.drawn import draw_cells

    counts = ad.read_h5ad(args.data)
    prepared = sx.pp.rna(counts, batch_key=args.batch_key, min_features=0)
    sx.SCALEXModel.setup_anndata(prepared, batch_key=args.batch_key)
    model = sx.SCALEXModel(prepared)
    model.train(max_steps=300, accelerator="cpu", enable_progress_bar=False)
    model.save(args.folder / "model", overwrite=True)
    for name, source in {"prepared": prepared, "counts": counts}.items():
        if name == "prepared" or args.counts:
            cells = draw_cells(source, args.cells, args.batch_key)
            cells.write_h5ad(args.folder / f"{name}.h5ad")
    density = prepared.X.nnz / np.prod(prepared.shape)
    print(f"{args.cells} cells x {prepared.n_vars} genes, {100 * density:.1f} % not zero")


def prepare(args: argparse.Namespace) -> Callable[[], object]:
    """Open everything; what is returned is timed."""
    import anndata as ad
    import torch

    import scalex_scvi as sx

    model = sx.SCALEXModel.load(args.folder / "model", adata=False, accelerator="cpu")
    if args.measure == "floor":
        weight = model.module.encoder.layers[0].linear.weight.detach().T.contiguous()
        block = torch.rand(512, weight.shape[0])
        return lambda: [torch.mm(block, weight).size() for _ in range(0, args.cells, 512)]
    if args.measure in STORE:
        paths = args.folder / "counts.h5ad", args.folder / "latent.h5ad"
        return lambda: model.project_store(*paths, **STORE[args.measure])
    how = dict(MEASUREMENTS[args.measure])
    adata = ad.read_h5ad(args.folder / "prepared.h5ad", backed=how.pop("backed", None))
    model._validate_anndata(adata)  # registration checks every value: not what is timed
    return lambda: model.get_latent_representation(adata, **how)


def measure(args: argparse.Namespace) -> None:
    run = prepare(args)
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": wall, "cpu_seconds": cpu, "peak_gb": peak}))


def command(args: argparse.Namespace, name: str) -> dict[str, float]:
    """Run one measurement in a process of its own."""
    own = [sys.executable, "-m", "benchmarks.speed.projection", "--measure", name]
    own += ["--folder", str(args.folder), "--cells", str(args.cells)]
    done = subprocess.run(own, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def report(args: argparse.Namespace) -> None:
    import scvi
    import torch

    print(platform.processor() or platform.machine(), f"{os.cpu_count()} CPUs", end=", ")
    print(f"{torch.get_num_threads()} torch threads, torch {torch.__version__}", end=", ")
    print(f"scvi-tools {scvi.__version__}, median of {args.repeats}")
    names = [*MEASUREMENTS, *(STORE if args.counts else {})]
    print("| | seconds | cells/s | CPU seconds | CPU seconds / floor | peak RSS, GB |")
    print("|---|---|---|---|---|---|")
    floor = None
    for name in names:
        runs = [command(args, name) for _ in range(args.repeats)]
        wall, cpu, peak = (
            float(np.median([run[key] for run in runs]))
            for key in ("seconds", "cpu_seconds", "peak_gb")
        )
        floor = floor or cpu
        ratio = cpu / floor
        print(f"| {name} | {wall:.1f} | {args.cells / wall:.0f} | {cpu:.1f} |", end=" ")
        print(f"{ratio:.2f} | {peak:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="counts, .h5ad")
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, required=True, help="for what is written")
    parser.add_argument("--counts", action="store_true", help="also project raw counts from disk")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args)
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.data is not None:  # else what an earlier call has made
        make(args)
    report(args)


if __name__ == "__main__":
    main()
