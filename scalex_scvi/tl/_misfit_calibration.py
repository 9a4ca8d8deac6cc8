"""What the misfits of a query are compared with: those of held-out batches, made comparable.

Held-out batches show how large the misfits of cells with known labels are in a new batch (the
threshold) and, with single labels removed, which measure finds cells of absent types best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ._group_fits import GroupStandard
from ._held_out import BASELINE_QUANTILE, HeldOutBatch, baseline_of, hold_out
from ._labeled_cells import LabeledCells, centered, unit
from ._misfit_weights import PRIOR_WEIGHTS, learned_weights
from ._misfits import FLOORS

PRIOR_CELLS = 20
"""Weight, in cells, of the median baseline of held-out batches in the baseline of a query batch: a
batch of few cells says little of its own baseline."""

MARGINS = (0.1, 0.05, 0.05)
"""Smallest difference from the baseline that counts as a misfit, for each measure. Where the known
cells of a reference hardly scatter, smaller differences would otherwise look large."""

USUAL_MISFIT, PER_LABEL = 0.4, 0.15
"""Typical 0.95 quantile of the correlation measure (logarithm, above the baseline) of known cells
of a new batch, over many data sets, and how much of it each label after the first adds. Where a
reference has no batches to hold out, what its two halves show is averaged with this."""


@dataclass(frozen=True, eq=False)
class MisfitCalibration:
    """What the misfits of a query are compared with: those of held-out cells of known labels.

    Attributes
    ----------
    known
        Misfits (weighted sum of the measures, above the baseline) of held-out cells whose label
        other batches have, ascending. 1 is about their 0.95 quantile.
    weights
        Weight of each measure in that sum.
    typical, highest
        Median baseline of the held-out batches for each measure, and the highest baseline that is
        taken for that of a query batch.
    """

    known: np.ndarray
    weights: np.ndarray
    typical: np.ndarray
    highest: np.ndarray

    @classmethod
    def for_sizes(
        cls, ref: LabeledCells, sizes: Sequence[int], *, learns: bool
    ) -> dict[int, MisfitCalibration]:
        """Hold out each batch of a reference, and summarize what they show for each of ``sizes``.

        Parameters
        ----------
        ref
            Labeled cells of the reference.
        sizes
            Numbers of neighbors that a cell is averaged with.
        learns
            Whether the weights of the measures are learned: only where the batches are real ones,
            not random halves (:func:`pseudo_batches`).

        Raises
        ------
        ValueError
            If no label has cells in two batches or halves.
        """
        if not ref.in_several.any():
            n_labels, n_cells = len(ref.in_several), len(ref.codes)
            msg = (
                f"No label of the reference ({n_labels} labels of {n_cells} cells) has cells in "
                "two of its parts, so that none can be held out to tell which cells are unknown. "
                "Give labels of several cells each, or take "
                "`label_transfer` or `label_scores` with `novelty='latent'`."
            )
            raise ValueError(msg)
        between_labels = _distance_between_labels(ref)
        return {
            size: cls._of_batches(held_out, between_labels, learns=learns)
            for size, held_out in zip(sizes, hold_out(ref, sizes), strict=True)
        }

    @classmethod
    def _of_batches(
        cls, held_out: Sequence[HeldOutBatch], between_labels: float, *, learns: bool
    ) -> MisfitCalibration:
        known = np.concatenate([batch.misfits[batch.known] for batch in held_out])
        median, high = np.quantile(known, (BASELINE_QUANTILE, 0.95), axis=0)
        spread = np.maximum(high - median, MARGINS)
        weights = np.array(PRIOR_WEIGHTS)
        if learns:
            weights = learned_weights([b for b in held_out if b.without], spread)
        weights = weights / weights.sum() / spread
        baselines = np.stack([batch.baseline for batch in held_out])
        highest = baselines.max(axis=0)
        highest[0] = max(highest[0], between_labels)
        # Differences below MARGINS do not count, see there.
        by_batch = [
            np.maximum(batch.misfits[batch.known] @ weights, weights @ MARGINS)
            for batch in held_out
        ]
        if learns:
            known = np.concatenate(as_one_batch(by_batch))
        else:
            n_labels = len(np.unique(np.concatenate([batch.codes for batch in held_out])))
            known = as_new_batch(np.concatenate(by_batch), weights, n_labels)
        return cls(np.sort(known), weights, np.median(baselines, axis=0), highest)

    def relative(self, found: np.ndarray, *, nothing_known: bool) -> np.ndarray:
        """Weighted sum of the measures of each cell of a batch, above the batch's baseline.

        The baseline of a small batch is averaged with the typical one. It is capped at the highest
        of the held-out batches (for the correlation: or the median distance between the means of
        nearest labels, if that is higher): without the cap, a query batch in which no cell is of a
        known type would get a baseline so high that its cells seemed to fit. The baseline of a
        batch that no label fits says nothing: it gets the typical one.
        """
        weight = 0.0 if nothing_known else len(found) / (len(found) + PRIOR_CELLS)
        baseline = weight * baseline_of(found) + (1 - weight) * self.typical
        return (found - np.minimum(baseline, self.highest)) @ self.weights


@dataclass(frozen=True, eq=False)
class Standards:
    """What the batches of a query are compared with.

    Attributes
    ----------
    misfits
        Of held-out cells, by the number of neighbors that a cell is averaged with.
    groups
        Of held-out groups; ``None`` where these are no real batches, or too few: then what is
        usual counts (:meth:`._group_fits.GroupStandard.usual`).
    """

    misfits: Mapping[int, MisfitCalibration]
    groups: GroupStandard | None

    @classmethod
    def of(cls, ref: LabeledCells, sizes: Sequence[int], *, learns: bool) -> Standards:
        """Hold out each batch of a reference: see :meth:`MisfitCalibration.for_sizes`."""
        misfits = MisfitCalibration.for_sizes(ref, sizes, learns=learns)
        return cls(misfits, GroupStandard.of(ref) if learns else None)


def as_one_batch(by_batch: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Rescale the misfits of each held-out batch so that all have one expected 0.95 quantile.

    A query is a new batch, and the 0.95 quantile of known cells differs from batch to batch: two
    held-out batches are two observations of it, however many cells they have. So the expected
    quantile is the mean over the batches, each with the same weight, times 1 + 1 / n² for n
    batches, since a new batch may lie beyond those that were seen.

    Parameters
    ----------
    by_batch
        Positive misfits of the known cells of each batch.

    Returns
    -------
    The rescaled misfits of each batch.
    """
    highs = np.array([np.quantile(misfits, 0.95) for misfits in by_batch])
    expected = highs.mean() * (1 + 1 / len(highs) ** 2)
    return [misfits * expected / high for misfits, high in zip(by_batch, highs, strict=True)]


