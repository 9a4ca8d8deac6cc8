"""Which cells of a query are new, and why they are called so."""

from __future__ import annotations

from typing import Any

import pandas as pd
from anndata import AnnData

from scalex_scvi._core.colors import UNKNOWN
from scalex_scvi._core.measured import query_cells
from scalex_scvi.tl import unknown_clusters

from ._report_run import Run, is_empty

MOSTLY, NEARLY_ALL, MIN_CELLS = 0.5, 0.75, 15
"""A cluster of so many cells, of which so large a share is unknown, is perhaps, or probably, a new
type. A known type that the query's technology changes more than others has been seen to be half
unknown (docs/label_transfer.md). Where there are fewer cells than the 15 that one is averaged with,
others are among these."""

MAX_ROWS = 8
N_GENES = 5

RULE = (
    "Each cell is averaged with the cells most like it, and compared with each label of the "
    "reference. These fit the best label worse than nearly all cells of the reference do when they "
    "are held out. By this rule about one in twenty cells of a known type is refused as well, more "
    "where the query differs from all batches of the reference, by its technology for example: "
    "look at clusters with many, not at single cells."
)


def unknown_cells(run: Run) -> dict[str, Any] | None:
    """Return how many query cells are unknown, where they are, and what tells them apart."""
    if not run.may_be_unknown:
        return None
    assert run.transferred is not None
    assert run.is_query is not None
    query = query_cells(run.adata, run.is_query)
    is_unknown = (run.transferred[run.is_query] == UNKNOWN).rename("unknown")
    clusters = _clusters(run, query, is_unknown)
    odd = clusters[clusters["share_unknown"] >= MOSTLY]
    large = odd[odd["n_cells"] >= MIN_CELLS]
    is_new = large["share_unknown"] >= NEARLY_ALL
    small = odd[odd["n_cells"] < MIN_CELLS]
    return {
        "n": f"{int(is_unknown.sum()):,}",
        "of": f"{len(is_unknown):,}",
        "share": f"{is_unknown.mean():.0%}",
        "is_new": bool(is_new.any()),
        "verdict": _verdict(large[is_new], large[~is_new], small, int(is_unknown.sum())),
        "reason": RULE,
        "clusters": _table(run, query, is_unknown, clusters[clusters["n_unknown"] > 0]),
    }


def _clusters(run: Run, query: AnnData, is_unknown: pd.Series) -> pd.DataFrame:
    """Clusters by name, the most unknown first, with nearest label and genes where possible."""
    if "leiden" not in query.obs:
        return pd.DataFrame({"n_cells": [], "share_unknown": [], "n_unknown": []})
    assert run.is_query is not None
    ref = run.adata[~run.is_query]
    # A reference by name comes without expression: it has no means to be near to.
    is_labeled = run.labels is not None and bool(run.labels[~run.is_query].notna().any())
    if ref.n_obs and is_labeled and not is_empty(ref.X):
        key = str(run.labels_key)
        found = unknown_clusters(
            ref, query, is_unknown, "leiden", key, batch_key=run.batch_key, n_genes=N_GENES
        )
    else:
        grouped = is_unknown.groupby(query.obs["leiden"], observed=True)
        found = pd.DataFrame({"n_cells": grouped.size(), "share_unknown": grouped.mean()})
    found["n_unknown"] = (found["n_cells"] * found["share_unknown"]).round().astype(int)
    return found.sort_values("share_unknown", ascending=False, kind="stable")


def _verdict(new: pd.DataFrame, unclear: pd.DataFrame, small: pd.DataFrame, n_unknown: int) -> str:
    if not n_unknown:
        return "No cell is unknown: no sign of a new type, which is no proof that there is none."
    parts = []
    if len(new):
        parts.append(f"Probably new: {_named(new)}.")
    if len(unclear):
        parts.append(
            f"New, or of a known type that the query's technology changes: {_named(unclear)}."
        )
    if not parts:
        parts = [f"No cluster of {MIN_CELLS} cells is mostly unknown: no sign of a new type."]
    if len(small):
        parts.append(f"Too few cells to tell: {_named(small)}.")
    return " ".join(parts)


def _named(clusters: pd.DataFrame) -> str:
    each = [
        f"{name} ({row.n_unknown:,} of {row.n_cells:,} cells)" for name, row in clusters.iterrows()
    ]
    return f"cluster{'' if len(each) == 1 else 's'} {', '.join(each)}"


def _table(
    run: Run, query: AnnData, is_unknown: pd.Series, clusters: pd.DataFrame
) -> dict[str, Any] | None:
    if not len(clusters):
        return None
    columns = ["cluster", "query cells", "unknown"]
    if "nearest_label" in clusters:
        columns += ["nearest label", "more of these genes than the nearest label"]
    own = run.labels is not None and run.labels[run.is_query].notna().any()
    if own:
        columns.append("labels that came with the unknown cells")
    rows = []
    for name, row in clusters.head(MAX_ROWS).iterrows():
        cells = [str(name), f"{row.n_cells:,}", f"{row.n_unknown:,}"]
        if "nearest_label" in clusters:
            cells += [str(row.nearest_label), row.genes]
        if own:
            chosen = is_unknown & (query.obs["leiden"] == name)
            counted = query.obs.loc[chosen, run.labels_key].astype(str).value_counts()
            cells.append(", ".join(f"{label} {n:,}" for label, n in counted[:4].items()))
        rows.append(cells)
    return {"columns": columns, "rows": rows}
