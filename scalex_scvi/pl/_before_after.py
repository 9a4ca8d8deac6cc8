"""Cells before and after integration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from anndata import AnnData
from matplotlib.figure import Figure

from scalex_scvi._core.keys import UMAP_KEY, UNCORRECTED_UMAP_KEY

from ._cells import coordinates, draw_cells, label_axes
from ._figure import Save, opened, shown_or_returned
from ._legend import handles, legend_columns, margin_legend
from ._umap import FONTSIZE, PANEL, point_size, shared_columns, widest_legend


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
    width = PANEL + 0.4 + widest_legend(columns, palettes)
    shape = (len(maps), len(columns))
    size = point_size(int(drawn.sum()))
    with opened((width * shape[1], PANEL * shape[0]), shape=shape, save=save) as (figure, axes):
        panels = iter(axes)
        for when, points in maps.items():
            for name, column in columns.items():
                axis = next(panels)
                draw_cells(axis, points[drawn], column[drawn], palettes[name], size=size)
                axis.set_title(f"{when} integration: {name}")
                label_axes(axis, basis)
                entries = handles(column, palettes[name], FONTSIZE)
                n_columns = legend_columns(len(entries), PANEL, FONTSIZE)
                if when == "after":  # the same above
                    margin_legend(axis, entries, n_columns, FONTSIZE)
    return shown_or_returned(figure, show=show)
