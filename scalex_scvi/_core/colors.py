"""Colors of names in ``uns``: reading them, and choosing colors for names without one."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from colorsys import rgb_to_hsv

import pandas as pd
from anndata import AnnData
from matplotlib.colors import is_color_like, to_hex, to_rgb

from .columns import as_text

logger = logging.getLogger(__name__)

UNMAPPED = "#808080"
"""Categories that a given mapping of colors leaves out, and cells called unknown."""

UNKNOWN = "unknown"
"""What label transfer calls cells that fit no label."""

Colors = dict[Hashable, str]


def stored_colors(adata: AnnData, key: str) -> Colors:
    """Return the colors in ``uns`` by name: none where they are absent, too few or no colors."""
    stored = adata.uns.get(f"{key}_colors")
    if stored is None or key not in adata.obs or pd.api.types.is_float_dtype(adata.obs[key]):
        return {}
    column = adata.obs[key]
    if pd.api.types.infer_dtype(column, skipna=True).startswith("mixed"):
        categories = as_text(column).categories
    else:
        categories = column.astype("category").cat.categories
    colors = [str(color) for color in stored]
    if len(colors) < len(categories) or not all(is_color_like(color) for color in colors):
        return {}
    return {name: to_hex(color) for name, color in zip(categories, colors, strict=False)}


def join_colors(together: AnnData, sources: Sequence[AnnData], *, but: str) -> None:
    """Keep the colors that the names of columns had in the sources that were put together.

    A name keeps the color of the first source that has one for it, unless a name of an earlier
    source has that color; names without one get another. A warning says where sources differ.

    Parameters
    ----------
    together
        Cells; ``uns`` gets the colors of each column that any source has colors of.
    sources
        What they are of, in order.
    but
        Column with the names of the sources, which is new.
    """
    differing = []
    for key in together.obs.columns.drop(but):
        found = [colors for source in sources if (colors := stored_colors(source, key))]
        if not found or pd.api.types.is_float_dtype(together.obs[key]):
            continue
        categories = list(together.obs[key].astype("category").cat.categories)
        known: Colors = {}
        for colors in found:
            taken = set(known.values())
            known |= {n: c for n, c in colors.items() if n not in known and c not in taken}
        kept = with_new(key, categories, {n: known[n] for n in categories if n in known})
        together.uns[f"{key}_colors"] = [kept[name] for name in categories]
        if any(
            kept.get(name, color) != color for colors in found for name, color in colors.items()
        ):
            differing.append(key)
    if differing:
        logger.warning(
            "The sources have other colors for the same names of obs, or one color for several: "
            "%s. Those of the first source that has a name stay.",
            differing,
        )


def with_new(key: str, categories: Sequence[Hashable], known: Mapping[Hashable, str]) -> Colors:
    """Return the colors of categories: known ones, and for others those that no known name has.

    Parameters
    ----------
    key
        Column of ``obs``, for messages.
    categories
        Names that need a color; ``"unknown"`` is gray.
    known
        Colors by name, also of other names.
    """
    from scanpy.plotting import palettes  # which is slow to load

    known = {name: color for name, color in known.items() if name != UNKNOWN}
    new = [name for name in categories if name not in known and name != UNKNOWN]
    n_names = len(new) + len(known)
    large = [color for color in palettes.default_102 if not _is_pale(color)]
    choices = (palettes.default_20, palettes.default_28, large)
    palette = next((p for p in choices if len(p) >= n_names), large)
    if n_names > len(palette) and new:
        logger.warning("The %d categories of %r share %d colors.", n_names, key, len(palette))
    free = [color for color in palette if color not in known.values()]
    free = free if len(free) >= len(new) else list(palette)
    colors = known | {name: free[i % len(free)] for i, name in enumerate(new)}
    return {name: UNMAPPED if name == UNKNOWN else colors[name] for name in categories}


def _is_pale(color: str) -> bool:
    """Whether cells in this color would look like the gray ones."""
    _, saturation, value = rgb_to_hsv(*to_rgb(color))
    return saturation < 0.25 and value > 0.65
