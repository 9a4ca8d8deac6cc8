"""The table of scib-metrics as a picture."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine


def draw_scores(table: pd.DataFrame, kinds: pd.Series) -> Figure:
    """Draw scores as a heat map whose colors mean the same in every column.

    scib-metrics' own picture colors each column by its spread over the embeddings, so 0.99 and
    1.00 look as far apart as 0 and 1, and prints some values in the color of their background.

    Parameters
    ----------
    table
        Embeddings × scores.
    kinds
        Kind of each column; columns of one kind are adjacent and get a common heading.
    """
    # Not at the top: it is slow to import and needed here only.
    import seaborn as sns

    n_rows, n_columns = table.shape
    longest = max(len(str(name)) for name in table.index)
    figure = Figure(
        figsize=(2.2 + 0.09 * longest + 0.72 * n_columns, 1.9 + 0.45 * n_rows),
        layout=ConstrainedLayoutEngine(h_pad=0.1),
    )
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    sns.heatmap(
        table.rename(columns=lambda name: name.replace(" ", "\n", 1)),
        ax=axis,
        vmin=0,
        vmax=1,
        cmap="viridis",
        annot=True,
        fmt=".2f",
        linewidths=1,
        cbar_kws={"label": "score", "pad": 0.01, "aspect": 12},
    )
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.tick_params(axis="x", rotation=0, labelsize=8)
    axis.tick_params(axis="y", rotation=0)
    axis.set(xlabel="", ylabel="")
    _head_groups(axis, kinds.loc[table.columns])
    return figure


def _head_groups(axis: Axes, kinds: pd.Series) -> None:
    start = 0
    for kind, members in kinds.groupby(kinds, sort=False):
        end = start + len(members)
        axis.annotate(
            kind,
            ((start + end) / 2, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 30),
            textcoords="offset points",
            ha="center",
            weight="bold",
        )
        if start:
            axis.axvline(start, color="white", linewidth=8)
        start = end
