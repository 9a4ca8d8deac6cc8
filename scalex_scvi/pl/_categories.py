"""Columns of ``obs`` as categories, and their colors."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from colorsys import hls_to_rgb, rgb_to_hls, rgb_to_hsv

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from matplotlib.colors import is_color_like, to_hex, to_rgb

from scalex_scvi._core.columns import as_text

logger = logging.getLogger(__name__)

GRAY = "#dcdcdc"
"""Cells that are not meant, and cells without a category."""

UNMAPPED = "#808080"
"""Categories that a given mapping of colors leaves out, and cells called unknown."""

UNKNOWN = "unknown"
"""What label transfer calls cells that fit no label."""

READABLE_CONTRAST = 3.0
"""Least contrast with white of colored letters (WCAG 2.2 asks 3 of large or decorative text)."""

Colors = dict[Hashable, str]
GivenColors = Mapping[Hashable, str] | Sequence[str] | None


def categories_of(adata: AnnData, key: str, argument: str) -> pd.Series:
    """Return a column of ``obs`` as a new categorical series with the categories it had.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If it holds fractions, which are no categories.
    """
    if key not in adata.obs:
        msg = f"`{argument}` {key!r} is not a column of adata.obs: {list(adata.obs.columns)!r}."
        raise KeyError(msg)
    column = adata.obs[key]
    if pd.api.types.is_float_dtype(column):
        msg = (
            f"`{argument}` {key!r} holds continuous values; this plot needs categories. "
            "scanpy.pl.embedding draws continuous values."
        )
        raise ValueError(msg)
    if pd.api.types.infer_dtype(column, skipna=True).startswith("mixed"):
        return pd.Series(as_text(column), index=column.index, name=key)
    return column.astype("category")


def used(categories: pd.Series) -> list[Hashable]:
    """Return the categories that occur, in their order."""
    return list(categories.cat.remove_unused_categories().cat.categories)


def colors_of(
    adata: AnnData,
    key: str,
    categories: pd.Index,
    *,
    given: GivenColors = None,
    shared: Colors | None = None,
) -> Colors:
    """Give each category of a column a color.

    Parameters
    ----------
    adata
        Cells whose ``uns`` may hold ``f"{key}_colors"``.
    key
        Column of ``obs``.
    categories
        Its categories, unused ones too: colors in ``uns`` are in their order.
    given
        Colors by category (others are dark gray), or in the order of the categories.
    shared
        Colors of names in other panels, kept where ``uns`` says nothing.

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
    stored = stored_colors(adata, key, categories)
    if stored is not None:
        return stored
    return _default_colors(key, categories, shared or {})


def stored_colors(adata: AnnData, key: str, categories: pd.Index) -> Colors | None:
    """Return the colors in ``uns``, or ``None`` where they are absent, too few or no colors."""
    stored = adata.uns.get(f"{key}_colors")
    if stored is None or len(stored) < len(categories):
        return None
    colors = [str(color) for color in stored]
    if not all(is_color_like(color) for color in colors):
        return None
    return dict(zip(categories, colors, strict=False))


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


def _is_pale(color: str) -> bool:
    """Whether cells in this color would look like the gray ones."""
    _, saturation, value = rgb_to_hsv(*to_rgb(color))
    return saturation < 0.25 and value > 0.65


def _default_colors(key: str, categories: pd.Index, shared: Colors) -> Colors:
    kept = {name: shared[name] for name in categories if name in shared}
    kept |= {name: UNMAPPED for name in categories if name == UNKNOWN}
    large = [color for color in sc.pl.palettes.default_102 if not _is_pale(color)]
    palettes = (sc.pl.palettes.default_20, sc.pl.palettes.default_28, large)
    palette = next((p for p in palettes if len(p) >= len(categories)), large)
    if len(categories) > len(palette):
        logger.warning(
            "The %d categories of %r share %d colors.", len(categories), key, len(palette)
        )
    new = [name for name in categories if name not in kept]
    free = [color for color in palette if color not in kept.values()]
    free = free if len(free) >= len(new) else list(palette)
    return kept | {name: free[i % len(free)] for i, name in enumerate(new)}
