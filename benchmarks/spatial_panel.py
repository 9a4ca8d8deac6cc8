"""A query of few genes, as a spatial panel measures: labels and left-out genes.

Usage: ``python -m benchmarks.spatial_panel --data FOLDER`` (see ``--help``).

There is no spatial data set here. Dissociated cells stand in for it: each batch in turn is the
query and keeps a random panel of the variable genes, the other batches are the reference with all
genes. A real panel differs more (capture, segmentation, spots of several cells), so these figures
say which way is better, not how good it will be.

Ways to place the query:

- ``all genes``: the reference is trained on all variable genes; those that the query lacks are
  expected from the panel. ``zeros``: the same model, with zeros in their place.
- ``listed``: ``pp.rna(ref, n_top_features=panel)``; totals of the reference are over all its genes.
- ``subset``: ``pp.rna(ref[:, panel], n_top_features=-1)``; totals are over the panel in both.
  ``batch stats``: the same model with ``batch_stats="batch"``.
- ``PCA``: 20 components of the panel, log-normalized and standardized together.
- ``PCA per batch``: the same, each batch standardized by itself.

Scores: accuracy and macro-F1 of labels from 10 neighbors; for variable genes out of the panel that
at least 5 % of the query's cells express, the correlation over cells between transferred and true
log-normalized expression (median over genes).
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from scipy.stats import rankdata
from sklearn.decomposition import PCA
from sklearn.metrics import accuracy_score, f1_score

import scalex_scvi as sx
from benchmarks.sets import BATCH, LABELS

SETS = ["pancreas_3study_cepo", "kang_pbmc_published_labels"]


def prepare(counts: ad.AnnData, n_top_features: object) -> ad.AnnData:
    # The sets are filtered by their sources: no cell is removed.
    return sx.pp.rna(counts, batch_key=BATCH, min_features=0, n_top_features=n_top_features)


def train(adata: ad.AnnData, max_steps: int) -> sx.SCALEXModel:
    sx.SCALEXModel.setup_anndata(adata, batch_key=BATCH)
    model = sx.SCALEXModel(adata)
    recipe = sx.train.PUBLISHED.but(lr=2e-3, max_steps=max_steps)
    model.train(recipe=recipe, enable_progress_bar=False)
    return model


def project(
    model: sx.SCALEXModel,
    query: ad.AnnData,
    batch_stats: str = "running",
    missing_genes: str = "expected",
) -> tuple[np.ndarray, np.ndarray]:
    placed = sx.SCALEXModel.load_query_data(
        query, model, min_gene_share=0, missing_genes=missing_genes
    )
    return tuple(
        each.get_latent_representation(batch_stats=batch_stats) for each in (model, placed)
    )


def pca(ref: ad.AnnData, query: ad.AnnData, *, per_batch: bool) -> tuple[np.ndarray, np.ndarray]:
    both = ad.concat([ref, query])
    sc.pp.normalize_total(both, target_sum=1e4)
    sc.pp.log1p(both)
    values = both.to_df()
    groups = both.obs[BATCH].astype(str) if per_batch else pd.Series("all", index=values.index)
    grouped = values.groupby(groups.to_numpy())
    spread = grouped.transform("std").replace(0, 1)
    points = PCA(20, random_state=0).fit_transform(
        ((values - grouped.transform("mean")) / spread).clip(-10, 10)
    )
    return points[: ref.n_obs], points[ref.n_obs :]


def gene_correlations(predicted: np.ndarray, truth: np.ndarray, rank: bool) -> np.ndarray:
    """Pearson or Spearman correlation of each column; 0 for a constant prediction."""
    if rank:
        predicted, truth = (rankdata(values, axis=0) for values in (predicted, truth))
    a, b = (values - values.mean(axis=0) for values in (predicted, truth))
    norm = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return np.divide((a * b).sum(axis=0), norm, out=np.zeros(len(norm)), where=norm > 0)


def scores(
    ref: ad.AnnData, query: ad.AnnData, truth: pd.DataFrame, n_neighbors: int
) -> dict[str, float]:
    true_label = query.obs[LABELS].astype(str)
    label = sx.label_transfer(ref, query, label=LABELS, method="neighbors").astype(str)
    moved = sx.tl.transfer_expression(ref, query, list(truth), n_neighbors=n_neighbors)
    predicted, true_values = moved.to_df().to_numpy(), truth.to_numpy()
    return {
        "accuracy": accuracy_score(true_label, label),
        "macro_f1": f1_score(
            true_label, label, average="macro", labels=true_label.unique(), zero_division=0
        ),
        "pearson": np.median(gene_correlations(predicted, true_values, rank=False)),
        "spearman": np.median(gene_correlations(predicted, true_values, rank=True)),
    }


def rows_of(
    ref: ad.AnnData, query: ad.AnnData, args: argparse.Namespace
) -> list[dict[str, object]]:
    reference = prepare(ref, 2000)  # raw: all genes, log-normalized
    whole = train(reference, args.max_steps)
    full = prepare(query, -1).raw.to_adata().to_df()
    expressed = full.columns[(full > 0).mean() >= 0.05]
    genes = reference.var_names.intersection(expressed)
    rows = []
    for seed in range(args.panels):
        panel = list(np.random.default_rng(seed).choice(genes, args.genes, replace=False))
        truth = full[[gene for gene in genes if gene not in set(panel)]]
        few = query[:, panel].copy()
        subset = train(prepare(ref[:, panel].copy(), -1), args.max_steps)
        listed = train(prepare(ref, panel), args.max_steps)
        ways = {
            "all genes": project(whole, few),
            "zeros": project(whole, few, missing_genes="zero"),
            "listed": project(listed, few),
            "subset": project(subset, few),
            "subset, batch stats": project(subset, few, "batch"),
            "PCA": pca(ref[:, panel], few, per_batch=False),
            "PCA per batch": pca(ref[:, panel], few, per_batch=True),
        }
        for way, (reference.obsm["latent"], few.obsm["latent"]) in ways.items():
            for n_neighbors in args.neighbors:
                found = scores(reference, few, truth, n_neighbors)
                rows.append(
                    {
                        "panel": seed,
                        "way": way,
                        "n_neighbors": n_neighbors,
                        "left_out": truth.shape[1],
                    }
                    | found
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--genes", type=int, default=200, help="genes in a panel")
    parser.add_argument("--panels", type=int, default=1, help="random panels per query")
    parser.add_argument("--neighbors", type=int, nargs="+", default=[10, 30])
    parser.add_argument("--max-steps", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder for the tables")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    pd.set_option("display.width", 200, "display.max_columns", 30, "display.precision", 3)
    args.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for name in args.sets:
        counts = ad.read_h5ad(args.data / f"{name}.h5ad")
        for batch in counts.obs[BATCH].unique():
            is_query = (counts.obs[BATCH] == batch).to_numpy()
            found = rows_of(counts[~is_query].copy(), counts[is_query].copy(), args)
            rows.extend({"set": name, "query": str(batch)} | row for row in found)
            pd.DataFrame(rows).to_csv(args.out / "spatial_panel.csv", index=False)
    table = pd.DataFrame(rows)
    means = table.groupby(["set", "n_neighbors", "way"], sort=False).mean(numeric_only=True)
    print(means.drop(columns="panel").to_string())


if __name__ == "__main__":
    main()
