"""Each group of cells over all others in gray."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from ._categories import categories_of, used
from ._cells import coordinates, draw_cells, label_axes
from ._figure import Save, opened, shown_or_returned
from ._legend import handles, legend_columns, legend_width, margin_legend
from ._palette import GivenColors, colors_of

FONTSIZE = 8.0

RIGHT_MARGIN = "right margin"


def embedding(
    adata: AnnData,
    color: str = "celltype",
    color_map: GivenColors = None,
    groupby: str = "batch",
    groups: Hashable | Sequence[Hashable] | None = None,
    cond2: str | None = None,
    v2: Hashable | None = None,
    save: Save = None,
    legend_loc: str | None = "right margin",
    legend_fontsize: float | None = None,
    legend_fontweight: str | int = "bold",
    sep: str = "_",
    basis: str = "X_umap",
    size: float = 10,
    show: bool | None = None,
) -> Figure | None:
    """Draw each group's cells in color over all other cells in gray, one panel a group.

    A category has one color in all panels.

    Parameters
    ----------
    adata
        Cells with ``obsm[basis]``. It is not changed.
    color
        Column of ``obs`` that colors the cells, categorical.
    color_map
        Colors by category (categories it leaves out are dark gray), or in the order of the
        categories; default: see :mod:`scalex_scvi.pl`.
    groupby
        Column of ``obs`` with the groups.
    groups
        Groups to draw, in this order; default: all that occur.
    cond2, v2
        A second column of ``obs`` and a value of it: only cells of the group that have this value
        are colored.
    save, show
        See :mod:`scalex_scvi.pl`.
    legend_loc
        ``"right margin"``: one legend for all panels. ``"on data"``: names at the medians of their
        cells, in each panel. ``"none"`` or ``None``: no legend. Or a place in matplotlib's words,
        such as ``"upper left"``, in each panel.
    legend_fontsize
        Points; default 8.
    legend_fontweight
        Weight of names on data, as in scanpy.
    sep
        Between ``v2`` and the group in the titles.
    basis
        Key in ``obsm``.
    size
        Area of a point in points², at most; less where many cells are drawn (scanpy's 120 000 /
        cells) or panels are small.

    Returns
    -------
    The figure, or ``None`` if it is shown.

    Raises
    ------
    KeyError
        If a column or the basis is absent.
    ValueError
        If a group, value or place is unknown, or only one of ``cond2`` and ``v2`` is given.
    """
    points = coordinates(adata, basis)
    _check_legend_loc(legend_loc)
    fontsize = legend_fontsize or FONTSIZE
    in_panel: dict[str, Any] = {}
    if legend_loc not in (None, RIGHT_MARGIN):
        in_panel = {
            "legend_loc": legend_loc,
            "legend_fontsize": fontsize,
            "legend_fontweight": legend_fontweight,
            "legend_fontoutline": 2,
        }
    categories = categories_of(adata, color, "color")
    colors = colors_of(adata, color, categories.cat.categories, given=color_map)
    panels = _panels(adata, groupby, groups, cond2, v2, sep)
    shape, side = _grid(len(panels))
    drawn = categories[np.logical_or.reduce([chosen for _, chosen in panels])]
    entries = handles(drawn, colors, fontsize)
    n_columns = legend_columns(len(entries), shape[0] * side, fontsize)
    margin = legend_width(entries, n_columns, fontsize) if legend_loc == RIGHT_MARGIN else 0
    figsize = (shape[1] * side + margin, shape[0] * side)
    with opened(figsize, shape=shape, save=save) as (figure, axes):
        for (title, chosen), axis in zip(panels, axes, strict=False):
            sizes = [_size(size, (~chosen).sum(), side), _size(size, chosen.sum(), side)]
            group = categories.where(chosen)
            draw_cells(axis, points, group, colors, size=np.take(sizes, chosen), **in_panel)
            axis.set_title(title, fontsize=2 + 2 * side)
            label_axes(axis, basis, fontsize=2 + 1.6 * side)
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        if legend_loc == RIGHT_MARGIN:
            margin_legend(figure, entries, n_columns, fontsize, title=color)
    return shown_or_returned(figure, show=show)


def _check_legend_loc(loc: str | None) -> None:
    known = [RIGHT_MARGIN, "on data", "none", *Legend.codes]
    if loc is not None and loc not in known:
        msg = f"`legend_loc` must be None or one of {known!r}, got {loc!r}."
        raise ValueError(msg)


def _panels(
    adata: AnnData,
    groupby: str,
    groups: Hashable | Sequence[Hashable] | None,
    cond2: str | None,
    v2: Hashable | None,
    sep: str,
) -> list[tuple[str, np.ndarray]]:
    """Return the title of each panel and which cells are colored in it."""
    column = categories_of(adata, groupby, "groupby")
    wanted = _known(groups, column, "groups")
    if (cond2 is None) != (v2 is None):
        msg = f"`cond2` and `v2` go together, got {cond2!r} and {v2!r}."
        raise ValueError(msg)
    if cond2 is None:
        return [(str(group), (column == group).to_numpy()) for group in wanted]
    second = categories_of(adata, cond2, "cond2")
    (value,) = _known([v2], second, "v2")
    has_value = (second == value).to_numpy()
    return [(f"{v2}{sep}{g}", (column == g).to_numpy() & has_value) for g in wanted]


def _known(
    wanted: Hashable | Sequence[Hashable] | None, column: pd.Series, argument: str
) -> list[Hashable]:
    present = used(column)
    if wanted is None:
        return present
    is_list = pd.api.types.is_list_like(wanted)
    names: list[Hashable] = list(wanted) if is_list else [wanted]  # type: ignore[call-overload]
    unknown = [name for name in names if name not in present]
    if unknown or not names:
        msg = f"`{argument}` must be in adata.obs[{column.name!r}], {present!r}, got {wanted!r}."
        raise ValueError(msg)
    return names


def _grid(n_panels: int) -> tuple[tuple[int, int], float]:
    """Return rows and columns, and the side of a panel in inches: smaller where there are many."""
    n_columns = n_panels if n_panels <= 3 else math.ceil(math.sqrt(n_panels))
    return (math.ceil(n_panels / n_columns), n_columns), 4.0 if n_columns <= 3 else 2.6


def _size(size: float, n_cells: int, side: float) -> float:
    return min(size, 120_000 / max(n_cells, 1)) * (side / 4)
