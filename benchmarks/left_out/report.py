"""Scores of all runs: a CSV of every score, tables of means, a picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from sklearn.metrics import f1_score, roc_auc_score

from benchmarks.left_out.runs import Run

CASE = ["set", "left_out", "removed"]
COUNTS = ["cells", "missing_cells"]
MEASURES = [
    "accuracy",
    "macro_f1",
    "accuracy_all",
    "macro_f1_all",
    "missing_unknown",
    "known_unknown",
    "accuracy_accepted",
    "accuracy_with_unknown",
    "accepted",
    "auroc",
    "reference_seconds",
    "query_seconds",
    "reference_cpu_seconds",
    "query_cpu_seconds",
    "peak_mb",
]
PRINTED = [
    "accuracy",
    "macro_f1",
    "macro_f1 (by batch)",
    "accuracy_all",
    "missing_unknown",
    "known_unknown",
    "accuracy_accepted",
    "reference_cpu_seconds",
    "query_cpu_seconds",
    "cases",
]
UNKNOWN = [
    "accuracy",
    "macro_f1",
    "known_unknown",
    "missing_unknown",
    "auroc",
    "accepted",
    "accuracy_all",
]


def write_report(runs: list[Run], out: Path, *, unknown: bool) -> None:
    """Write and print the tables; with ``unknown`` one of refused cells, too."""
    rows = [row for run in runs if run.facts.exists() for row in score(run)]
    if not rows:
        return
    scores = pd.DataFrame(rows, columns=[*CASE, "method", "seed", *COUNTS, *MEASURES])
    scores.to_csv(out / "scores.csv", index=False)
    if unknown:
        report_unknown(scores, out)
    whole = scores[scores["removed"] == ""]
    if whole.empty:
        return
    # First over seeds, then over the left-out batches of a set.
    cases = whole.groupby(["method", *CASE], sort=False)[MEASURES].mean()
    by_set = cases.groupby(["set", "method"], sort=False).mean()
    by_set["left_out"] = cases.groupby(["set", "method"], sort=False).size()
    by_set.to_csv(out / "by_set.csv")
    table = summarize(cases, whole)
    table.to_csv(out / "table.csv")
    macro_f1 = by_set["macro_f1"].unstack("set")
    print("Macro-F1 by set\n", macro_f1.round(3).to_string(), "\n", sep="")
    print("Means over the sets\n", table[PRINTED].round(3).to_string(), sep="")
    draw(macro_f1, table.index, out / "table.png")


def report_unknown(scores: pd.DataFrame, out: Path) -> None:
    """Mean over the cases of a set, whole references and references that lack a type apart."""
    lacks = scores["removed"] != ""
    scores = scores.assign(reference=np.where(lacks, "lacks a type", "whole"))
    groups = scores.groupby(["set", "reference", "method"], sort=False)
    table = groups[UNKNOWN].mean()
    table.to_csv(out / "unknown.csv")
    print(table.round(3).to_string(), "\n")


def summarize(cases: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Mean over the cases that every method has: over those of a set, then over sets.

    ``macro_f1 (by batch)`` is the mean over all left-out batches, however many a set has.
    """
    n_methods = cases.index.get_level_values("method").nunique()
    shared = cases.groupby(CASE).filter(lambda case: len(case) == n_methods)
    n_left = cases.groupby(CASE).ngroups - shared.groupby(CASE).ngroups
    if n_left:
        print(f"The means are without {n_left} cases that not every method has.\n")
    table = shared.groupby(["method", "set"], sort=False).mean().groupby("method").mean()
    by_batch = shared.groupby("method")["macro_f1"]
    table.insert(2, "macro_f1 (by batch)", by_batch.mean())
    seeds = scores.groupby(["method", *CASE])["macro_f1"].std(ddof=1)
    table.insert(3, "macro_f1 (SD over seeds)", seeds.groupby("method").mean())
    table["cases"] = by_batch.size()
    return table.sort_values("macro_f1", ascending=False)


def score(run: Run) -> Iterator[dict[str, object]]:
    """Score each variant of a run.

    ``accuracy`` and ``macro_f1`` are of the cells whose type the reference has, ``..._all`` of all
    cells, both with the best label of each cell, "unknown" or not: cells of a type that the
    reference lacks can only be wrong. Of the methods that can say "unknown": share of the cells of
    missing and of known types that are, accuracy of the known ones that are not, and accuracy of
    all cells where "unknown" is right for missing types and wrong for known ones, ``accepted``:
    accuracy of all cells that are not, where a missing type can only be wrong. ``auroc``: how well
    the p-values rank cells of missing types above those of known ones.
    """
    facts = json.loads(run.facts.read_text())
    labels = pd.read_csv(run.place / "labels.csv", dtype=str, keep_default_na=False)
    for variant, cells in labels.groupby("variant", sort=False):
        known = cells["known"] == "True"
        right = cells["label"] == cells["truth"]
        row: dict[str, object] = {
            "set": run.set,
            "left_out": run.left_out,
            "removed": run.removed,
            "method": f"{run.method} ({variant})" if variant else run.method,
            "seed": run.seed,
            "cells": len(cells),
            "missing_cells": int((~known).sum()),
            "accuracy": right[known].mean(),
            "macro_f1": macro_f1(cells[known]),
            "accuracy_all": right.mean(),
            "macro_f1_all": macro_f1(cells),
        }
        if (cells["unknown"] != "").all():
            row |= score_unknown(known, right, cells["unknown"] == "True")
        if (cells["p"] != "").all() and known.any() and not known.all():
            row["auroc"] = roc_auc_score(~known, -cells["p"].astype(float))
        row |= {f"reference_{key}": value for key, value in facts["reference"].items()}
        row |= {f"query_{key}": value for key, value in facts["query"][variant].items()}
        yield row | {"peak_mb": facts["peak_mb"]}


def score_unknown(known: pd.Series, right: pd.Series, unknown: pd.Series) -> dict[str, float]:
    return {
        "missing_unknown": unknown[~known].mean() if not known.all() else np.nan,
        "known_unknown": unknown[known].mean(),
        "accuracy_accepted": right[known & ~unknown].mean(),
        "accuracy_with_unknown": np.where(unknown, ~known, right).mean(),
        "accepted": right[~unknown].mean(),
    }


def macro_f1(cells: pd.DataFrame) -> float:
    """Mean F1 of the types that the cells have."""
    types = cells["truth"].unique()
    return f1_score(cells["truth"], cells["label"], average="macro", labels=types, zero_division=0)


def draw(macro_f1: pd.DataFrame, order: pd.Index, path: Path) -> None:
    rest = macro_f1.index.difference(order)
    wide = macro_f1.loc[[*order, *rest]]
    figure, axes = plt.subplots(figsize=(3 + 1.4 * wide.shape[1], 1.5 + 0.4 * len(wide)))
    sns.heatmap(wide, annot=True, fmt=".2f", vmin=0, vmax=1, cmap="Blues", ax=axes)
    axes.set(
        title="Macro-F1 of transferred labels, mean over left-out batches", xlabel="", ylabel=""
    )
    axes.tick_params(axis="x", labelrotation=20)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)
