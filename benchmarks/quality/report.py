"""Scores of all embeddings: a CSV of every score, a table of means and spreads, a picture."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from scipy import sparse

import scalex_scvi as sx
from benchmarks.cells import Cells
from benchmarks.components import components
from benchmarks.quality.graphs import score_graph
from benchmarks.quality.runs import Runs
from benchmarks.sets import describe, read_set

AGGREGATES = ["Bio conservation", "Batch correction", "Total"]
BIO_METRICS = (
    "isolated_labels",
    "nmi_ari_cluster_labels_leiden",  # at the best of ten resolutions
    "silhouette_label",
    "clisi_knn",
)


def write_report(runs: Runs, earlier: Path | None = None) -> None:
    """Write ``scores.csv``, ``table.csv`` and ``table.png``, and print the table.

    Scores of an ``earlier`` report stand in for what has not been run here.
    """
    scores = collect(runs)
    if earlier is not None:
        # As text: seeds of means over seeds are "mean".
        scores = pd.concat([scores, pd.read_csv(earlier)]).astype({"seed": str})
        scores = scores.drop_duplicates(["set", "seed", "embedding"])
    scores.to_csv(runs.out / "scores.csv", index=False)
    by_set = scores.groupby(["set", "embedding"], sort=False)[[*AGGREGATES, "seconds", "peak_mb"]]
    # First the mean over seeds of each set, then over sets: sets count alike.
    means = by_set.mean()
    table = means.groupby("embedding", sort=False).mean()
    spread = by_set.std(ddof=1).groupby("embedding", sort=False).mean()
    for column in AGGREGATES:
        table[f"{column} (SD over seeds)"] = spread[column]
    table["sets"] = means.groupby("embedding", sort=False).size()
    table["runs"] = scores.groupby("embedding", sort=False).size()
    table = table.sort_values("Total", ascending=False)
    table.to_csv(runs.out / "table.csv")
    print(table.round(3).to_string())
    print(means["Total"].unstack("set").loc[table.index].round(3).to_string())
    _draw(means, table.index, "mean over seeds", runs.out / "table.png")


def collect(runs: Runs) -> pd.DataFrame:
    """Collect all scores of all complete runs, one row an embedding."""
    return pd.concat([_scores_of_set(runs, name) for name in runs.sets], ignore_index=True)


def _scores_of_set(runs: Runs, name: str) -> pd.DataFrame:
    """Score all embeddings of a set; scores are kept beside the embeddings."""
    cells = None
    parts = []
    for method in runs.methods:
        for seed in runs.seeds:
            place = runs.place(name, method, seed)
            if not (place / "run.json").exists():
                continue
            kept = place / "scores.csv"
            newer = kept.exists() and kept.stat().st_mtime > (place / "run.json").stat().st_mtime
            if not newer:
                cells = _cells(runs, name) if cells is None else cells
                _score(cells, place).to_csv(kept, index=False)
            facts = json.loads((place / "run.json").read_text())
            rows = pd.read_csv(kept)
            rows.insert(0, "set", name)
            rows.insert(1, "seed", seed)
            rows["seconds"] = rows["embedding"].map(facts["seconds"])
            parts.append(
                rows.assign(
                    peak_mb=facts["peak_mb"],
                    threads=facts["threads"],
                    versions=" ".join(f"{k}={v}" for k, v in sorted(facts["versions"].items())),
                )
            )
    return pd.concat(parts) if parts else pd.DataFrame()


def _cells(runs: Runs, name: str) -> ad.AnnData:
    """Read cells with batch, label and uncorrected components; no embedding yet."""
    columns = runs.batch_key, runs.labels_key
    cells = Cells(read_set(runs.data, name, *columns), describe(name), *columns)
    before = components(cells, standardize=True)
    obs = cells.counts.obs[list(columns)]
    return ad.AnnData(obs=obs.set_axis(["batch", "label"], axis=1), obsm={"before": before})


def _score(cells: ad.AnnData, place: Path) -> pd.DataFrame:
    unlabeled = describe(place.parent.parent.name).unlabeled
    labeled = (~cells.obs["label"].isin(unlabeled)).to_numpy()
    graphs = {path.name.removesuffix(".graph.npz"): path for path in place.glob("*.graph.npz")}
    if graphs:
        return pd.DataFrame(
            {"embedding": name}
            | score_graph(sparse.load_npz(path)[labeled][:, labeled], cells.obs["label"][labeled])
            for name, path in graphs.items()
        )
    embeddings = dict(np.load(place / "embeddings.npz"))
    scored = cells.copy()
    scored.obsm.update(embeddings)
    scored = scored[labeled].copy()
    scores = sx.metrics.benchmark(
        scored,
        list(embeddings),
        batch_key="batch",
        labels_key="label",
        pre_integrated="before",
        metrics=(*BIO_METRICS, *sx.metrics.BATCH_METRICS),
    )
    return scores.rename_axis("embedding").reset_index()


def _draw(means: pd.DataFrame, order: pd.Index, about: str, path: Path) -> None:
    wide = means["Total"].unstack("set").loc[order].dropna(how="all")  # a graph has no total
    wide.insert(0, "mean", wide.mean(axis=1))
    figure, axes = plt.subplots(figsize=(2 + 1.1 * wide.shape[1], 1 + 0.4 * len(wide)))
    sns.heatmap(wide, annot=True, fmt=".2f", vmin=0.3, vmax=0.9, cmap="Blues", ax=axes)
    axes.set(title=f"scIB total, {about}", xlabel="", ylabel="")
    axes.tick_params(axis="x", labelrotation=40)
    plt.setp(axes.get_xticklabels(), ha="right")
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)