def as_new_batch(known: np.ndarray, weights: np.ndarray, n_labels: int) -> np.ndarray:
    """Rescale the misfits of two random halves of a reference to those expected of a new batch.

    Two halves do not show how a new batch changes one type but not another. So the 0.95 quantile
    of their misfits is averaged (geometric mean) with a typical one: :data:`PER_LABEL` for each
    label after the first, at most :data:`USUAL_MISFIT`. It grows with the number of labels because
    the offset of a batch, which is subtracted before, takes away what all its labels have in
    common.

    Parameters
    ----------
    known
        Positive misfits of held-out cells.
    weights
        Weights of the measures; that of the correlation is not 0.
    n_labels
        Number of labels of the reference.

    Returns
    -------
    The rescaled misfits.
    """
    usual = weights[0] * min(PER_LABEL * max(n_labels - 1, 1), USUAL_MISFIT)
    rank = min(math.ceil(0.95 * (len(known) + 1)), len(known))  # beyond it, p-values are below 0.05
    return known * np.sqrt(usual / np.sort(known)[rank - 1])


def _distance_between_labels(ref: LabeledCells) -> float:
    """Median correlation distance (logarithm) of the mean of a label from the nearest other one."""
    rows = unit(centered(ref.label_means()))
    between = 1 - rows @ rows.T
    np.fill_diagonal(between, np.inf)
    nearest = between.min(axis=1)
    if len(nearest) < 2:
        return -np.inf
    return float(np.log(max(np.median(nearest), 0) + FLOORS[0]))
