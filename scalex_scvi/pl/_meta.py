"""Correlation of the mean representations of cell types in batches."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import ScaledTranslation
from scipy import sparse

from scalex_scvi._core.colors import Colors, stored_colors
from scalex_scvi._core.matrices import layer_names

from ._categories import (
    GRAY,
    categories_of,
    readable,
    used,
)
from ._figure import Save, opened, shown_or_returned
from ._heatmap import heatmap, side
from ._legend import handles, legend_columns, legend_width, margin_legend
from ._palette import GivenColors, colors_of

logger = logging.getLogger(__name__)

MANY_GROUPS = 90
"""With more groups than this their names would not be legible, and batches are named instead."""

CHUNK = 10_000
"""Cells that are read at once from files."""

CORRELATION = "Pearson correlation"


def meta(
    adata: AnnData,
    use_rep: str | None = None,
    color: str = "celltype",
    batch: str = "batch",
    colors: GivenColors = None,
    cmap: str | Colormap = "Blues",
    vmax: float = 1,
    vmin: float = 0,
    mask: bool = True,
    annot: bool = False,
    save: Save = None,
    fontsize: float = 8,
    show: bool | None = None,
    ax: Axes | None = None,
) -> Figure | None:
    """Draw how the mean representations of cell types in batches correlate.

    A row and a column for each cell type of each batch that has cells, batch after batch. After a
    good integration a type correlates with itself in other batches more than with other types.

    With more than 90 of them the names of the types, illegible then, give way to the names of
    the batches.

    Parameters
    ----------
    adata
        Cells. It is not changed, and sparse expression stays sparse.
    use_rep
        Key in ``obsm`` or ``layers``, or ``"X"``; default ``obsm["latent"]`` if it is there, else
        ``X``.
    color
        Column of ``obs`` with the cell types.
    batch
        Column of ``obs`` with the batches.
    colors
        Colors by batch, or in the order of the batches; default: see :mod:`scalex_scvi.pl`. The
        names of the types have the color of their batch.
    cmap
        Color map.
    vmax, vmin
        Correlations at the ends of the color map. They are in [-1, 1]; those below ``vmin`` look
        like it.
    mask
        Whether to leave the half above the diagonal out, which repeats the one below.
    annot
        Whether to write the values.
    save, show, ax
        See :mod:`scalex_scvi.pl`.
    fontsize
        Points.

    Returns
    -------
    The figure, or ``None`` if it is shown.

    Raises
    ------
    KeyError
        If a column or the representation is absent.
    ValueError
        If a cell has no type or batch, or the representation has one dimension only.
    """
    types, batches = _complete(adata, color, "color"), _complete(adata, batch, "batch")
    palette = colors_of(adata, batch, batches.cat.categories, given=colors)
    groups, correlation = _correlation(adata, use_rep, batches, types)
    entries = handles(batches, palette, fontsize)
    inches = side(min(len(groups), MANY_GROUPS), fontsize, annot=annot)
    n_columns = legend_columns(len(entries), inches, fontsize)
    width = inches + 2.2 + legend_width(entries, n_columns, fontsize)
    hidden = np.triu(np.ones_like(correlation, dtype=bool), k=1) if mask else None
    with opened((width, inches + 1.2), ax=ax, save=save) as (figure, (axis,)):
        named = [] if len(groups) > MANY_GROUPS else [name for _, name in groups]
        heatmap(
            axis,
            correlation,
            named,
            named,
            fontsize=fontsize,
            cbar_label=CORRELATION,
            mask=hidden,
            cmap=cmap,
            vmin=vmin,
            vmax=vmax,
            annot=annot,
        )
        rows = [name for name, _ in groups]
        _mark_batches(axis, rows, palette, fontsize)
        labeled = rows if named else _name_batches(axis, rows, fontsize)
        _color_labels(axis.get_xticklabels(), [palette[name] for name in labeled])
        _color_labels(axis.get_yticklabels(), [palette[name] for name in labeled])
        place = figure if ax is None else axis
        # In given axes: beyond the color bar.
        margin_legend(place, entries, n_columns, fontsize, title=batch, away=0.35)
    return shown_or_returned(figure, show=show, ax=ax)


def meta_pair(
    adata: AnnData,
    use_rep: str | None = "latent",
    color: str = "celltype",
    batch: str = "batch",
    color_map: GivenColors = None,
    figsize: tuple[float, float] = (10, 10),
    cmap: str | Colormap = "Blues",
    batches: Sequence[Hashable] | None = None,
    annot: bool = False,
    save: Save = None,
    cbar: bool = True,
    keep: bool = False,
    fontsize: float = 8,
    vmin: float = 0,
    vmax: float = 1,
    show: bool | None = None,
    ax: Axes | None = None,
) -> Figure | None:
    """Draw how the mean representations of cell types correlate between two batches.

    Columns are the cell types of the first batch, rows those of the second.

    Parameters
    ----------
    adata
        Cells. It is not changed, and sparse expression stays sparse.
    use_rep
        Key in ``obsm`` or ``layers``, or ``"X"``; ``None`` as in :func:`meta`.
    color
        Column of ``obs`` with the cell types.
    batch
        Column of ``obs`` with the batches.
    color_map
        Colors of the names by type, or in the order of the types; default:
        ``adata.uns[f"{color}_colors"]``, else black.
    figsize
        Width and height in inches, for a figure of its own.
    cmap
        Color map.
    batches
        Two batches; default: the two that there are.
    annot
        Whether to write the values.
    save, show, ax
        See :mod:`scalex_scvi.pl`.
    cbar
        Whether to draw the bar that explains the colors.
    keep
        Whether to keep all types on both axes; those that a batch lacks are gray,
        without a value.
    fontsize
        Points.
    vmin, vmax
        Correlations at the ends of the color map. They are in [-1, 1]; those below ``vmin`` look
        like it.

    Returns
    -------
    The figure, or ``None`` if it is shown.

    Raises
    ------
    KeyError
        If a column or the representation is absent.
    ValueError
        If the batches are not two, a cell has no type or batch, or the representation has one
        dimension only.
    """
    types, batch_column = _complete(adata, color, "color"), _complete(adata, batch, "batch")
    first, second = _two_batches(batches, batch_column)
    palette = colors_of(adata, color, types.cat.categories, given=color_map)
    is_plain = color_map is None and not stored_colors(adata, color)
    groups, correlation = _correlation(adata, use_rep, batch_column, types)
    table = pd.DataFrame(correlation, *[pd.MultiIndex.from_tuples(groups)] * 2)
    table = table.loc[second, first]
    if keep:
        table = table.reindex(index=used(types), columns=used(types))
    with opened(figsize, ax=ax, save=save) as (figure, (axis,)):
        axis.set_facecolor(GRAY)
        heatmap(
            axis,
            table.to_numpy(),
            list(table.index),
            list(table.columns),
            fontsize=fontsize,
            cbar_label=CORRELATION,
            cmap=cmap,
            vmin=vmin,
            vmax=vmax,
            annot=annot,
            cbar=cbar,
        )
        axis.set_xlabel(str(first), fontsize=fontsize + 2)
        axis.set_ylabel(str(second), fontsize=fontsize + 2)
        if not is_plain:
            _color_labels(axis.get_xticklabels(), [palette[name] for name in table.columns])
            _color_labels(axis.get_yticklabels(), [palette[name] for name in table.index])
    return shown_or_returned(figure, show=show, ax=ax)


def _complete(adata: AnnData, key: str, argument: str) -> pd.Series:
    column = categories_of(adata, key, argument)
    n_missing = int(column.isna().sum())
    if n_missing:
        msg = (
            f"adata.obs[{key!r}] is missing for {n_missing} of {adata.n_obs} cells. Leave them "
            f"out: adata[adata.obs[{key!r}].notna()]."
        )
        raise ValueError(msg)
    return column


def _two_batches(batches: Sequence[Hashable] | None, column: pd.Series) -> tuple[Hashable, ...]:
    present = used(column)
    chosen = present if batches is None else list(batches)
    if isinstance(batches, str) or len(set(chosen)) != 2 or not set(chosen) <= set(present):
        msg = (
            f"`batches` must be two of the {len(present)} in adata.obs[{column.name!r}], "
            f"{present!r}, got {batches!r}."
        )
        raise ValueError(msg)
    return tuple(chosen)


def _correlation(
    adata: AnnData, use_rep: str | None, batches: pd.Series, types: pd.Series
) -> tuple[list[tuple[Hashable, Hashable]], np.ndarray]:
    """Return the (batch, type) pairs that have cells, and the correlation of their means."""
    matrix, name = _representation(adata, use_rep)
    if matrix.shape[1] < 2:
        msg = f"`use_rep` {name!r} has {matrix.shape[1]} dimension: no correlation is defined."
        raise ValueError(msg)
    n_types = len(types.cat.categories)
    pairs = batches.cat.codes.to_numpy().astype(int) * n_types + types.cat.codes.to_numpy()
    present, codes = np.unique(pairs, return_inverse=True)
    groups = [
        (batches.cat.categories[pair // n_types], types.cat.categories[pair % n_types])
        for pair in present
    ]
    means = _group_means(matrix, codes, len(present))
    if not np.isfinite(means).all():
        msg = f"`use_rep` {name!r} holds values that are NaN or infinite. Leave those cells out."
        raise ValueError(msg)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.atleast_2d(np.corrcoef(means))
    undefined = [
        group for group, row in zip(groups, correlation, strict=True) if np.isnan(row).all()
    ]
    if undefined:
        logger.warning("No correlation is defined for %r: their means are constant.", undefined)
    return groups, correlation


def _representation(adata: AnnData, use_rep: str | None) -> tuple[Any, str]:
    name = use_rep if use_rep is not None else "latent" if "latent" in adata.obsm else "X"
    if name in adata.obsm:
        rep = adata.obsm[name]
        return (rep.to_numpy() if isinstance(rep, pd.DataFrame) else rep), name
    if name in adata.layers:
        return adata.layers[name], name
    if name != "X" or adata.X is None:
        msg = (
            f"`use_rep` {name!r} is neither in adata.obsm, {list(adata.obsm)!r}, nor in "
            f"adata.layers, {layer_names(adata)!r}, nor 'X'."
        )
        raise KeyError(msg)
    return adata.X, name


def _group_means(matrix: Any, codes: np.ndarray, n_groups: int) -> np.ndarray:
    """Mean of each group's rows, in chunks: sparse stays sparse, files are not read whole."""
    sums = np.zeros((n_groups, matrix.shape[1]))
    for start in range(0, len(codes), CHUNK):
        chunk = codes[start : start + CHUNK]
        rows = matrix[start : start + len(chunk)]
        rows = rows.compute() if hasattr(rows, "compute") else rows
        members = sparse.csr_matrix(
            (np.ones(len(chunk)), (chunk, np.arange(len(chunk)))), shape=(n_groups, len(chunk))
        )
        total = members @ rows
        sums += total.toarray() if sparse.issparse(total) else np.asarray(total)
    return sums / np.bincount(codes, minlength=n_groups)[:, None]


