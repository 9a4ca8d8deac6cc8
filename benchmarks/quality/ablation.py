"""Ours with one setting changed at a time, on every set: what the defaults were chosen by.

Usage: ``python -m benchmarks.quality.ablation --data FOLDER --out runs/quality``. The runs are
cached, and shared with those of ``benchmarks/quality``. Prints the base's mean scores over the
sets, and for each change the difference from the base; writes ``ablation.csv``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from benchmarks.quality.report import AGGREGATES, collect
from benchmarks.quality.runs import Runs
from benchmarks.sets import SETS

CHANGES = [
    "lr_schedule=constant",
    "max_steps=1500,batch_size=128",
    "batch_size=128",
    "lr=0.0002,max_steps=30000,lr_schedule=constant",  # the published recipe
    "kl_weight=0.25",
    "kl_weight=1",
    "kl_weight=1.5",
    "n_latent=20",
    "n_latent=30",
    "n_hidden=256",
    "n_hidden=512",
    "scale_by=global",
    "n_top_features=1000",
    "n_top_features=4000",
    "weight_decay=0",
    "balanced=True",
    "encoder_batch_norm=False",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="names of .h5ad files")
    parser.add_argument("--base", default="", help="options of every run (none)")
    parser.add_argument("--changes", nargs="*", default=CHANGES, help="options, one set a variant")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--report-only", action="store_true", help="score what is there")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    args = parser.parse_args()
    base = _with_options(args.base)
    methods = [base, *(_with_options(args.base, change) for change in args.changes)]
    runs = Runs(args.out, args.data, args.sets, methods, args.seeds)
    if not args.report_only:
        runs.complete(args.jobs)
    table = differences(collect(runs), base)
    table.to_csv(args.out / "ablation.csv")
    print(table.round(3).to_string())


def _with_options(*options: str) -> str:
    return ":".join(filter(None, ["scalex_scvi", ",".join(filter(None, options))]))


def differences(scores: pd.DataFrame, base: str) -> pd.DataFrame:
    """Compare each variant with the base on the sets and seeds that both were run on.

    By the statistics of the encoder: mean difference of the scores, its smallest and largest
    value over the sets, and the number of sets.
    """
    split = scores["embedding"].str.extract(r"^(?P<variant>.*) \((?P<statistics>\w+)\)$")
    scores = scores.join(split).set_index(["statistics", "set", "seed"])
    of_base = scores.loc[scores["variant"] == base, AGGREGATES]
    rows = []
    for (variant, statistics), group in scores.groupby(["variant", "statistics"], sort=False):
        change = (group[AGGREGATES] - of_base).dropna().groupby("set").mean()
        row = change.mean().to_dict() | {
            "least": change["Total"].min(),
            "most": change["Total"].max(),
            "sets": len(change),
        }
        if variant == base:
            row |= of_base.loc[statistics].groupby("set").mean().mean().to_dict()
        name = variant.removeprefix(base).lstrip(":,") or "base"
        rows.append({"statistics": statistics, "change": name, **row})
    return (
        pd.DataFrame(rows)
        .set_index(["statistics", "change"])
        .sort_index(level=0, sort_remaining=False)
    )


if __name__ == "__main__":
    main()
