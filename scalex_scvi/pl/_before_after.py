"""Cells before and after integration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from anndata import AnnData
from matplotlib.figure import Figure

from scalex_scvi._core.keys import UMAP_KEY, UNCORRECTED_UMAP_KEY

from ._cells import coordinates, draw_cells, number_clusters
from ._figure import Save, opened, shown_or_returned
from ._umap import FONTSIZE, PANEL, decorate, point_size, shared_columns, total_width


def before_after(
    adata: AnnData,
    color: str | Sequence[str],
    *,
    before: str = UNCORRECTED_UMAP_KEY,
    basis: str = UMAP_KEY,
    save: Save = None,
    show: bool | None = None,
) -> Figure | None:
    """Draw cells before integration (above) and after it (below), a column for each of ``color``.

    Parameters
    ----------
    adata
        Cells with ``obsm[before]``, as :func:`scalex_scvi.tl.uncorrected_umap` adds it, and
        ``obsm[basis]``. Both rows draw the same cells: those that are on both maps. It is not
        changed.
    color
        Columns of ``obs``, categorical.
    before, basis
        Keys in ``obsm`` of the two maps.
    save, show
        See :mod:`scalex_scvi.pl`.

    Returns
    -------
    The figure, or ``None`` if it is shown.

    Raises
    ------
    KeyError
        If a column or a map is absent.
    ValueError
        If a column is continuous.
    """
    maps = {"before": coordinates(adata, before), "after": coordinates(adata, basis)}
    drawn = np.logical_and.reduce([np.isfinite(points).all(axis=1) for points in maps.values()])
    columns, palettes = shared_columns(adata, color)
    figsize = (total_width(columns, palettes, len(columns)), PANEL * len(maps))
    size = point_size(int(drawn.sum()))
    with opened(figsize, shape=(len(maps), len(columns)), save=save) as (figure, axes):
        panels = iter(axes)
        for when, points in maps.items():
            for name, column in columns.items():
                axis, colors = next(panels), palettes[name]
                draw_cells(axis, points[drawn], column[drawn], colors, size=size)
                number_clusters(axis, points[drawn], column[drawn], fontsize=FONTSIZE)
                title = f"{when} integration: {name}"
                below = when == "after"  # the legend is the same above
                decorate(axis, column, colors, basis=basis, title=title, legend=below)
    return shown_or_returned(figure, show=show)
