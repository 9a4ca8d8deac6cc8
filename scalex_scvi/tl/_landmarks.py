"""What the cells of a query are compared with: statistics of a reference, and none of its cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse
from sklearn.covariance import LedoitWolf

from ._discriminant import Discriminants, can_discriminate
from ._reference import Reference

MIN_CELLS = 5
"""Cells of a label that a batch needs, for the label to count in the batch's offset."""

PRIOR_CELLS = 20
"""Cells without an offset that each batch is averaged with."""

ROWS = 8_192
"""Cells whose products are taken at once."""

RIDGE = 0.01
"""Penalty of the margins, relative to the mean square of a component."""


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Labels of a reference.

    Attributes
    ----------
    used
        Codes of the labels.
    means
        Mean expression of each: labels × genes.
    mean, directions
        Principal components of all cells.
    centers
        Mean components of each label: labels × components.
    whitening
        Components × components, after which cells scatter alike in all directions around their
        label's center.
    margins
        Linear decision for each label against the others: (components + 1) × labels.
    discriminants
        Of the labels by these components; ``None`` if no label has cells that differ.
    """

    used: np.ndarray
    means: np.ndarray
    mean: np.ndarray
    directions: np.ndarray
    centers: np.ndarray
    whitening: np.ndarray
    margins: np.ndarray
    discriminants: Discriminants | None

    def components(self, x: sparse.csr_matrix) -> np.ndarray:
        """Cells × principal components."""
        return np.asarray(x @ self.directions - self.mean @ self.directions, dtype=np.float64)

    def shares(self, points: np.ndarray) -> np.ndarray:
        """Probability of each label for the cells of one batch, given by their components."""
        if self.discriminants is None:
            return np.full((len(points), len(self.used)), 1 / len(self.used))
        return self.discriminants.shares(points, np.zeros(len(points), np.int64))

    def offset(self, x: sparse.csr_matrix) -> np.ndarray:
        """Offset of the cells of one batch from the label means: genes."""
        return offset(x, self.shares(self.components(x)), self.means)


@dataclass(frozen=True, eq=False)
class Remaining:
    """A reference without one of its batches, or whole.

    Parameters
    ----------
    ref
        Reference.
    left_out
        Code of the batch that is not to be used, as its cells are those that are judged.
    """

    ref: Reference
    left_out: int | None = None

    def landmarks(self) -> Landmarks:
        """Take the statistics."""
        ref, everything = self.ref, np.arange(len(self.used))
        can = can_discriminate(self._points, self._codes)
        return Landmarks(
            used=self.used,
            means=self._means(),
            mean=ref.mean,
            directions=ref.directions,
            centers=self._centers,
            whitening=self._whitening(),
            margins=self.margins(everything),
            discriminants=Discriminants.of(self._points, self._codes) if can else None,
        )

    @cached_property
    def used(self) -> np.ndarray:
        """Codes of the labels that are left."""
        return np.flatnonzero(self.ref.counts[self._kept].sum(axis=0))

    def margins(self, labels: np.ndarray) -> np.ndarray:
        """Linear decision for each label against the other ones: about 1 in it, −1 elsewhere.

        Ridge regression on the components. Unlike a support vector machine it follows from sums, so
        that it costs next to nothing to leave a label out.

        Parameters
        ----------
        labels
            Positions in ``used``: the labels that there are.

        Returns
        -------
        (Components + 1) × these labels; the last row is what is added.
        """
        spread, products, sums = self._products
        total = products[labels].sum(axis=0)
        penalty = RIDGE * np.trace(total) / len(total) + np.finfo(float).tiny
        targets = 2 * sums[labels] - sums[labels].sum(axis=0)
        weights = np.linalg.solve(total + penalty * np.eye(len(total)), targets.T)
        weights[:-1] /= spread[:, None]
        return weights

    @cached_property
    def _kept(self) -> np.ndarray:
        """Mask of the batches."""
        return np.arange(len(self.ref.counts)) != self.left_out

    @cached_property
    def _points(self) -> np.ndarray:
        """Components of the cells that are left."""
        return self.ref.points[self._kept[self.ref.batch]]

    @cached_property
    def _codes(self) -> np.ndarray:
        """Position of the label of each of these cells in ``used``."""
        return np.searchsorted(self.used, self.ref.codes[self._kept[self.ref.batch]])

    @cached_property
    def _centers(self) -> np.ndarray:
        sums = np.zeros((len(self.used), self._points.shape[1]))
        np.add.at(sums, self._codes, self._points)
        return sums / np.bincount(self._codes)[:, None]

    def _means(self) -> np.ndarray:
        counts = self.ref.counts[self._kept].sum(axis=0)[self.used]
        return self.ref.sums[self._kept].sum(axis=0)[self.used] / counts[:, None]

    def _whitening(self) -> np.ndarray:
        """Of the covariance around the centers, shrunk (Ledoit and Wolf, J Multivar Anal, 2004)."""
        around = self._points - self._centers[self._codes]
        covariance = LedoitWolf(assume_centered=True).fit(around).covariance_
        tiny = 1e-9 * np.trace(covariance) / len(covariance) + np.finfo(float).tiny
        return np.linalg.cholesky(np.linalg.inv(covariance + tiny * np.eye(len(covariance))))

    @cached_property
    def _products(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Standard deviations of the components; products and sums of each label's cells."""
        spread = np.maximum(self._points.std(axis=0), np.finfo(float).tiny)
        rows = np.hstack([self._points / spread, np.ones((len(self._points), 1))])
        by_label = [rows[self._codes == i] for i in range(len(self.used))]
        return (
            spread,
            np.stack([own.T @ own for own in by_label]),
            np.stack([own.sum(axis=0) for own in by_label]),
        )


def offset(
    cells: np.ndarray | sparse.csr_matrix, shares: np.ndarray, means: np.ndarray
) -> np.ndarray:
    """Offset of a batch from label means.

    The median over labels of what the batch's cells given a label differ by from its mean, which a
    type that the reference lacks hardly moves.

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
    own = _products(cells, shares[:, counts]).T / n_cells[counts, None]
    weight = cells.shape[0] / (cells.shape[0] + PRIOR_CELLS)
    return weight * np.median(own - means[counts], axis=0)


def _products(cells: np.ndarray | sparse.csr_matrix, shares: np.ndarray) -> np.ndarray:
    """``cells.T @ shares``, block by block, since all cells would be copied in double precision."""
    blocks = range(0, len(shares), ROWS)
    return np.sum([cells[i : i + ROWS].T @ shares[i : i + ROWS] for i in blocks], axis=0)
