"""The tables of a report."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score

from scalex_scvi import metrics
from scalex_scvi._core.colors import UNKNOWN
from scalex_scvi._core.gene_names import names_in
from scalex_scvi._core.seeds import random_rows

from ._report_run import Run, is_empty
from ._report_usual import F1_LOWEST, F1_MEAN, F1_SETS, KNOWN_REFUSED, NEW_FOUND

DETECTED, NAMED = (0.4, 0.2), (0.8, 0.3)
"""Shares of the model's features from which on the light is green, or amber: detected in a batch,
and named in the file of a query, where projection warns and refuses by the same."""

MAX_SCORED = 5000
"""Cells that are scored, at random where there are more."""

PURITY = "cell-type purity"
"""Name of the score of types."""

LATENTS = ("latent", "X_scalex")


def cells_kept(run: Run) -> dict[str, Any]:
    """Return cells and features that came in and were kept, by batch and by type."""
    chosen = run.adata.obs if run.is_query is None else run.adata.obs[run.is_query]
    tables = []
    for key, name in ((run.batch_key, "batch"), (run.labels_key, "cell type")):
        if key is None:
            continue
        kept = chosen[key].astype(object).where(chosen[key].notna(), "no label").value_counts()
        had_it = run.before is not None and key in run.before.obs
        came = run.before.obs[key].astype(object) if had_it else None  # type: ignore[union-attr]
        if came is not None:
            came = came.where(came.notna(), "no label").value_counts()
            rows = [[k, f"{n:,}", f"{kept.get(k, 0):,}", f"{kept.get(k, 0) / n:.0%}"]
                    for k, n in came.items() if n]  # fmt: skip
            tables.append({"columns": [name, "cells in", "kept", "share"], "rows": rows})
        else:
            rows = [[k, f"{n:,}"] for k, n in kept.items() if n]
            tables.append({"columns": [name, "cells"], "rows": rows})
    whose = "query cells" if run.is_query is not None else "cells"
    text = f"{len(chosen):,} {whose} and {run.adata.n_vars:,} features are in the result."
    if run.before is not None:
        text = (
            f"{run.before.n_obs:,} {whose} and {run.before.n_vars:,} features came in; "
            f"{len(chosen):,} cells were kept, and the model uses {run.adata.n_vars:,} features."
        )
    return {"text": text, "tables": tables}


def features_found(run: Run) -> dict[str, Any]:
    """Return how many of the model's features the query names and each batch has counts of."""
    rows = []
    if run.is_query is not None and run.before is not None:
        genes = pd.Index(run.adata.var_names)
        n_named = int(genes.isin(names_in(run.before.var, genes)[0]).sum())
        verdicts = ("enough", "see which are missing", "few: the rest is guessed")
        rows.append(_light("named in the query's file", n_named, len(genes), NAMED, verdicts))
    verdicts = ("enough", "see which are missing", "few: labels and mixing are in doubt")
    names = run.batches.cat.remove_unused_categories().cat.categories
    for name in [] if is_empty(run.adata.X) else names:
        cells = (run.batches == name).to_numpy()
        values = run.adata.X[cells]
        if run.is_query is not None and not run.is_query[cells].any() and is_empty(values):
            continue  # of a reference that came without counts
        found = (values != 0).sum(axis=0)
        n_found = int((np.asarray(found) > 0).sum())
        rows.append(_light(f"detected in {name}", n_found, run.adata.n_vars, DETECTED, verdicts))
    text = (
        f"A batch is green if {DETECTED[0]:.0%} or more of the model's features are detected in "
        f"it, amber from {DETECTED[1]:.0%} on; small and shallow batches detect fewer."
    )
    if run.is_query is not None and run.before is not None:
        text = (
            f"The query's file is green if it names {NAMED[0]:.0%} or more of the model's "
            f"features, amber from {NAMED[1]:.0%} on. {text}"
        )
    return {"text": text, "rows": rows}


def _light(
    name: str, n: int, of: int, least: tuple[float, float], verdicts: tuple[str, str, str]
) -> dict[str, Any]:
    """Return a row with a traffic light."""
    share = n / max(of, 1)
    level = 0 if share >= least[0] else 1 if share >= least[1] else 2
    row = {"name": name, "n": f"{n:,}", "of": f"{of:,}", "share": share}
    return row | {"light": ("good", "fair", "poor")[level], "verdict": verdicts[level]}


def confidence_of_clusters(run: Run) -> dict[str, Any] | None:
    """Return each cluster's most frequent transferred label, and how sure it is."""
    if run.transferred is None or run.is_query is None or run.clusters is None:
        return None
    query = run.adata.obs[run.is_query]
    labels = run.transferred[run.is_query].astype(str)
    key = run.labels_key
    values, measure = None, "mean confidence"
    if run.p_values is not None:
        values, measure = run.p_values[run.is_query], "mean fit to the reference (p-value)"
    elif f"{key}_probability" in query:
        values, measure = query[f"{key}_probability"], "mean probability of the label"
    rows = []
    clusters = run.clusters[run.is_query].to_numpy()
    for cluster, cells in query.groupby(clusters, observed=True).indices.items():
        counted = labels.iloc[cells].value_counts()
        rows.append(
            {
                "cluster": cluster,
                "n": f"{len(cells):,}",
                "label": counted.index[0],
                "share": f"{counted.iloc[0] / len(cells):.0%}",
                "unknown": f"{counted.get(UNKNOWN, 0) / len(cells):.0%}",
                "value": None if values is None else float(values.iloc[cells].mean()),
            }
        )
    text = (
        "Clusters of reference and query together, numbered on the map by cluster; counted are the "
        "query's cells."
    )
    if measure.endswith("(p-value)"):
        text += (
            " The p-value of a cell is the share of held-out reference cells that fit as badly; "
            "its mean is about 0.50 for cells like the reference's, and near 0 for new ones."
        )
    return {"text": text, "measure": measure, "rows": rows}


