"""Figures of a case, tables of means, a picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from sklearn.metrics import roc_auc_score

from benchmarks.cells import Answer, Case

CASE = ["set", "left_out", "removed"]
MEASURES = ["auroc", "found", "known_refused", "found_at_5"]
AT = 0.05
MIN_CELLS = 10
"""Unseen cells of a case that counts."""


def score(case: Case, answer: Answer) -> dict[str, float]:
    """AUROC; unseen cells found and known ones refused as shipped; found at exactly 5 % refused.

    Cells of equal misfit count half at that threshold, as in the area.
    """
    known = case.query.obs[case.ref.labels_key].isin(np.unique(case.ref.labels)).to_numpy()
    return {
        "unseen_cells": int((~known).sum()),
        "known_cells": int(known.sum()),
        "auroc": roc_auc_score(~known, answer.misfit) if 0 < known.sum() < len(known) else np.nan,
        "found": answer.unknown[~known].mean() if not known.all() else np.nan,
        "known_refused": answer.unknown[known].mean() if known.any() else np.nan,
        "found_at_5": found_at(-answer.misfit, known) if 0 < known.sum() < len(known) else np.nan,
    }


def found_at(fit: np.ndarray, known: np.ndarray) -> float:
    """Share of unseen cells refused where 5 % of the known ones are; ties in proportion."""
    threshold = np.quantile(fit[known], AT, method="inverted_cdf")
    below, equal = fit < threshold, fit == threshold
    share = (AT - below[known].mean()) / equal[known].mean()
    return float(below[~known].mean() + share * equal[~known].mean())


def write_report(scores: pd.DataFrame, out: Path) -> None:
    """Write ``by_set.csv``, ``by_type.csv``, ``table.csv`` and ``unknown.png``; print the means.

    Means are over the cases that every method has and in which there are :data:`MIN_CELLS` unseen
    cells after thinning, then over sets.
    """
    scores["removed"] = scores["removed"].fillna("")
    scores = scores[scores["unseen_cells"] >= MIN_CELLS]
    n_methods = scores["method"].nunique()
    shared = scores.groupby(CASE).filter(lambda case: len(case) == n_methods)
    by_set = shared.groupby(["set", "method"], sort=False)[MEASURES].mean()
    by_set["cases"] = shared.groupby(["set", "method"], sort=False).size()
    by_set.to_csv(out / "by_set.csv")
    shared.groupby(["set", "removed", "method"])[MEASURES].mean().to_csv(out / "by_type.csv")
    table = by_set.groupby("method")[MEASURES].mean().sort_values("auroc", ascending=False)
    table.to_csv(out / "table.csv")
    print(by_set.round(3).to_string(), "\n")
    print(f"Means over {by_set.index.get_level_values('set').nunique()} sets")
    print(table.round(3).to_string())
    figure, axes = plt.subplots(1, 2, figsize=(12, 4), sharey=True)
    titles = ("AUROC", "unseen cells found where 5 % of the known ones are refused")
    for axis, measure, title in zip(axes, ("auroc", "found_at_5"), titles, strict=True):
        wide = by_set[measure].unstack("set").loc[table.index]
        wide.columns = wide.columns.str.replace("embedded/", "").str.slice(0, 24)
        sns.heatmap(wide, annot=True, fmt=".2f", vmin=0, vmax=1, cmap="Blues", cbar=False, ax=axis)
        axis.set(title=title, xlabel="", ylabel="")
    figure.savefig(out / "unknown.png", dpi=130, bbox_inches="tight")
    plt.close(figure)
