"""Projection and label transfer beside the peers: each batch of each set is left out in turn.

Usage: ``python -m benchmarks.projection --data FOLDER`` (``--help`` for sets, methods and seeds).
Needs the extras ``peers`` and ``integration-peers``.

Each run of a method on a case with a seed is a process of its own, whose times and peak memory are
measured, and whose labels are kept under ``--out``: a second call computes only what is missing.
scANVI starts from the reference that scVI has trained for the same case and seed, if it is there;
its time counts that training. ``--again METHOD`` forgets the runs of a method. A method may carry
options, such as ``ours:lr=0.002,max_steps=3000``, and is then a method of its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from tqdm import tqdm

from benchmarks.projection.cases import SETS, batches
from benchmarks.projection.methods import METHODS, parse
from benchmarks.projection.report import Run, write_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="names of .h5ad files")
    parser.add_argument("--left-out", nargs="+", help="only these batches (default: each)")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), type=checked)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--label-key", default="celltype")
    parser.add_argument("--again", nargs="+", default=[], type=checked)
    parser.add_argument("--out", type=Path, default=Path("runs/projection"))
    args = parser.parse_args()
    runs = [
        Run(args.out, name, left_out, method, seed)
        for name in args.sets
        for left_out in batches(args.data, name, args.batch_key)
        if args.left_out is None or left_out in args.left_out
        for method in args.methods
        for seed in args.seeds
    ]
    failed = []
    for run in tqdm(runs, disable=None):
        if run.method in args.again:
            shutil.rmtree(run.place, ignore_errors=True)
        if not run.facts.exists() and not compute(args, run):
            failed.append(str(run.place))
    write_report(runs, args.out)
    if failed:
        sys.exit(f"{len(failed)} runs failed, see their log.txt: {', '.join(failed)}")


def checked(method: str) -> str:
    if parse(method)[0] not in METHODS:
        msg = f"{method!r} is not one of {', '.join(METHODS)}, with options or without."
        raise argparse.ArgumentTypeError(msg)
    return method


def compute(args: argparse.Namespace, run: Run) -> bool:
    """Run one method in a process of its own; tell whether it succeeded."""
    run.place.mkdir(parents=True, exist_ok=True)
    task = {
        "data": str(args.data),
        "set": run.set,
        "left_out": run.left_out,
        "batch_key": args.batch_key,
        "label_key": args.label_key,
        "method": run.method,
        "seed": run.seed,
        "place": str(run.place),
        "scvi_reference": str(run.scvi_reference),
    }
    with (run.place / "log.txt").open("w") as log:
        worker = [sys.executable, "-m", "benchmarks.projection.worker", json.dumps(task)]
        return subprocess.run(worker, stdout=log, stderr=log, check=False).returncode == 0


if __name__ == "__main__":
    main()