def confusion_table(run: Run) -> dict[str, Any] | None:
    """Return which labels each true label of the query was given."""
    if run.transferred is None or run.labels is None or run.is_query is None:
        return None
    both = run.is_query & run.labels.notna().to_numpy() & run.transferred.notna().to_numpy()
    if not both.any():
        return None
    # As arrays: pandas would align the columns by the names of cells, which may repeat.
    table = pd.crosstab(
        *(np.asarray(column[both].astype(str)) for column in (run.labels, run.transferred))
    )
    shared = [name for name in table.index if name in table.columns]
    rest = sorted(set(table.columns) - set(shared), key=lambda name: (name == UNKNOWN, name))
    table = table.loc[[*shared, *table.index.difference(shared)], [*shared, *rest]]
    totals = table.sum(axis=1)
    shares = table.div(totals, axis=0)
    rows = [
        {"name": name, "shares": [float(v) for v in shares.loc[name]], "n": f"{totals[name]:,}"}
        for name in table.index
    ]
    return {"columns": list(table.columns), "rows": rows}


def scores_of(run: Run) -> list[dict[str, str]]:
    """Return how well batches mix, types hold together and labels were transferred."""
    n_cells = run.adata.n_obs
    cells = random_rows(n_cells, MAX_SCORED, seed=0)
    latent = next((run.adata.obsm[key] for key in LATENTS if key in run.adata.obsm), None)
    rows = []
    if latent is not None and n_cells > 3:
        sample = run.adata[cells]
        pca = None if sample.raw is None else metrics.uncorrected_pca(sample.copy())
        rows += _neighbor_scores(run, cells, np.asarray(latent)[cells], pca)
    return rows + _label_scores(run)


def _neighbor_scores(
    run: Run, cells: np.ndarray, latent: np.ndarray, pca: np.ndarray | None
) -> list[dict[str, str]]:
    batch = run.batches.iloc[cells]
    mixed = metrics.expected_same_batch_share(batch)
    found: list[tuple[str, Any, pd.Series, np.ndarray, str]] = [
        (
            "same-batch neighbors",
            metrics.same_batch_share,
            batch,
            np.ones(len(cells), dtype=bool),
            f"Share of a cell's 30 neighbors from its own batch. {mixed:.2f} is fully mixed, 1 is "
            "apart. Batches with types of their own need not mix.",
        )
    ]
    if run.labels is not None:
        labels = run.labels.iloc[cells]
        usual = (
            "Share of a cell's 30 neighbors of its own type. It should hardly fall: by more than "
            "0.05, the training was short (max_steps), or types of single batches were pulled "
            "onto each other (alignment_weight)."
        )
        found.append((PURITY, metrics.knn_purity, labels, labels.notna().to_numpy(), usual))
    rows = []
    for name, score, groups, known, usual in found:
        if known.sum() < 2:
            continue
        values = [
            "" if rep is None else f"{score(rep[known], groups[known]):.2f}"
            for rep in (pca, latent)
        ]
        rows.append({"name": name, "before": values[0], "after": values[1], "usual": usual})
    return rows


def _label_scores(run: Run) -> list[dict[str, str]]:
    if run.transferred is None or run.labels is None or run.is_query is None:
        return []
    both = run.is_query & run.labels.notna().to_numpy() & run.transferred.notna().to_numpy()
    known_types = set(run.labels[~run.is_query].dropna().astype(str))
    truth, given = run.labels[both].astype(str), run.transferred[both].astype(str)
    known, refused = truth.isin(known_types).to_numpy(), (given == UNKNOWN).to_numpy()
    rows = []

    def add(name: str, value: float, usual: str) -> None:
        rows.append({"name": name, "before": "", "after": f"{value:.2f}", "usual": usual})

    if known.any():
        types = sorted(set(truth[known]))
        f1 = f1_score(truth[known], given[known], labels=types, average="macro", zero_division=0)
        usual = (
            f"Known types, each counting alike. Usual: {F1_MEAN:.2f}, the mean of {F1_SETS} public "
            f"sets, {F1_LOWEST:.2f} for the hardest of them."
        )
        add("macro-F1 of transferred labels", float(f1), usual)
    if run.may_be_unknown:
        if known.any():
            usual = (
                "Of query cells whose type the reference has. The threshold aims at 0.05; usual: "
                f"{KNOWN_REFUSED:.2f}, more where the query differs much from the reference."
            )
            add("known cells called unknown", float(refused[known].mean()), usual)
        if known_types and not known.all():
            new = ", ".join(sorted(set(truth[~known])))
            usual = (
                f"Of query cells whose type the reference lacks ({new}). Higher is better; usual: "
                f"{NEW_FOUND:.2f}, so that one in {1 / (1 - NEW_FOUND):.0f} gets a label."
            )
            add("new cells called unknown", float(refused[~known].mean()), usual)
    return rows
