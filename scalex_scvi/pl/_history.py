"""Training losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ._figure import Save, opened, shown_or_returned

if TYPE_CHECKING:
    from scalex_scvi.model import SCALEXModel

LOSSES = {
    "train_loss": ("training loss", "black", "-"),
    "reconstruction_loss_train": ("reconstruction", "#1f77b4", "--"),
}
KL = ("kl_local_train", "KL divergence (right axis)", "#d62728")


def history(
    model_or_history: SCALEXModel | Mapping[str, pd.DataFrame],
    save: Save = None,
    show: bool | None = None,
    ax: Axes | None = None,
) -> Figure | None:
    """Draw the losses of a training over its epochs.

    Training loss and reconstruction (binary cross-entropy summed over genes, mean over cells) on
    the left axis; the Kullback-Leibler divergence (summed over latent dimensions, mean over cells,
    before its weight of 0.5), smaller by far, on a right one.

    Parameters
    ----------
    model_or_history
        A trained model, or its ``history``: data frames with one row for each epoch.
    save, show, ax
        See :mod:`scalex_scvi.pl`.

    Returns
    -------
    The figure, or ``None`` if it is shown.

    Raises
    ------
    ValueError
        If there was no training.
    KeyError
        If a loss is not in the history.
    """
    losses = {name: _loss(model_or_history, name) for name in (*LOSSES, KL[0])}
    with opened((6, 4), ax=ax, save=save) as (figure, (left,)):
        right = left.twinx()
        for name, (label, color, style) in LOSSES.items():
            _draw(left, losses[name], label, color, style)
        _draw(right, losses[KL[0]], KL[1], KL[2], "-")
        left.set(xlabel="epoch", ylabel="loss per cell")
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        right.set_ylabel("KL divergence", color=KL[2])
        right.tick_params(axis="y", labelcolor=KL[2])
        right.grid(False)
        lines = [*left.get_lines(), *right.get_lines()]
        right.legend(handles=lines, loc="upper right", fontsize=8)
    return shown_or_returned(figure, show=show, ax=ax)


def _loss(model_or_history: SCALEXModel | Mapping[str, pd.DataFrame], name: str) -> pd.Series:
    is_mapping = isinstance(model_or_history, Mapping)
    found = model_or_history if is_mapping else getattr(model_or_history, "history", None)
    if not found:
        msg = "There is no history of a training. Call `model.train()` first."
        raise ValueError(msg)
    if name not in found:
        msg = f"{name!r} is not in the history, which holds {list(found)!r}."
        raise KeyError(msg)
    return found[name].iloc[:, 0].astype(float)


def _draw(axis: Axes, losses: pd.Series, label: str, color: str, style: str) -> None:
    marker = "." if len(losses) <= 30 else ""
    axis.plot(losses.index, losses, style, label=label, color=color, marker=marker)
