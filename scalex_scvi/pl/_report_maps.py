"""The maps of a report: coordinates and categories for its script."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pandas as pd

from scalex_scvi._core.colors import UNKNOWN
from scalex_scvi._core.keys import REFERENCE_UMAP_KEY, UMAP_KEY, UNCORRECTED_UMAP_KEY
from scalex_scvi._core.seeds import random_rows

from ._palette import colors_of
from ._report_run import Run

MAX_CELLS = 100_000
"""Cells on the maps: about 2 MB of text."""

NO_PLACE = 65535
"""Coordinate of a cell that is not on a map, and code of a cell without a category."""

_MAPS = (UNCORRECTED_UMAP_KEY, UMAP_KEY, REFERENCE_UMAP_KEY)


def map_data(run: Run) -> dict[str, Any]:
    """Return what the script needs: maps and columns as base64 of 16-bit numbers."""
    cells = random_rows(run.adata.n_obs, MAX_CELLS, seed=0)
    is_query = run.is_query
    places = {
        key: _quantized(np.asarray(run.adata.obsm[key])[cells])
        for key in _MAPS
        if key in run.adata.obsm
    }
    return {
        "n": len(cells),
        "maps": {key: _base64(found) for key, found in places.items()},
        "middles": _middles(run, cells, places),
        "columns": _columns(run, cells),
        "query": None if is_query is None else _base64(is_query[cells].astype(np.uint8)),
    }


def map_groups(run: Run) -> list[dict[str, Any]]:
    """Return titles and panels of the groups of maps that these cells have."""
    colored = ["batch"] if run.labels is None else ["labels", "batch"]
    names = {"labels": str(run.labels_key), "batch": "batch", "clusters": "cluster"}
    if "leiden" in run.adata.obs:
        colored.append("clusters")
    groups: list[dict[str, Any]] = []

    def add(title: str, text: str, panels: list[tuple[str, str, str, bool]]) -> None:
        found = [
            {
                "id": f"{key}-{column}",
                "map": key,
                "column": column,
                "title": name,
                "layered": layered,
            }
            for key, column, name, layered in panels
            if key in run.adata.obsm
        ]
        if found:
            groups.append({"title": title, "text": text, "panels": found})

    if run.transferred is not None and run.is_query is not None:
        unknown = "Unknown cells are gray with a ring. " if run.may_be_unknown else ""
        text = (
            "The query in full colors over the reference's labels in pale ones. "
            f"{unknown}Point at a cell for its label, click a label to see it alone, drag to move."
        )
        add(
            "The query on the reference",
            text,
            [
                (UMAP_KEY, "transfer", "A map drawn for both: what is new lies apart", True),
                (
                    REFERENCE_UMAP_KEY,
                    "transfer",
                    "The reference's own map, which did not move",
                    True,
                ),
            ],
        )
    after = [(UMAP_KEY, c, f"After integration, by {names[c]}", False) for c in colored]
    before = [
        (UNCORRECTED_UMAP_KEY, c, f"Before integration, by {names[c]}", False)
        for c in colored
        if c != "clusters"  # these are of the latent space
    ]
    add(
        "Before and after",
        "Before: principal components of log-normalized expression. After: the latent space. "
        "Batches should mix, and types stay apart.",
        [*before, *after],
    )
    return groups


def _columns(run: Run, cells: np.ndarray) -> dict[str, Any]:
    found: dict[str, pd.Series] = {"batch": run.batches}
    if run.clusters is not None:
        found["clusters"] = run.clusters
    if run.labels is not None:
        found["labels"] = run.labels
    if run.transferred is not None and run.is_query is not None:
        found["transfer"] = _over_the_reference(run)
    keys = {"batch": run.batch_key, "clusters": "leiden", "labels": str(run.labels_key)}
    columns = {}
    for name, column in found.items():
        key = keys.get(name, f"{run.labels_key}_transfer")
        categories = column.cat.categories
        colors = colors_of(run.adata, key, categories)
        codes = column.cat.codes.to_numpy()[cells].astype(np.int64)
        columns[name] = {
            "codes": _base64(np.where(codes < 0, NO_PLACE, codes).astype("<u2")),
            "names": [str(category) for category in categories],
            "colors": [colors[category] for category in categories],
        }
    return columns


def _middles(run: Run, cells: np.ndarray, places: dict[str, np.ndarray]) -> dict[str, Any]:
    """Median of each cluster's places on each map, by its name; none if no cell is there."""
    if run.clusters is None:
        return {}
    clusters = run.clusters.iloc[cells]
    middles: dict[str, Any] = {}
    for key, points in places.items():
        on_map = (points != NO_PLACE).all(axis=1)
        grouped = pd.DataFrame(points[on_map]).groupby(clusters[on_map].to_numpy(), observed=True)
        middles[key] = {str(name): row.tolist() for name, row in grouped.median().T.items()}
    return middles


def _over_the_reference(run: Run) -> pd.Series:
    """Transferred labels of the query, and those of the reference that they come from."""
    assert run.transferred is not None and run.is_query is not None
    names = list(run.transferred.cat.categories)
    values = run.transferred.astype(object)
    if run.labels is not None:
        values = values.where(run.is_query, run.labels.astype(object))
        of_reference = run.labels[~run.is_query].cat.remove_unused_categories().cat.categories
        names += [name for name in of_reference if name not in names]
        names.sort(key=lambda name: name == UNKNOWN)  # the last
    return pd.Series(pd.Categorical(values, categories=names), index=run.adata.obs_names)


def _quantized(points: np.ndarray) -> np.ndarray:
    """Two dimensions as numbers from 0 to 65534, the same scale for both."""
    points = points[:, :2].astype(np.float64)
    on_map = np.isfinite(points).all(axis=1)
    places = np.full(points.shape, NO_PLACE, dtype="<u2")
    if on_map.any():
        low = points[on_map].min(axis=0)
        extent = np.maximum(points[on_map].max(axis=0) - low, 1e-9)
        places[on_map] = np.rint((points[on_map] - low) / extent * (NO_PLACE - 1))
    return places


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
