"""Cells as points: coordinates, order, sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from scalex_scvi._core.colors import Colors

from ._categories import GRAY, used

MANY_CELLS = 5000
"""From this number of points on they are rasterized in vector files."""

CLUSTERS = ("leiden", "louvain", "cluster")
"""What the name of a column of clusters begins with."""

AXIS_NAMES = {"X_umap": "UMAP", "X_tsne": "tSNE", "X_pca": "PC"}


def coordinates(adata: AnnData, basis: str) -> np.ndarray:
    """Return the first two dimensions of ``obsm[basis]``.

    Raises
    ------
    KeyError
        If the basis is absent.
    ValueError
        If it has one dimension only, or there are no cells.
    """
    if adata.n_obs == 0:
        msg = "`adata` has no cells, so that there is nothing to draw."
        raise ValueError(msg)
    if basis not in adata.obsm:
        msg = (
            f"`basis` {basis!r} is not in adata.obsm: {list(adata.obsm)!r}. Name one that is "
            "there, or make a UMAP of the latent by scalex_scvi.tl.embed."
        )
        raise KeyError(msg)
    points = np.asarray(adata.obsm[basis])
    if points.ndim != 2 or points.shape[1] < 2:
        msg = f"`basis` {basis!r} must have two dimensions or more, its shape is {points.shape!r}."
        raise ValueError(msg)
    return points[:, :2]


def draw_cells(
    axis: Axes,
    points: np.ndarray,
    categories: pd.Series,
    colors: Colors,
    *,
    size: float | np.ndarray,
    **legend: Any,
) -> None:
    """Draw cells in the colors of their categories, by scanpy; those without one gray, and below.

    Cells are drawn in random order (always the same): in the order of the data the last batch
    would hide the others. ``size`` is the area of all points, or of each, in points²; ``legend``
    are arguments of :func:`scanpy.pl.embedding`, by default for none.
    """
    if not len(points):
        return
    order = np.random.default_rng(0).permutation(len(points))
    column = categories.cat.remove_unused_categories().iloc[order]
    names = column.cat.categories
    # Scanpy writes colors into what it is given.
    bare = AnnData(
        obs=pd.DataFrame({"category": column.array}, index=np.arange(len(points)).astype(str)),
        obsm={"points": points[order]},
    )
    sc.pl.embedding(
        bare,
        "points",
        color="category" if len(names) else None,
        palette={name: colors[name] for name in names} or None,
        na_color=GRAY,
        na_in_legend=False,
        size=size[order] if isinstance(size, np.ndarray) else size,
        ax=axis,
        show=False,
        **({"legend_loc": "none"} | legend),
    )
    for drawn in axis.collections:
        drawn.set_rasterized(len(points) >= MANY_CELLS)


def number_clusters(axis: Axes, points: np.ndarray, column: pd.Series, *, fontsize: float) -> None:
    """Write the name of each cluster where its cells are, by their medians.

    In columns of clusters alone: names that say nothing have to be found on the map.
    """
    if not str(column.name).lower().startswith(CLUSTERS):
        return
    on_map = np.isfinite(points).all(axis=1)
    for name in used(column[on_map]):
        x, y = np.median(points[on_map & (column == name).to_numpy()], axis=0)
        axis.text(
            x,
            y,
            str(name),
            fontsize=fontsize,
            fontweight="bold",
            ha="center",
            va="center",
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )


def label_axes(axis: Axes, basis: str, *, fontsize: float = 9) -> None:
    """Name the dimensions; their values mean nothing."""
    name = AXIS_NAMES.get(basis, basis.removeprefix("X_"))
    axis.set(xticks=[], yticks=[])
    axis.set_xlabel(f"{name} 1", fontsize=fontsize)
    axis.set_ylabel(f"{name} 2", fontsize=fontsize)
    axis.grid(False)
