"""True against predicted labels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, f1_score, normalized_mutual_info_score

from scalex_scvi._core.columns import as_text

from ._figure import Save, opened, shown_or_returned
from ._heatmap import heatmap, side

FONTSIZE = 9


def confusion(
    y: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    save: Save = None,
    cmap: str | Colormap = "Blues",
    show: bool | None = None,
    ax: Axes | None = None,
) -> tuple[float, float, float]:
    """Draw which labels true labels were given, and score the agreement.

    Rows are true labels, columns predicted ones, values the share of the row's cells: rows sum to
    1. Both are ordered so that what matches lies on the diagonal; labels without a match come last.

    Parameters
    ----------
    y
        True label of each cell.
    y_pred
        Predicted label or cluster of each cell, in the same order.
    save, show, ax
        See :mod:`scalex_scvi.pl`; the scores are returned whether the figure is shown or not.
    cmap
        Color map.

    Returns
    -------
    F1
        Mean over the true labels of each label's F1 (macro, every label counting alike), in
        [0, 1]. Where ``y`` and ``y_pred`` share a name, names are compared, as text; a true label
        that is never predicted has an F1 of 0, a predicted name that is no true label is wrong.
        Where they share none, as with clusters, each cluster first gets the true label that it
        matches: the one-to-one matching with most cells in agreement
        (:func:`scipy.optimize.linear_sum_assignment`). Cells of clusters that are left over are
        wrong, true labels that are left over have an F1 of 0. Rename clusters if their numbers
        are also the names of true labels.
    NMI
        Normalized mutual information, arithmetic mean, in [0, 1].
    ARI
        Adjusted Rand index, at most 1, 0 by chance.

    Raises
    ------
    ValueError
        If there are no cells, labels are missing, or the two are not of the same cells.

    Notes
    -----
    The published ``plot_confusion`` takes the micro average of F1, which for one label a cell is
    the accuracy, and the columns' shares, and fails before it draws.
    """
    true, predicted = _as_text(y, "y"), _as_text(y_pred, "y_pred")
    _check_same_cells(y, y_pred, true, predicted)
    table = pd.crosstab(true, predicted)
    match = _matches(table)
    table = _on_diagonal(table, match)
    shares = table.div(table.sum(axis=1), axis=0)
    longest = max(len(name) for name in [*table.index, *table.columns]) * 0.6 * FONTSIZE / 72
    width, height = (side(n, FONTSIZE) + longest for n in (table.shape[1], table.shape[0]))
    with opened((width + 1.5, height + 0.5), ax=ax, save=save) as (figure, (axis,)):
        heatmap(
            axis,
            shares.to_numpy(),
            list(table.index),
            list(table.columns),
            fontsize=FONTSIZE,
            cbar_label="share of the true label's cells",
            cmap=cmap,
            vmin=0,
            vmax=1,
        )
        axis.set(xlabel="predicted label", ylabel="true label")
    shown_or_returned(figure, show=show, ax=ax)
    return (
        _macro_f1(true, predicted, match),
        float(normalized_mutual_info_score(true, predicted)),
        float(adjusted_rand_score(true, predicted)),
    )


def _as_text(labels: npt.ArrayLike, argument: str) -> pd.Categorical:
    """Labels as text, with the order that a categorical has, else sorted."""
    if np.ndim(labels) != 1:
        msg = f"`{argument}` must be one column of labels, such as `adata.obs['celltype']`."
        raise ValueError(msg)
    column = pd.Series(labels).reset_index(drop=True)
    n_missing = int(column.isna().sum())
    if n_missing:
        msg = (
            f"`{argument}` is missing for {n_missing} of {len(column)} cells. "
            "Leave them out of `y` and `y_pred`."
        )
        raise ValueError(msg)
    return as_text(column)


def _check_same_cells(
    y: npt.ArrayLike, y_pred: npt.ArrayLike, true: pd.Categorical, predicted: pd.Categorical
) -> None:
    if len(true) != len(predicted) or not len(true):
        msg = f"`y` has {len(true)} cells and `y_pred` {len(predicted)}; needed are the same cells."
        raise ValueError(msg)
    if isinstance(y, pd.Series) and isinstance(y_pred, pd.Series):
        in_order = y.index.equals(y_pred.index)
        if not in_order and y.index.sort_values().equals(y_pred.index.sort_values()):
            msg = "`y` and `y_pred` hold the same cells in different order. Use y_pred[y.index]."
            raise ValueError(msg)


def _matches(table: pd.DataFrame) -> dict[str, str]:
    """Return the predicted label that stands for each true label."""
    shared = [name for name in table.index if name in table.columns]
    if shared:
        return {name: name for name in shared}
    rows, columns = linear_sum_assignment(table.to_numpy(), maximize=True)
    return dict(zip(table.index[rows], table.columns[columns], strict=True))


def _on_diagonal(table: pd.DataFrame, match: dict[str, str]) -> pd.DataFrame:
    """Put matched labels first, in the order of the true ones, and the rest after them."""
    rows = [*match, *(name for name in table.index if name not in match)]
    table = table.loc[rows]
    rest = [name for name in table.columns if name not in match.values()]
    rest.sort(key=lambda name: int(np.argmax(table[name].to_numpy())))
    return table[[*match.values(), *rest]]


def _macro_f1(true: pd.Categorical, predicted: pd.Categorical, match: dict[str, str]) -> float:
    """F1 of the true labels as numbers, after renaming; -1 is what matches none of them."""
    numbers = {name: number for number, name in enumerate(true.categories)}
    renamed = {cluster: numbers[label] for label, cluster in match.items()}
    table = np.array([renamed.get(name, -1) for name in predicted.categories])
    return float(
        f1_score(
            true.codes,
            table[predicted.codes],
            labels=list(numbers.values()),
            average="macro",
            zero_division=0,
        )
    )
