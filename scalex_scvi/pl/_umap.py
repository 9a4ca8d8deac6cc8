"""Cells in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import scanpy as sc
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def umap(
    adata: AnnData, color: str | Sequence[str], *, basis: str = "X_umap", show: bool = False
) -> Figure:
    """Draw cells side by side, one panel for each column of ``obs``.

    Parameters
    ----------
    adata
        Cells with ``obsm[basis]``. It is not changed.
    color
        Columns of ``obs``, categorical.
    basis
        Key in ``obsm``.
    show
        Whether to show the figure.

    Raises
    ------
    KeyError
        If a column or the basis is absent.
    """
    columns = [color] if isinstance(color, str) else list(color)
    _check(adata, columns, basis)
    figure, axes = _panels(len(columns))
    bare = _bare(adata, columns, basis)
    for column, axis in zip(columns, axes, strict=True):
        _draw(bare, column, basis, axis, title=column, size=_size(adata.n_obs))
    return _finish(figure, show)


def projection(
    adata: AnnData,
    color: str | Sequence[str],
    *,
    key: str = "projection",
    basis: str = "X_umap",
    show: bool = False,
) -> Figure:
    """Draw the query in colour over a grey reference, one panel for each column of ``obs``.

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
    show
        Whether to show the figure.

    Raises
    ------
    KeyError
        If a column or the basis is absent.
    """
    columns = [color] if isinstance(color, str) else list(color)
    _check(adata, [*columns, key], basis)
    figure, axes = _panels(len(columns))
    is_query = (adata.obs[key] == "query").to_numpy()
    grey = np.asarray(adata.obsm[basis])[~is_query]
    size = _size(adata.n_obs)
    query = _bare(adata[is_query], columns, basis)
    palette = _shared_palette(query, columns)
    for column, axis in zip(columns, axes, strict=True):
        axis.scatter(grey[:, 0], grey[:, 1], s=size, c="#dcdcdc", marker=".", linewidths=0)
        _draw(query, column, basis, axis, title=f"query: {column}", size=size, palette=palette)
    return _finish(figure, show)


def _panels(n_panels: int) -> tuple[Figure, list[Axes]]:
    figure, axes = plt.subplots(
        1, n_panels, figsize=(5.2 * n_panels, 4), squeeze=False, layout="constrained"
    )
    return figure, list(axes[0])


def _check(adata: AnnData, columns: list[str], basis: str) -> None:
    if basis not in adata.obsm:
        msg = f"`basis` {basis!r} is not in adata.obsm: {list(adata.obsm)!r}."
        raise KeyError(msg)
    for column in columns:
        if column not in adata.obs:
            msg = f"`color` {column!r} is not a column of adata.obs: {list(adata.obs.columns)!r}."
            raise KeyError(msg)


def _bare(adata: AnnData, columns: list[str], basis: str) -> AnnData:
    """Only what is drawn: scanpy writes colours into ``uns`` of what it draws."""
    colors = {
        f"{column}_colors": adata.uns[f"{column}_colors"]
        for column in columns
        if f"{column}_colors" in adata.uns
    }
    return AnnData(
        obs=adata.obs[columns].astype(str).astype("category"),
        obsm={basis: np.asarray(adata.obsm[basis])},
        uns=colors,
    )


def _size(n_obs: int) -> float:
    return 60_000 / max(n_obs, 1000)


def _shared_palette(adata: AnnData, columns: list[str]) -> dict[str, str]:
    """One colour for a name in all panels, so that true and transferred labels compare."""
    names = sorted({name for column in columns for name in adata.obs[column].cat.categories})
    for palette in (sc.pl.palettes.default_20, sc.pl.palettes.default_102):
        if len(names) <= len(palette):
            break
    return dict(zip(names, cycle(palette), strict=False))


def _draw(
    adata: AnnData,
    column: str,
    basis: str,
    axis: Axes,
    *,
    title: str,
    size: float,
    palette: dict[str, str] | None = None,
) -> None:
    if palette is not None:
        palette = {name: palette[name] for name in adata.obs[column].cat.categories}
    sc.pl.embedding(
        adata,
        basis=basis,
        color=column,
        palette=palette,
        ax=axis,
        show=False,
        title=title,
        size=size,
        legend_fontsize=8,
    )
    axis.set(xlabel="UMAP 1", ylabel="UMAP 2")


def _finish(figure: Figure, show: bool) -> Figure:
    plt.close(figure)
    if show:
        figure.show()
    return figure
