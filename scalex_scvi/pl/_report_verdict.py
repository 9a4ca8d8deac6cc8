"""Whether a training was long enough, in plain words for the head of a report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ._report_run import Run
from ._report_tables import PURITY

FELL = 0.05
"""Cell-type purity that falls by more is a verdict. Trainings of 2 000 to 5 700 minibatches of 64
changed it by -0.03 to +0.03 on four public sets, of 1 000 of 128 by -0.03 to +0.04; those of a
hundred or three hundred took 0.01 to 0.20 of it."""

STILL_FALLING = 0.015
"""A loss that falls by a larger share of itself in the second half of a training is a verdict.
In trainings of 2 000 to 5 700 minibatches of 64 it fell there by 0.002 to 0.003, of 1 000 of 128,
which are the shortest by default, by 0.006 to 0.010, and by 0.012 to 0.038 in a hundred to four
hundred: a verdict means much, none means little."""

FEWEST_EPOCHS = 4
"""Of fewer, no half can be told from the other."""


def training_verdict(run: Run, scores: Sequence[dict[str, str]]) -> dict[str, str] | None:
    """Return what a training lacks, ``None`` if nothing shows that it was too short.

    Parameters
    ----------
    run
        An integration; in a projection nothing was trained.
    scores
        The table of scores, of which the cell-type purity is read.

    Returns
    -------
    ``"verdict"``, and the figures that it is by, ``"reason"``.
    """
    if run.is_query is not None:
        return None
    purity, fall = _purity(scores), _late_fall(run)
    fell = purity is not None and purity[0] - purity[1] > FELL
    falling = fall is not None and fall > STILL_FALLING
    reasons = []
    if fell:
        assert purity is not None
        reasons.append(
            "The share of a cell's 30 neighbors that are of its own type fell from "
            f"{purity[0]:.2f} before the integration to {purity[1]:.2f}."
        )
    if falling:
        reasons.append(
            f"The loss was still falling: by {fall:.1%} in the second half of the training, where "
            f"{STILL_FALLING:.1%} or less is usual."
        )
    if not reasons:
        return None
    if fell and not falling:
        reasons.append(
            "If a longer training changes nothing, types of single batches were pulled onto each "
            "other: alignment_weight=0 (--alignment-weight 0) prevents it."
        )
        verdict = "Types are separated worse than before. Train longer (max_steps, --max-steps)."
    else:
        verdict = "Train longer (max_steps, --max-steps)."
    return {"verdict": verdict, "reason": " ".join(reasons)}


def _purity(scores: Sequence[dict[str, str]]) -> tuple[float, float] | None:
    """Cell-type purity before and after, where both are known."""
    row = next((row for row in scores if row["name"] == PURITY), None)
    if row is None or not row["before"]:
        return None
    return float(row["before"]), float(row["after"])


def _late_fall(run: Run) -> float | None:
    """By which share of itself the loss fell in the second half of the epochs.

    Compared are means over a tenth of the epochs, since single ones go up and down.
    """
    history = getattr(run.model, "history", None)
    if not history or "train_loss" not in history:
        return None
    losses = history["train_loss"].iloc[:, 0].astype(float).to_numpy()
    if len(losses) < FEWEST_EPOCHS or not np.isfinite(losses).all():
        return None
    width, middle = max(len(losses) // 10, 1), len(losses) // 2
    start = losses[middle:][:width].mean()
    end = losses[-width:].mean()
    return float((start - end) / abs(end)) if end else None
