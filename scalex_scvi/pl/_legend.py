"""Legends of categories that stay legible with many of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from ._categories import GREY, Colors, used

RIGHT_MARGIN = "right margin"
ON_DATA = "on data"


@dataclass(frozen=True)
class LegendStyle:
    """Where the legend of each panel is, and its letters.

    Raises
    ------
    ValueError
        If the place is unknown.
    """

    loc: str | None
    fontsize: float
    fontweight: str | int

    def __post_init__(self) -> None:
        known = [RIGHT_MARGIN, ON_DATA, "none", *Legend.codes]
        if self.loc is not None and self.loc not in known:
            msg = f"`legend_loc` must be None or one of {known!r}, got {self.loc!r}."
            raise ValueError(msg)

    def draw_in_panel(
        self, axis: Axes, points: np.ndarray, categories: pd.Series, colors: Colors
    ) -> None:
        """Name the categories inside a panel, if that is their place."""
        if self.loc == ON_DATA:
            self._names_on_data(axis, points, categories)
        elif self.loc in Legend.codes:
            entries = handles(categories, colors, self.fontsize)
            height = axis.get_position().height * axis.figure.figure.get_figheight()
            n_columns = legend_columns(len(entries), height, self.fontsize)
            look = _look(n_columns, self.fontsize)
            axis.legend(handles=entries, **({"loc": self.loc} | look))

    def _names_on_data(self, axis: Axes, points: np.ndarray, categories: pd.Series) -> None:
        outline = [patheffects.withStroke(linewidth=2, foreground="white")]
        for name in used(categories):
            x, y = np.median(points[(categories == name).to_numpy()], axis=0)
            axis.text(
                x,
                y,
                str(name),
                fontsize=self.fontsize,
                fontweight=self.fontweight,
                ha="center",
                va="center",
                path_effects=outline,
            )


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
    where.legend(handles=list(entries), title=title, **place, **_look(n_columns, fontsize))


def handles(categories: pd.Series, colors: Colors, fontsize: float) -> list[Line2D]:
    """Return an entry for each category that occurs, and "NA" last if some cells have none."""
    entries = [(str(name), colors[name]) for name in used(categories)]
    if categories.isna().any():
        entries.append(("NA", GREY))
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


def _look(n_columns: int, fontsize: float) -> dict[str, Any]:
    return {
        "ncols": n_columns,
        "fontsize": fontsize,
        "title_fontsize": fontsize + 1,
        "frameon": False,
        "handletextpad": 0.4,
        "columnspacing": 0.8,
    }
