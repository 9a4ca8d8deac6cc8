"""Projection and label transfer beside the peers: each batch of each set is left out in turn.

Usage: ``python -m benchmarks.left_out --data FOLDER`` (``--help`` for sets, methods and seeds).
Needs the extras ``peers`` and ``integration-peers``.

``--unknown`` asks how often "unknown" is right or wrong instead: some batches of some sets are left
out, and for some of them each cell type in turn is taken out of the reference, too (in
kang_pbmc_published_labels, ctrl has three types that stim lacks, so nothing need be taken out);
``--whole`` leaves out these references that lack a type. Methods that give p-values (ours, the
classifiers on components, ``scanvi:conformal=True``) refuse cells by a conformal p-value of 0.05,
from held-out cells of the reference; ours by its own misfit, the others by 1 − their largest
probability.

Each run of a method on a case with a seed is a process of its own, whose times and peak memory are
measured, and whose labels are kept under ``--out``: a second call computes only what is missing.
scANVI starts from the reference that scVI has trained for the same case and seed, if it is there;
its time counts that training. ``--again METHOD`` forgets the runs of a method. A method may carry
options, such as ``ours:lr=0.002,max_steps=3000``, and is then a method of its own.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from tqdm import tqdm

from benchmarks.left_out.report import write_report
from benchmarks.left_out.runs import Run, cases
from benchmarks.options import one_of
from benchmarks.peers import PROJECTING
from benchmarks.sets import BATCH, LABEL_SETS, LABELS, RNA_SETS

METHODS = ["ours", "scalex", "scvi", "scanvi", "harmony", "pca", "logistic_regression"]
UNKNOWN_METHODS = [
    "ours",
    "ours:by=neighbors",
    "ours:novelty=expression",
    "ours:novelty=latent",
    "logistic_regression_on_pcs",
    "knn_on_pcs",
]


def main() -> None:
    args = _arguments()
    methods = args.methods or (UNKNOWN_METHODS if args.unknown else METHODS)
    runs = [
        Run(args.out, *case, method, seed)
        for name in args.sets or (LABEL_SETS if args.unknown else RNA_SETS)
        for case in cases(args.data, name, args.batch_key, args.labels_key, unknown=args.unknown)
        if args.left_out is None or case[1] in args.left_out
        if not (args.whole and case[2])
        for method in methods
        for seed in args.seeds
    ]
    failed = []
    for run in tqdm(runs, disable=None):
        if run.method in args.again:
            shutil.rmtree(run.place, ignore_errors=True)
        if not run.is_done() and not run.compute(args.data, args.batch_key, args.labels_key):
            failed.append(str(run.place))
    write_report(runs, args.out, unknown=args.unknown)
    if failed:
        sys.exit(f"{len(failed)} runs failed, see their log.txt: {', '.join(failed)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    method = one_of(PROJECTING)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--sets", nargs="+", help="names of .h5ad files (default: the known ones)")
    parser.add_argument("--unknown", action="store_true", help='ask for "unknown" cells')
    parser.add_argument("--whole", action="store_true", help="no reference that lacks a type")
    parser.add_argument("--left-out", nargs="+", help="only these batches (default: each)")
    parser.add_argument(
        "--methods",
        nargs="+",
        type=method,
        help=f"of {', '.join(PROJECTING)}; default {', '.join(METHODS)}, with --unknown "
        f"{', '.join(UNKNOWN_METHODS)}",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--batch-key", default=BATCH)
    parser.add_argument("--labels-key", default=LABELS)
    parser.add_argument("--again", nargs="+", default=[], type=method)
    parser.add_argument("--out", type=Path, default=Path("runs/left_out"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
