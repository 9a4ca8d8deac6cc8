"""Columns of ``obs`` as categories, and shades of their colors."""

from __future__ import annotations

from collections.abc import Hashable
from colorsys import hls_to_rgb, rgb_to_hls

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.colors import to_hex, to_rgb

from scalex_scvi._core.columns import as_text, one_column
from scalex_scvi._core.keys import own_keys

GRAY = "#dcdcdc"
"""Color of background cells, and of cells without a category."""

READABLE_CONTRAST = 3.0
"""Least contrast with white of colored letters (WCAG 2.2 asks 3 of large or decorative text)."""


def categories_of(adata: AnnData, key: str, argument: str) -> pd.Series:
    """Return a column of ``obs`` as a new categorical series with the categories it had.

    Raises
    ------
    KeyError
        If there is no such column.
    TypeError
        For several columns.
    ValueError
        If it holds fractions, which are no categories, or there are several of the name.
    """
    if not isinstance(key, Hashable):
        msg = f"`{argument}` is {key!r}: this plot has one column of adata.obs at a time."
        raise TypeError(msg)
    if key not in adata.obs:
        msg = f"`{argument}` {key!r} is not a column of adata.obs: {own_keys(adata.obs)!r}."
        raise KeyError(msg)
    column = one_column(adata.obs, key)
    if pd.api.types.is_float_dtype(column):
        msg = (
            f"`{argument}` {key!r} holds continuous values; this plot needs categories. If its "
            f"numbers are groups: `adata.obs[{key!r}] = adata.obs[{key!r}].astype('category')`. "
            "scanpy.pl.embedding draws continuous values."
        )
        raise ValueError(msg)
    if pd.api.types.infer_dtype(column, skipna=True).startswith("mixed"):
        return pd.Series(as_text(column), index=column.index, name=key)
    return column.astype("category")


def used(categories: pd.Series) -> list[Hashable]:
    """Return the categories that occur, in their order."""
    return list(categories.cat.remove_unused_categories().cat.categories)


def readable(color: str) -> str:
    """Return a color dark enough for letters on white, of the same hue."""
    hue, lightness, saturation = rgb_to_hls(*to_rgb(color))
    while _contrast_with_white(color) < READABLE_CONTRAST:
        lightness *= 0.95
        # Clipped: some versions of Python (3.11.2) round a little above 1.
        red, green, blue = (min(part, 1.0) for part in hls_to_rgb(hue, lightness, saturation))
        color = to_hex((red, green, blue))
    return color


def _contrast_with_white(color: str) -> float:
    """Contrast ratio of the Web Content Accessibility Guidelines, 1 to 21."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return 1.05 / (0.05 + float(linear @ [0.2126, 0.7152, 0.0722]))


def pale(color: str) -> str:
    """Return the color of background cells: two fifths of it, the rest white."""
    red, green, blue = (0.4 * part + 0.6 for part in to_rgb(color))
    return to_hex((red, green, blue))
