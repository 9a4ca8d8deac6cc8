"""Legends of categories that stay legible with many of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scalex_scvi._core.colors import Colors

from ._categories import GRAY, used


def margin_legend(
    where: Figure | Axes,
    entries: Sequence[Line2D],
    n_columns: int,
    fontsize: float,
    title: str | None = None,
    *,
    away: float = 0.01,
) -> None:
    """Put a legend to the right of a panel, so many panel widths away, or of a whole figure."""
    place: dict[str, Any] = {"loc": "outside right center"}
    if isinstance(where, Axes):
        place = {"loc": "center left", "bbox_to_anchor": (1 + away, 0.5)}
    where.legend(
        handles=list(entries),
        title=title,
        ncols=n_columns,
        fontsize=fontsize,
        title_fontsize=fontsize + 1,
        frameon=False,
        handletextpad=0.4,
        columnspacing=0.8,
        **place,
    )


def handles(categories: pd.Series, colors: Colors, fontsize: float) -> list[Line2D]:
    """Return an entry for each category that occurs, and "NA" last if some cells have none."""
    entries = [(str(name), colors[name]) for name in used(categories)]
    if categories.isna().any():
        entries.append(("NA", GRAY))
    return [
        Line2D([], [], marker="o", linestyle="", color=color, label=name, markersize=0.7 * fontsize)
        for name, color in entries
    ]


def legend_columns(n_entries: int, height: float, fontsize: float) -> int:
    """Return how many columns a legend needs to fit into a height in inches."""
    rows = max(1, int(height * 72 / (1.65 * fontsize)))
    return max(1, math.ceil(n_entries / rows))


def legend_width(entries: Sequence[Line2D], n_columns: int, fontsize: float) -> float:
    """Return about how many inches a legend takes."""
    longest = max((len(str(entry.get_label())) for entry in entries), default=0)
    return n_columns * (0.55 * longest + 3) * fontsize / 72
