"""Which color a name has: the same in all pictures of the same cells."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence

import pandas as pd
from anndata import AnnData

from scalex_scvi._core.colors import UNMAPPED, Colors, stored_colors, with_new

from ._categories import categories_of

TRANSFERRED = ("_transfer", "_voted")
"""What the name of a column of transferred labels ends in."""

GivenColors = Mapping[Hashable, str] | Sequence[str] | None


def store_colors(
    adata: AnnData, color: str | Sequence[str], *, like: Sequence[AnnData] = ()
) -> None:
    """Choose the colors of columns, and write them where scanpy and this package look for them.

    A name keeps the color that it has in ``adata.uns``, else in ``like``; a transferred label
    (column ``"celltype_transfer"``) also the one that it has in the column that it comes from
    (``"celltype"``). Other names get colors that no known name has, so that a query with some of
    the reference's labels and some others can be drawn beside the reference. ``"unknown"`` is
    gray.

    Parameters
    ----------
    adata
        Cells; ``uns[f"{column}_colors"]`` is written for each column.
    color
        Columns of ``obs``. Continuous columns are skipped.
    like
        Other cells whose colors in ``uns`` are used for the same columns; the first that has a
        color for a name decides.

    Raises
    ------
    KeyError
        If a column is absent.

    Examples
    --------
    >>> import scalex_scvi as sx
    >>> sx.pl.store_colors(adata, "celltype")
    >>> sx.pl.store_colors(query, "celltype", like=[adata])
    """
    for key in [color] if isinstance(color, str) else color:
        if key in adata.obs and pd.api.types.is_float_dtype(adata.obs[key]):
            continue
        categories = categories_of(adata, key, "color").cat.categories
        colors = colors_of(adata, key, categories, like=like)
        adata.uns[f"{key}_colors"] = [colors[name] for name in categories]


def colors_of(
    adata: AnnData,
    key: str,
    categories: pd.Index,
    *,
    given: GivenColors = None,
    shared: Colors | None = None,
    like: Sequence[AnnData] = (),
) -> Colors:
    """Give each category of a column a color.

    Parameters
    ----------
    adata
        Cells whose ``uns`` may hold ``f"{key}_colors"``.
    key
        Column of ``obs``.
    categories
        Names that need a color: those of the column, and others.
    given
        Colors by category (others are dark gray), or in the order of the categories.
    shared
        Colors of names in other panels, kept where nothing is known of the column.
    like
        Other cells whose ``uns`` may hold colors of the column.

    Raises
    ------
    ValueError
        If fewer colors than categories are given.
    """
    if isinstance(given, Mapping):
        return {name: given.get(name, UNMAPPED) for name in categories}
    if given is not None:
        if isinstance(given, str) or len(given) < len(categories):
            msg = f"{len(categories)} colors are needed for {key!r}, got {given!r}."
            raise ValueError(msg)
        return dict(zip(categories, given, strict=False))
    known = _known(adata, key, like)
    known |= {n: c for n, c in (shared or {}).items() if n in categories and n not in known}
    return with_new(key, categories, known)


def _known(adata: AnnData, key: str, like: Sequence[AnnData]) -> Colors:
    """Colors that names of a column have already."""
    known = stored_colors(adata, key)
    for found in _found_elsewhere(adata, key, like):
        taken = set(known.values())
        known |= {n: c for n, c in found.items() if n not in known and c not in taken}
    return known


def _found_elsewhere(adata: AnnData, key: str, like: Sequence[AnnData]) -> Iterator[Colors]:
    yield from (stored_colors(other, key) for other in like)
    source = source_of(key)
    if source is None:
        return
    if source in adata.obs and not pd.api.types.is_float_dtype(adata.obs[source]):
        categories = categories_of(adata, source, "color").cat.categories
        yield colors_of(adata, source, categories, like=like)
    yield from (stored_colors(other, source) for other in like)


def source_of(key: str) -> str | None:
    """Return the column of labels that transferred ones come from."""
    end = next((end for end in TRANSFERRED if key.endswith(end)), None)
    return None if end is None else key.removesuffix(end)
