"""Whether a query batch has any cells of types that the reference has.

Single cells are judged after the offset of their batch is taken off (:mod:`._misfits`). In a batch
of nothing known, this offset is what tells its types from those of the reference, and without it
they would seem to fit. So the cells that each label is given to are first compared with it as a
group, as they are: a mean of many cells has little noise, so that even types that lie near each
other differ. How far the groups of a new batch lie off is known from the batches of the reference,
each held out once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.utils.extmath import row_norms

from ._labeled_cells import LabeledCells, centered, unit

MIN_CELLS = 15
"""Fewest cells of a group: what is made up for noise is itself uncertain for fewer."""

MOST_FITTING = 0.1
"""Largest share of the cells of a batch of nothing known that are in groups which fit: a few cells
of each type are given to labels that happen to be near."""

LEAST_APART = 0.5
"""Smallest share of these cells in groups that still differ after what all groups have in common is
subtracted: where the groups of a batch are moved alike, it is the batch that is odd."""

LEVEL = 0.05
"""Share of held-out groups that are beyond the highest misfit of groups of known types."""

FLOOR = 0.01
"""Added to correlation distances before logarithms: ratios of smaller ones are noise."""

LEAST_SIGNAL = 0.05
"""Smallest share of the variance of a mean, over genes, that is taken for signal."""

USUAL_ALIKE = 0.42
"""Correlation that groups of known types have with their label in a new batch, over many data sets,
after the mean of all labels is taken off both. A group of one type more seldom has less."""


@dataclass(frozen=True, eq=False)
class Groups:
    """Sums over the cells of each group, which is a label of a batch.

    Attributes
    ----------
    sums
        Summed normalized expression: groups × genes.
    squares
        Summed mean square of a cell's expression over the genes: one number for each group.
    counts
        Number of cells of each group.
    codes
        Position of its label.
    """

    sums: np.ndarray
    squares: np.ndarray
    counts: np.ndarray
    codes: np.ndarray

    @classmethod
    def of(cls, x: sparse.csr_matrix, codes: np.ndarray) -> Groups:
        """Sum the cells of each code that has enough of them; ``x`` is cells × genes."""
        counts = np.bincount(codes)
        used = np.flatnonzero(counts >= MIN_CELLS)
        cells = np.arange(len(codes))
        member = sparse.csr_matrix((np.ones(len(codes), x.dtype), (codes, cells)))[used]
        return cls(
            (member @ x).toarray().astype(np.float64),
            member @ row_norms(x, squared=True) / x.shape[1],
            counts[used],
            used,
        )

    @property
    def means(self) -> np.ndarray:
        """Mean expression: groups × genes."""
        return self.sums / self.counts[:, None]

    def without(self, offset: np.ndarray) -> Groups:
        """Return the groups after an offset, ``(n_genes,)``, is subtracted from each cell."""
        twice = 2 * self.sums @ offset / len(offset)
        squares = self.squares - twice + self.counts * np.square(offset).mean()
        sums = self.sums - np.outer(self.counts, offset)
        return Groups(sums, squares, self.counts, self.codes)

    def correlations(self, means: np.ndarray) -> np.ndarray:
        """Pearson correlation with the means of labels, labels × genes: groups × labels.

        The noise of a mean of few cells lowers a correlation by the root of the share of the
        variance that is signal, which is made up for.
        """
        own = self.means
        noise = self.squares / self.counts - np.square(own).mean(axis=1)
        noise /= np.maximum(self.counts - 1, 1)
        variance = np.maximum(own.var(axis=1), np.finfo(float).tiny)
        signal = np.clip((variance - noise) / variance, LEAST_SIGNAL, 1)
        return unit(centered(own)) @ unit(centered(means)).T / np.sqrt(signal)[:, None]

    def misfits(self, means: np.ndarray) -> np.ndarray:
        """Logarithm of the correlation distance of each group from the label that is nearest.

        How far technologies lie apart differs by more than how far types do. Batches that differ
        still tell types from each other by the same genes. So what all labels share, their mean, is
        taken off before a group is compared with its label.
        """
        nearest = self.correlations(means).argmax(axis=1)
        # Of a single label nothing would be left.
        shared = means.mean(axis=0) if len(means) > 1 else np.zeros(means.shape[1])
        alike = self.without(shared).correlations(means - shared)
        return _misfit(alike[np.arange(len(nearest)), nearest])


def _misfit(alike: np.ndarray | float) -> np.ndarray:
    return np.log(np.maximum(1 - np.asarray(alike), 0) + FLOOR)


@dataclass(frozen=True, eq=False)
class GroupStandard:
    """How badly the cells of a label in a new batch fit the labels of the reference, as a group.

    Attributes
    ----------
    typical
        Median misfit (:meth:`Groups.misfits`) of the groups of held-out batches.
    highest
        Misfit that groups of known types seldom exceed in a new batch.
    """

    typical: float
    highest: float

    @classmethod
    def of(cls, ref: LabeledCells) -> GroupStandard | None:
        """Hold out each batch; ``None`` if only one has groups of labels that others have, too."""
        by_batch = []
        counts, sums = ref.counts.sum(axis=0), ref.sums.sum(axis=0)
        for own in range(len(ref.counts)):
            others = counts - ref.counts[own]
            used = others > 0
            groups = used & (ref.counts[own] >= MIN_CELLS)
            if groups.any():
                held_out = Groups(
                    ref.sums[own, groups],
                    ref.squares[own, groups],
                    ref.counts[own, groups],
                    np.flatnonzero(groups),
                )
                means = (sums - ref.sums[own])[used] / others[used, None]
                by_batch.append(held_out.misfits(means))
        if len(by_batch) < 2:
            return None
        misfits = np.concatenate(by_batch)
        typical, high = np.quantile(misfits, [0.5, 1 - LEVEL])
        # A new batch may lie beyond those that were seen, the more so the fewer they are.
        return cls(float(typical), float(high + (high - typical) / len(by_batch)))

    @classmethod
    def usual(cls, n_labels: int) -> GroupStandard:
        """Return what is usual over data sets, for a reference of one batch.

        The fewer the labels, the less is left of what tells one from the others, beside what is odd
        about the batch: the limit is lower for few, and there is none for a single one.
        """
        highest = float(_misfit(USUAL_ALIKE * (1 - 1 / n_labels))) if n_labels > 1 else np.inf
        return cls(highest, highest)

    def fits(self, groups: Groups, means: np.ndarray) -> np.ndarray:
        """Whether each group is as near to a label as those of known types are in a new batch."""
        return groups.misfits(means) <= self.highest

    def differs(self, groups: Groups, means: np.ndarray) -> np.ndarray:
        """Whether each group, without what all have in common, is far from all labels."""
        return groups.misfits(means) > (self.typical + self.highest) / 2


def of_nothing_known(
    standard: GroupStandard,
    x: sparse.csr_matrix,
    codes: np.ndarray,
    means: np.ndarray,
) -> np.ndarray:
    """Find the groups that no label fits, if a batch has nearly no others.

    A new technology or species moves all groups alike. So of several groups that fit no label, most
    have to differ even without what they have in common. Of one group that cannot be told.

    Parameters
    ----------
    standard
        What its groups are compared with.
    x
        Cells × genes of the batch, normalized.
    codes
        Position among the labels of that which each cell is given to.
    means
        Mean of each label: labels × genes.

    Returns
    -------
    Whether each cell is in such a group: none, if the batch has cells of known types.
    """
    groups, none = Groups.of(x, codes), np.zeros(len(codes), dtype=bool)
    n_cells = groups.counts.sum()
    fits = standard.fits(groups, means)
    if n_cells == 0 or groups.counts[fits].sum() > MOST_FITTING * n_cells:
        return none
    if len(groups.counts) > 1:
        nearest = means[groups.correlations(means).argmax(axis=1)]
        apart = groups.without(np.median(groups.means - nearest, axis=0))
        if groups.counts[standard.differs(apart, means)].sum() < LEAST_APART * n_cells:
            return none
    return np.isin(codes, groups.codes[~fits])