def _mark_batches(axis: Axes, batches: list[Hashable], palette: Colors, fontsize: float) -> None:
    """Draw a strip in the color of its batch beside the types of each batch."""
    scale = axis.figure.dpi_scale_trans
    away = 0.45 * fontsize / 72
    for name, start, stop in _blocks(batches):
        for x, y, transform, shift in (
            ((0, 0), (start, stop), axis.get_yaxis_transform(), (-away, 0)),
            ((start, stop), (0, 0), axis.get_xaxis_transform(), (0, -away)),
        ):
            strip = Line2D(
                x,
                y,
                color=palette[name],
                linewidth=0.6 * fontsize,
                solid_capstyle="butt",
                transform=transform + ScaledTranslation(shift[0], shift[1], scale),
                clip_on=False,
            )
            axis.add_artist(strip)
    axis.tick_params(length=0, pad=0.9 * fontsize)


def _name_batches(axis: Axes, batches: list[Hashable], fontsize: float) -> list[Hashable]:
    """Name batches at the middle of their types; return the names in that order."""
    blocks = _blocks(batches)
    middles = [(start + stop) / 2 for _, start, stop in blocks]
    names = [str(name) for name, _, _ in blocks]
    axis.set_xticks(middles, labels=names, fontsize=fontsize, rotation=45, ha="right")
    axis.set_yticks(middles, labels=names, fontsize=fontsize)
    return [name for name, _, _ in blocks]


def _blocks(batches: list[Hashable]) -> list[tuple[Hashable, int, int]]:
    """Return each batch with the first and the last edge of its types."""
    edges = [0]
    runs = []
    for name, members in groupby(batches):
        edges.append(edges[-1] + len(list(members)))
        runs.append((name, edges[-2], edges[-1]))
    return runs


def _color_labels(labels: Sequence[Text], colors: Sequence[str]) -> None:
    for label, color in zip(labels, colors, strict=True):
        label.set_color(readable(color))
