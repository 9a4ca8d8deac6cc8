"""Integration quality of this package beside its peers, scored by scib-metrics.

Usage: ``python -m benchmarks.quality --data FOLDER`` (``--help`` for sets, methods and seeds).
Needs the extras ``benchmark``, ``peers`` and ``integration-peers``. A method may carry options of
ours: ``--methods scalex_scvi scalex_scvi:kl_weight=1,n_hidden=256``.

Each run of a method on a set with a seed is a process of its own, whose time and peak memory are
measured, and whose embeddings are kept under ``--out``: a second call computes only what is
missing. ``--again METHOD`` forgets the runs of a method, ``--earlier scores.csv`` adds the scores
of an earlier report. ``--jobs 2`` runs two at a time, each
with one thread; seconds are then those of a busy machine.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.options import one_of
from benchmarks.peers import INTEGRATING
from benchmarks.quality.report import write_report
from benchmarks.quality.runs import Runs
from benchmarks.sets import BATCH, LABELS, SETS


def main() -> None:
    args = _arguments()
    runs = Runs(
        args.out, args.data, args.sets, args.methods, args.seeds, args.batch_key, args.labels_key
    )
    runs.forget(args.again)
    failed = [] if args.report_only else runs.complete(args.jobs)
    write_report(runs, args.earlier)
    if failed:
        sys.exit(f"{len(failed)} runs failed, see their log.txt: {', '.join(failed)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="names of .h5ad files")
    parser.add_argument("--methods", nargs="+", default=list(INTEGRATING), type=one_of(INTEGRATING))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--batch-key", default=BATCH)
    parser.add_argument("--labels-key", default=LABELS)
    parser.add_argument("--again", nargs="+", default=[], type=one_of(INTEGRATING))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--earlier", type=Path, help="scores.csv to add to what is run here")
    parser.add_argument("--report-only", action="store_true", help="score what is there")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
