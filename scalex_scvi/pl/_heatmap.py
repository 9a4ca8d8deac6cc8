"""Labeled square heat maps."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes

MANY_VALUES = 10_000
"""From this number of values on they are rasterized in vector files."""


def heatmap(
    axis: Axes,
    values: np.ndarray,
    rows: Sequence[Hashable],
    columns: Sequence[Hashable],
    *,
    fontsize: float,
    cbar_label: str,
    **kwargs: Any,
) -> None:
    """Draw a heat map with one label for each row and column; NaN stays blank.

    Parameters
    ----------
    axis
        Where to draw.
    values
        Rows × columns.
    rows, columns
        Labels; none are drawn where the sequence is empty.
    fontsize
        Of labels and values, points.
    cbar_label
        What the colors mean.
    kwargs
        Arguments of :func:`seaborn.heatmap`.
    """
    height = axis.get_position().height * axis.figure.figure.get_figheight()
    with _undrawn(axis.figure.figure):
        sns.heatmap(
            values,
            ax=axis,
            xticklabels=[str(name) for name in columns],
            yticklabels=[str(name) for name in rows],
            square=True,
            fmt=".2f",
            annot_kws={"fontsize": 0.85 * fontsize},
            cbar_kws={"label": cbar_label, "shrink": min(0.8, 2.5 / height), "aspect": 15},
            rasterized=values.size > MANY_VALUES,
            **kwargs,
        )
    turn: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    if len(columns) > 25:
        turn = {"rotation": 90, "ha": "right", "va": "center", "rotation_mode": "anchor"}
    axis.set_xticklabels(axis.get_xticklabels(), fontsize=fontsize, **turn)
    axis.set_yticklabels(axis.get_yticklabels(), fontsize=fontsize, rotation=0)
    for bar in [c.colorbar for c in axis.collections if c.colorbar is not None]:
        bar.ax.tick_params(labelsize=fontsize)
        bar.set_label(cbar_label, fontsize=fontsize)
    axis.set_anchor("E")  # beside its bar
    axis.grid(False)


@contextmanager
def _undrawn(figure: Artist) -> Iterator[None]:
    """Draw nothing: seaborn would draw all, to see whether labels overlap, which are turned here.

    It took a quarter of the time of a picture, or more.
    """
    was_visible = figure.get_visible()
    figure.set_visible(False)
    try:
        yield
    finally:
        figure.set_visible(was_visible)


def side(n_labels: int, fontsize: float, *, annot: bool = False) -> float:
    """Return the inches that the labels of a heat map need."""
    pitch = max(1.6 * fontsize / 72, 2.2 * fontsize / 72 if annot else 0)
    return min(max(2.5, pitch * n_labels), 20)
