"""Cells in two dimensions, one panel for each column."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scalex_scvi._core.colors import Colors
from scalex_scvi._core.keys import own_keys

from ._categories import categories_of, pale, used
from ._cells import coordinates, draw_cells, label_axes, number_clusters
from ._figure import Save, opened, shown_or_returned
from ._legend import handles, legend_columns, legend_width, margin_legend
from ._palette import colors_of, source_of

PANEL = 4.2
"""Width and height of a panel in inches."""

FONTSIZE = 9


def umap(
    adata: AnnData,
    color: str | Sequence[str],
    *,
    basis: str = "X_umap",
    save: Save = None,
    show: bool | None = None,
) -> Figure | None:
    """Draw cells side by side, one panel for each column of ``obs``.

    A name that occurs in several columns has one color in all of them, unless ``adata.uns`` says
    otherwise. Clusters (``"leiden"``, …) have their names on the map.

    Parameters
    ----------
    adata
        Cells with ``obsm[basis]``. It is not changed.
    color
        Columns of ``obs``, categorical.
    basis
        Key in ``obsm``.
    save, show
        See :mod:`scalex_scvi.pl`.

    Returns
    -------
    The figure, or ``None`` if it is shown.

    Raises
    ------
    KeyError
        If a column or the basis is absent.
    ValueError
        If a column is continuous.
    """
    points = coordinates(adata, basis)
    columns, palettes = shared_columns(adata, color)
    size = point_size(adata.n_obs)
    figsize, shape = _grid(columns, palettes)
    with opened(figsize, shape=shape, save=save) as (figure, axes):
        for name, axis in _panels(columns, axes):
            draw_cells(axis, points, columns[name], palettes[name], size=size)
            number_clusters(axis, points, columns[name], fontsize=FONTSIZE)
            decorate(axis, columns[name], palettes[name], basis=basis, title=name)
    return shown_or_returned(figure, show=show)


def projection(
    adata: AnnData,
    color: str | Sequence[str],
    *,
    key: str = "projection",
    basis: str = "X_umap",
    save: Save = None,
    show: bool | None = None,
) -> Figure | None:
    """Draw the query over the reference, one panel for each column of ``obs``.

    The query is drawn in full colors, the reference below it in pale ones, in points of a third of
    the query's area. The legend shows labels that the reference alone has in their pale colors.
    A column of transferred labels, ``"celltype_transfer"``, has those of ``"celltype"`` for the
    reference, if there are any. Cells without a label are light gray, those called ``"unknown"``
    gray. A name that occurs in several columns has one color in all of them, so that true and
    transferred labels compare.

    Parameters
    ----------
    adata
        Reference and query cells with ``obsm[basis]``. It is not changed.
    color
        Columns of ``obs``, categorical.
    key
        Column of ``obs`` with ``"reference"`` or ``"query"`` for each cell.
    basis
        Key in ``obsm``.
    save, show
        See :mod:`scalex_scvi.pl`.

    Returns
    -------
    The figure, or ``None`` if it is shown.

    Raises
    ------
    KeyError
        If a column or the basis is absent.
    ValueError
        If a column is continuous, ``key`` holds anything else, or there is no query cell.
    """
    points = coordinates(adata, basis)
    is_query = _is_query(adata, key)
    columns, palettes = shared_columns(adata, color)
    below, faint = _reference_layers(adata, columns, palettes, ~is_query)
    legends, named = {}, {}
    for name, column in columns.items():
        rest = [label for label in used(below[name]) if label not in used(column[is_query])]
        legends[name] = _with_labels(column[is_query], rest)
        named[name] = palettes[name] | {label: faint[name][label] for label in rest}
    figsize, shape = _grid(legends, named)
    query_size = point_size(is_query.sum())
    ref_size = min(point_size((~is_query).sum()), query_size / 3)
    with opened(figsize, shape=shape, save=save) as (figure, axes):
        for name, axis in _panels(columns, axes):
            column = columns[name]
            draw_cells(axis, points[~is_query], below[name], faint[name], size=ref_size)
            draw_cells(axis, points[is_query], column[is_query], palettes[name], size=query_size)
            number_clusters(axis, points, column, fontsize=FONTSIZE)
            decorate(axis, legends[name], named[name], basis=basis, title=f"query: {name}")
    return shown_or_returned(figure, show=show)


def shared_columns(
    adata: AnnData, color: str | Sequence[str]
) -> tuple[dict[str, pd.Series], dict[str, Colors]]:
    """Return columns as categories, and their colors: one for a name in all of them."""
    several = () if color is None else color
    names = [color] if isinstance(color, str) else list(dict.fromkeys(several))
    if not names:
        msg = f"`color` must name one column of adata.obs or more, got {color!r}."
        raise ValueError(msg)
    columns = {name: categories_of(adata, name, "color") for name in names}
    palettes: dict[str, Colors] = {}
    shared: Colors = {}
    for name, column in columns.items():
        palettes[name] = colors_of(adata, name, column.cat.categories, shared=shared)
        shared = palettes[name] | shared
    return columns, palettes


def _reference_layers(
    adata: AnnData, columns: dict[str, pd.Series], palettes: dict[str, Colors], is_ref: np.ndarray
) -> tuple[dict[str, pd.Series], dict[str, Colors]]:
    """Return the labels of the reference cells in each panel, and their pale colors."""
    shared: Colors = {}
    for palette in palettes.values():
        shared = palette | shared
    below = {name: _labels_of_reference(adata, name, columns[name])[is_ref] for name in columns}
    faint = {}
    for name, labels in below.items():
        colors = colors_of(adata, name, labels.cat.categories, shared=shared)
        faint[name] = {label: pale(color) for label, color in colors.items()}
    return below, faint


def _labels_of_reference(adata: AnnData, name: str, column: pd.Series) -> pd.Series:
    """Return the labels that were transferred, for the cells that they were transferred from."""
    source = source_of(name)
    if source is None or source not in adata.obs:
        return column
    return categories_of(adata, source, "color")


def _with_labels(column: pd.Series, labels: list[Hashable]) -> pd.Series:
    """Return a column with one more cell of each of some labels, which a legend then names."""
    categories = column.cat.categories
    categories = categories.append(pd.Index(labels).difference(categories, sort=False))
    values = [*column, *labels]
    return pd.Series(pd.Categorical(values, categories=categories))


def _is_query(adata: AnnData, key: str) -> np.ndarray:
    if key not in adata.obs:
        msg = (
            f"`key` {key!r} is not a column of adata.obs: {own_keys(adata.obs)!r}. It says which "
            "cells are of the reference: `anndata.concat({'reference': ref, 'query': query}, "
            f"label={key!r}, join='outer')` puts both together. `scalex_scvi.pl.umap` draws the "
            "query alone."
        )
        raise KeyError(msg)
    column = categories_of(adata, key, "key")
    if column.isna().any() or not set(used(column)) <= {"reference", "query"}:
        msg = (
            f"adata.obs[{key!r}] must be 'reference' or 'query' for each cell, it holds "
            f"{list(column.unique())!r}."
        )
        raise ValueError(msg)
    is_query = (column == "query").to_numpy()
    if not is_query.any():
        msg = f"No cell is 'query' in adata.obs[{key!r}]."
        raise ValueError(msg)
    return is_query


def _grid(
    columns: dict[str, pd.Series], palettes: dict[str, Colors]
) -> tuple[tuple[float, float], tuple[int, int]]:
    """Return the size of the figure, with room for the legends, and rows and columns."""
    n_columns = min(len(columns), 3)
    n_rows = math.ceil(len(columns) / n_columns)
    width = total_width(columns, palettes, n_columns)
    return (width, n_rows * PANEL), (n_rows, n_columns)


def total_width(
    columns: dict[str, pd.Series], palettes: dict[str, Colors], n_columns: int
) -> float:
    """Return how many inches panels take side by side, each with the widest legend below it."""
    entries = [handles(column, palettes[name], FONTSIZE) for name, column in columns.items()]
    legends = [legend_width(e, legend_columns(len(e), PANEL, FONTSIZE), FONTSIZE) for e in entries]
    return sum(PANEL + 0.4 + max(legends[i::n_columns]) for i in range(n_columns))


def _panels(columns: dict[str, pd.Series], axes: list[Axes]) -> list[tuple[str, Axes]]:
    for axis in axes[len(columns) :]:
        axis.set_axis_off()
    return list(zip(columns, axes, strict=False))


def decorate(
    axis: Axes, column: pd.Series, colors: Colors, *, basis: str, title: str, legend: bool = True
) -> None:
    """Give a panel its title, the names of its axes and, in the margin, its legend."""
    if legend:
        entries = handles(column, colors, FONTSIZE)
        margin_legend(axis, entries, legend_columns(len(entries), PANEL, FONTSIZE), FONTSIZE)
    axis.set_title(title)
    label_axes(axis, basis)


def point_size(n_cells: int) -> float:
    """Return the area of a point in points²: smaller where there are many."""
    return min(40, 120_000 / max(n_cells, 1))
