"""How badly the cells of one batch fit the labels of a reference, by three measures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse
from sklearn.covariance import LedoitWolf

from ._discriminant import can_discriminate, discriminant_shares
from ._neighborhoods import neighborhoods
from ._reference import Reference, centered, unit

MEASURES = ("correlation", "distance", "margin")

PRIOR_CELLS = 20
"""Cells without an offset that each batch is averaged with."""

MIN_CELLS = 5
"""Cells of a label that a batch needs, for the label to count in the batch's offset."""

ROWS = 2_000
"""Cells whose expression is dense at a time."""

FLOORS = (0.03, 1e-3)
"""Added to correlation distances and to distances before logarithms: ratios of smaller ones are
noise."""

RIDGE = 0.01
"""Penalty of the margins, relative to the mean square of a component."""


@dataclass(frozen=True, eq=False)
class Labels:
    """What a reference without one of its batches knows of its labels.

    Parameters
    ----------
    ref
        Reference.
    left_out
        Code of the batch that is not to be used, as its cells are those that are judged.
    """

    ref: Reference
    left_out: int | None = None

    @cached_property
    def kept(self) -> np.ndarray:
        """Mask of the batches."""
        return np.arange(len(self.ref.counts)) != self.left_out

    @cached_property
    def used(self) -> np.ndarray:
        """Codes of the labels that are left."""
        return np.flatnonzero(self.ref.counts[self.kept].sum(axis=0))

    @cached_property
    def means(self) -> np.ndarray:
        """Mean expression: labels × genes."""
        counts = self.ref.counts[self.kept].sum(axis=0)[self.used]
        return self.ref.sums[self.kept].sum(axis=0)[self.used] / counts[:, None]

    @cached_property
    def points(self) -> np.ndarray:
        """Components of the cells that are left."""
        return self.ref.points[self.kept[self.ref.batch]]

    @cached_property
    def codes(self) -> np.ndarray:
        """Position of the label of each of these cells in ``used``."""
        return np.searchsorted(self.used, self.ref.codes[self.kept[self.ref.batch]])

    @cached_property
    def centers(self) -> np.ndarray:
        """Mean components: labels × components."""
        sums = np.zeros((len(self.used), self.points.shape[1]))
        np.add.at(sums, self.codes, self.points)
        return sums / np.bincount(self.codes)[:, None]

    @cached_property
    def whitening(self) -> np.ndarray:
        """Matrix after which cells scatter alike in all directions around their label's center.

        The covariance is shrunk (Ledoit and Wolf, J Multivar Anal 88:365, 2004).
        """
        around = self.points - self.centers[self.codes]
        covariance = LedoitWolf(assume_centered=True).fit(around).covariance_
        tiny = 1e-9 * np.trace(covariance) / len(covariance) + np.finfo(float).tiny
        return np.linalg.cholesky(np.linalg.inv(covariance + tiny * np.eye(len(covariance))))

    @cached_property
    def _products(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Standard deviations of the components; products and sums of each label's cells."""
        spread = np.maximum(self.points.std(axis=0), np.finfo(float).tiny)
        rows = _with_ones(self.points / spread)
        by_label = [rows[self.codes == i] for i in range(len(self.used))]
        return (
            spread,
            np.stack([own.T @ own for own in by_label]),
            np.stack([own.sum(axis=0) for own in by_label]),
        )

    def margins(self, points: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Linear decision for each label against the other ones: about 1 in it, −1 elsewhere.

        Ridge regression on the components. Unlike a support vector machine it follows from sums, so
        that it costs next to nothing to leave a label out.

        Parameters
        ----------
        points
            Cells × components.
        labels
            Positions in ``used``: the labels that there are.
        """
        spread, products, sums = self._products
        total = products[labels].sum(axis=0)
        penalty = RIDGE * np.trace(total) / len(total) + np.finfo(float).tiny
        targets = 2 * sums[labels] - sums[labels].sum(axis=0)
        weights = np.linalg.solve(total + penalty * np.eye(len(total)), targets.T)
        return _with_ones(points / spread) @ weights

    def shares(self, points: np.ndarray) -> np.ndarray:
        """Probability of each label for the cells of one batch: cells × labels."""
        if not can_discriminate(self.points, self.codes):
            return np.full((len(points), len(self.used)), 1 / len(self.used))
        batch = np.zeros(len(points), dtype=np.int64)
        return discriminant_shares(self.points, self.codes, points, batch)


class Fitting:
    """The cells of one batch beside the labels of a reference.

    A cell's expression is averaged with that of its nearest cells of its own batch, and the offset
    of the batch is taken off: the median over labels of what the batch's cells given a label differ
    by from its mean, which a type that the reference lacks hardly moves.

    Parameters
    ----------
    labels
        Labels of the reference, without this batch.
    x
        Cells × genes of the batch.
    n_neighbors
        Cells that a cell is averaged with, itself included.
    """

    def __init__(self, labels: Labels, x: sparse.csr_matrix, n_neighbors: int) -> None:
        self.labels = labels
        self._averaging = neighborhoods(x, n_neighbors)
        points = labels.ref.components(x)
        shares = labels.shares(points)
        self._similarity = self._correlations(x, offset(x, shares, labels.means))
        self._points = points - offset(points, shares, labels.centers)

    def _correlations(self, x: sparse.csr_matrix, moved: np.ndarray) -> np.ndarray:
        """Correlation of each neighborhood with each label mean: cells × labels."""
        squares = x.multiply(x).tocsr()
        means = unit(centered(self.labels.means)).T
        found = np.empty((x.shape[0], means.shape[1]))
        for start in range(0, x.shape[0], ROWS):
            block = slice(start, start + ROWS)
            averaging = self._averaging[block]
            own, signal = _without_noise(averaging, x, squares, moved)
            found[block] = unit(own) @ means / signal[:, None]
        return found

    @cached_property
    def _squared_distances(self) -> np.ndarray:
        """Of the mean of each neighborhood from each label, in the whitened components."""
        whitening = self.labels.whitening
        cells, centers = (
            self._averaging @ (self._points @ whitening),
            self.labels.centers @ whitening,
        )
        squares = (cells**2).sum(axis=1)[:, None] + (centers**2).sum(axis=1)
        return np.maximum(squares - 2 * cells @ centers.T, 0)

    def misfits(self, removed: int | None = None) -> np.ndarray:
        """Misfit of each cell with the label that it fits best: cells × :data:`MEASURES`.

        Correlation distance (logarithm) and distance in standard deviations (logarithm) are of
        neighborhoods, and averaged over the same neighbors once more; the margin is of the cell
        itself, which a type of a handful of cells does not vanish in.

        Parameters
        ----------
        removed
            Code of a label to do without, as if the reference did not have it.
        """
        labels = np.flatnonzero(self.labels.used != removed)
        average = self._averaging
        similar = self._similarity[:, labels].max(axis=1)
        apart = np.sqrt(self._squared_distances[:, labels].min(axis=1))
        margin = self.labels.margins(self._points, labels).max(axis=1)
        return np.stack(
            [
                np.log(np.maximum(average @ (average @ (1 - similar)), 0) + FLOORS[0]),
                np.log(average @ apart + FLOORS[1]),
                -margin,
            ],
            axis=1,
        )


def offset(
    cells: np.ndarray | sparse.csr_matrix, shares: np.ndarray, means: np.ndarray
) -> np.ndarray:
    """Offset of a batch from label means.

    Parameters
    ----------
    cells
        Cells × genes or components of one batch.
    shares
        Probability of each label: cells × labels.
    means
        Labels × the same genes or components.
    """
    n_cells = shares.sum(axis=0)
    counts = n_cells >= min(MIN_CELLS, n_cells.max())
    own = (cells.T @ shares[:, counts]).T / n_cells[counts, None]
    weight = cells.shape[0] / (cells.shape[0] + PRIOR_CELLS)
    return weight * np.median(own - means[counts], axis=0)


def _without_noise(
    averaging: sparse.csr_matrix,
    x: sparse.csr_matrix,
    squares: sparse.csr_matrix,
    moved: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean expression of neighborhoods, centered, and by what noise lowers their correlations.

    The noise of a mean of few cells lowers a correlation by the root of the share of variance that
    is signal; half of it (in logarithms) is made up for, since sparse cells are else far from
    everything; made up for whole, differences between types that are shallow get lost.
    """
    own = (averaging @ x).toarray()
    n_neighbors = averaging.indptr[1] - averaging.indptr[0]
    of_squares = (averaging @ squares).toarray()
    noise = (of_squares - own**2).mean(axis=1) / max(n_neighbors - 1, 1)
    own = centered(own - moved)
    variance = np.maximum((own**2).mean(axis=1), np.finfo(np.float32).tiny)
    return own, np.clip((variance - noise) / variance, 0.05, 1) ** 0.25


def _with_ones(rows: np.ndarray) -> np.ndarray:
    return np.hstack([rows, np.ones((len(rows), 1))])
