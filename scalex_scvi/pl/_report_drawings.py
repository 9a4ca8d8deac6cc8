"""The drawings of a report, as SVG text."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from scalex_scvi._core.colors import UNKNOWN
from scalex_scvi._core.matrices import expression_in_raw
from scalex_scvi._core.seeds import random_rows
from scalex_scvi.io import whole_numbers
from scalex_scvi.pp import can_unscale, unscale

from ._report_run import Run, is_empty

MARKERS_EACH = 3
MAX_CELLS = 10_000
MIN_CELLS = 3
"""Groups of fewer cells have no markers."""

ROW, COLUMN = 22, 26
"""Pixels between dots."""

LOSSES = {"train_loss": "training loss", "kl_local_train": "KL divergence"}


def marker_dots(run: Run) -> dict[str, str] | None:
    """Return a dot plot of the groups' markers, ``None`` without two groups, or expression."""
    groups = run.groups
    if groups is None or (is_empty(run.adata.X) and run.adata.raw is None):
        return None
    cells = np.flatnonzero(groups.notna().to_numpy())
    cells = cells[random_rows(len(cells), MAX_CELLS, seed=0)]
    genes = run.adata.var_names
    values = _log_normalized(run.adata, cells)
    names = groups.iloc[cells].astype(str).to_numpy()
    counted = pd.Series(names).value_counts()
    usable = sorted(
        (name for name, count in counted.items() if count >= MIN_CELLS),
        key=lambda name: (name == UNKNOWN, name),
    )
    if len(usable) < 2:
        return None
    bare = AnnData(
        values,
        obs=pd.DataFrame({"group": pd.Categorical(names)}, index=np.arange(len(cells)).astype(str)),
        var=pd.DataFrame(index=np.arange(len(genes)).astype(str)),  # names may repeat
    )[:, run.measured].copy()
    sc.tl.rank_genes_groups(bare, "group", groups=usable, n_genes=MARKERS_EACH, method="t-test")
    found = bare.uns["rank_genes_groups"]["names"]
    markers = list(dict.fromkeys(str(gene) for name in usable for gene in found[name]))
    rows = [*usable, *([UNKNOWN] if UNKNOWN in counted and UNKNOWN not in usable else [])]
    what = "transferred labels" if run.transferred is not None else "groups of cells"
    return {
        "title": f"Markers of the {what}",
        "text": "The features that set each label apart most (t-test, three each). Size: share "
        "of the label's cells that have it. Color: mean expression, from the lowest label's to the "
        "highest's. Labels that are right show their known markers; those of unknown cells say "
        "what they may be." + _without_unmeasured(run),
        "svg": _dots(bare[:, markers], rows, [str(genes[int(marker)]) for marker in markers]),
    }


def _without_unmeasured(run: Run) -> str:
    n_missing = int((~run.measured).sum())
    return f" Left out are {n_missing:,} features that the query lacks." if n_missing else ""


def _log_normalized(adata: AnnData, cells: np.ndarray) -> Any:
    """Expression before the scaling to [0, 1], where it is known; counts are log-normalized."""
    if adata.raw is not None:
        values = expression_in_raw(adata, cells)
    else:
        part = adata[cells]
        values = unscale(part) if can_unscale(part) else part.X
    values = sparse.csr_matrix(values) if sparse.issparse(values) else np.asarray(values)
    if not whole_numbers(values):
        return values
    counts = AnnData(values.astype(np.float32))
    sc.pp.normalize_total(counts, target_sum=1e4)
    sc.pp.log1p(counts)
    return counts.X


def _dots(adata: AnnData, rows: list[str], markers: list[str]) -> str:
    means, shares = [], []
    for name in rows:
        values = adata.X[(adata.obs["group"] == name).to_numpy()]
        means.append(np.asarray(values.mean(axis=0)).ravel())
        shares.append(np.asarray((values > 0).mean(axis=0)).ravel())
    low, high = np.min(means, axis=0), np.max(means, axis=0)
    level = (np.array(means) - low) / np.maximum(high - low, 1e-9)
    left = 16 + 7 * max(len(name) for name in rows)
    top = 16 + 7 * max(len(name) for name in markers)
    width, height = left + COLUMN * len(markers) + 40, top + ROW * len(rows) + 10
    parts = [f'<svg width="{width}" height="{height}" role="img" aria-label="Marker dot plot">']
    for j, gene in enumerate(markers):
        x = left + COLUMN * (j + 0.5) + 4
        place = f'x="{x}" y="{top - 6}" transform="rotate(-90 {x} {top - 6})"'
        parts.append(f"<text {place}>{escape(gene)}</text>")
    for i, name in enumerate(rows):
        y = top + ROW * (i + 0.5)
        parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{escape(name)}</text>')
        for j in range(len(markers)):
            r, opacity = 1 + 8.5 * float(np.sqrt(shares[i][j])), 0.12 + 0.88 * float(level[i, j])
            x = left + COLUMN * (j + 0.5)
            style = f'fill="var(--accent)" fill-opacity="{opacity:.2f}"'
            parts.append(f'<circle cx="{x}" cy="{y}" r="{r:.1f}" {style}/>')
    return "".join([*parts, "</svg>"])


def loss_curves(run: Run) -> dict[str, Any] | None:
    """Return the losses over the epochs, ``None`` if nothing was trained."""
    history = getattr(run.model, "history", None)
    if not history or run.is_query is not None:
        return None
    svgs = [
        _curve(history[key].iloc[:, 0].astype(float).to_numpy(), name)
        for key, name in LOSSES.items()
        if key in history and len(history[key]) > 1
    ]
    text = "Mean over cells, by epoch. A training that is long enough ends level."
    return {"text": text, "svgs": svgs} if svgs else None


def _curve(values: np.ndarray, name: str) -> str:
    width, height, left, bottom = 420, 180, 56, 26
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    x = left + (width - left - 8) * np.arange(len(values)) / (len(values) - 1)
    y = 24 + (height - bottom - 24) * (high - values) / max(high - low, 1e-9)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{name}">'
        f'<text x="{left}" y="14">{name}</text>'
        f'<text x="{left - 6}" y="30" text-anchor="end">{high:.4g}</text>'
        f'<text x="{left - 6}" y="{height - bottom}" text-anchor="end">{low:.4g}</text>'
        f'<text x="{width - 8}" y="{height - 8}" text-anchor="end">epoch {len(values)}</text>'
        f'<polyline points="{points}" fill="none" stroke="var(--accent)" stroke-width="2"/></svg>'
    )
