"""Cells as points: coordinates, order, sizes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array

from ._categories import GREY, Colors

MANY_CELLS = 5000
"""From this number of points on they are rasterised in vector files."""

AXIS_NAMES = {"X_umap": "UMAP", "X_tsne": "tSNE", "X_pca": "PC"}


def coordinates(adata: AnnData, basis: str) -> np.ndarray:
    """Return the first two dimensions of ``obsm[basis]``.

    Raises
    ------
    KeyError
        If the basis is absent.
    ValueError
        If it has one dimension only.
    """
    if basis not in adata.obsm:
        msg = f"`basis` {basis!r} is not in adata.obsm: {list(adata.obsm)!r}."
        raise KeyError(msg)
    points = np.asarray(adata.obsm[basis])
    if points.ndim != 2 or points.shape[1] < 2:
        msg = f"`basis` {basis!r} must have two dimensions or more, its shape is {points.shape!r}."
        raise ValueError(msg)
    return points[:, :2]


def draw_grey(axis: Axes, points: np.ndarray, *, size: float) -> None:
    """Draw cells that are only background."""
    _scatter(axis, points, GREY, size)


def draw_cells(
    axis: Axes, points: np.ndarray, categories: pd.Series, colors: Colors, *, size: float
) -> None:
    """Draw cells in the colours of their categories; those without one are grey, and below.

    Cells are drawn in random order (always the same): in the order of the data the last batch
    would hide the others.
    """
    order = np.random.default_rng(0).permutation(len(points))
    known = categories.notna().to_numpy()[order]
    draw_grey(axis, points[order[~known]], size=size)
    order = order[known]
    names = categories.cat.categories
    table = to_rgba_array([colors[name] for name in names])
    _scatter(axis, points[order], table[categories.cat.codes.to_numpy()[order]], size)


def label_axes(axis: Axes, basis: str, *, fontsize: float = 9) -> None:
    """Name the dimensions; their values mean nothing."""
    name = AXIS_NAMES.get(basis, basis.removeprefix("X_"))
    axis.set(xticks=[], yticks=[])
    axis.set_xlabel(f"{name} 1", fontsize=fontsize)
    axis.set_ylabel(f"{name} 2", fontsize=fontsize)
    axis.grid(False)


def _scatter(axis: Axes, points: np.ndarray, color: str | np.ndarray, size: float) -> None:
    axis.scatter(
        points[:, 0],
        points[:, 1],
        s=size,
        c=color,
        marker=".",
        linewidths=0,
        rasterized=len(points) >= MANY_CELLS,
    )
