"""Integration quality of this package beside its peers, scored by scib-metrics.

Usage: ``python benchmarks/quality --data FOLDER`` (``--help`` for sets, methods and seeds). Needs
the extras ``benchmark``, ``peers`` and ``integration-peers``.

Each run of a method on a set with a seed is a process of its own, whose time and peak memory are
measured, and whose embeddings are kept under ``--out``: a second call computes only what is
missing. ``--again METHOD`` forgets the runs of a method.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from methods import METHODS
from report import write_report
from tqdm import tqdm

SETS = [
    "pancreas_3study_cepo",
    "mesc_2batch_scmerge",
    "celllines_3cl_3platforms_832genes",
    "kang_pbmc_published_labels",
    "kang_pbmc_ctrl_8donors",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--sets", nargs="+", default=SETS, help="names of .h5ad files")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--label-key", default="celltype")
    parser.add_argument("--again", nargs="+", default=[], choices=list(METHODS))
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    args = parser.parse_args()
    runs = [(s, m, seed) for s in args.sets for m in args.methods for seed in args.seeds]
    failed = []
    for name, method, seed in tqdm(runs):
        place = args.out / name / method / str(seed)
        if method in args.again:
            (place / "run.json").unlink(missing_ok=True)
        if not (place / "run.json").exists() and not run_one(args, name, method, seed, place):
            failed.append(f"{name}/{method}/{seed}")
    write_report(
        args.out, args.data, args.sets, args.methods, args.seeds, args.batch_key, args.label_key
    )
    if failed:
        sys.exit(f"{len(failed)} runs failed, see their log.txt: {', '.join(failed)}")


def run_one(args: argparse.Namespace, name: str, method: str, seed: int, place: Path) -> bool:
    """Run one method in a process of its own; tell whether it succeeded."""
    place.mkdir(parents=True, exist_ok=True)
    task = {
        "data": str(args.data / f"{name}.h5ad"),
        "batch_key": args.batch_key,
        "label_key": args.label_key,
        "method": method,
        "seed": seed,
        "place": str(place),
    }
    with (place / "log.txt").open("w") as log:
        worker = [sys.executable, str(Path(__file__).parent / "worker.py"), json.dumps(task)]
        return subprocess.run(worker, stdout=log, stderr=log, check=False).returncode == 0


if __name__ == "__main__":
    main()
