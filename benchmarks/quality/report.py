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

import scalex_scvi as sx

AGGREGATES = ["Bio conservation", "Batch correction", "Total"]


def write_report(
    out: Path,
    data: Path,
    sets: list[str],
    methods: list[str],
    seeds: list[int],
    batch_key: str,
    label_key: str,
) -> None:
    scores = pd.concat(
        [_scores_of(out, data, name, methods, seeds, batch_key, label_key) for name in sets]
    )
    scores.to_csv(out / "scores.csv", index=False)
    by_set = scores.groupby(["set", "embedding"], sort=False)[[*AGGREGATES, "seconds", "peak_mb"]]
    # First the mean over seeds of each set, then over sets: sets count alike.
    means = by_set.mean()
    table = means.groupby("embedding", sort=False).mean()
    spread = by_set.std(ddof=1).groupby("embedding", sort=False).mean()
    for column in AGGREGATES:
        table[f"{column} (SD over seeds)"] = spread[column]
    table["sets"] = means.groupby("embedding", sort=False).size()
    table = table.sort_values("Total", ascending=False)
    table.to_csv(out / "table.csv")
    print(table.round(3).to_string())
    _draw(means, table.index, out / "table.png")


def _scores_of(
    out: Path,
    data: Path,
    name: str,
    methods: list[str],
    seeds: list[int],
    batch_key: str,
    label_key: str,
) -> pd.DataFrame:
    """Score all embeddings of a set; scores are kept beside the embeddings."""
    prepared = None
    parts = []
    for method in methods:
        for seed in seeds:
            place = out / name / method / str(seed)
            if not (place / "run.json").exists():
                continue
            kept = place / "scores.csv"
            newer = kept.exists() and kept.stat().st_mtime > (place / "run.json").stat().st_mtime
            if not newer:
                if prepared is None:
                    counts = ad.read_h5ad(data / f"{name}.h5ad")
                    prepared = sx.pp.rna(counts, batch_key=batch_key, min_features=0)
                _score(prepared, place, batch_key, label_key).to_csv(kept, index=False)
            facts = json.loads((place / "run.json").read_text())
            rows = pd.read_csv(kept)
            rows.insert(0, "set", name)
            rows.insert(1, "seed", seed)
            parts.append(rows.assign(seconds=facts["seconds"], peak_mb=facts["peak_mb"]))
    return pd.concat(parts) if parts else pd.DataFrame()


def _score(prepared: ad.AnnData, place: Path, batch_key: str, label_key: str) -> pd.DataFrame:
    bare = ad.AnnData(prepared.X, obs=prepared.obs[[batch_key, label_key]].astype(str))
    bare.raw = prepared.raw.to_adata()
    bare.var_names = prepared.var_names
    embeddings = dict(np.load(place / "embeddings.npz"))
    bare.obsm.update(embeddings)
    scores = sx.metrics.benchmark(bare, list(embeddings), batch_key=batch_key, label_key=label_key)
    return scores.rename_axis("embedding").reset_index()


def _draw(means: pd.DataFrame, order: pd.Index, path: Path) -> None:
    wide = means["Total"].unstack("set").loc[order]
    figure, axes = plt.subplots(figsize=(2 + 1.5 * wide.shape[1], 1 + 0.4 * len(wide)))
    sns.heatmap(wide, annot=True, fmt=".2f", vmin=0, vmax=1, cmap="Blues", ax=axes)
    axes.set(title="scIB total, mean over seeds", xlabel="", ylabel="")
    axes.tick_params(axis="x", labelrotation=20)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)
