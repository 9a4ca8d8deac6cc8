"""Statistics of the labels of a reference that query cells are compared with: no cell is kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import sparse
from sklearn.covariance import LedoitWolf

from ._components import estimating, project
from ._discriminant import Discriminants, can_discriminate
from ._labeled_cells import LabeledCells
from ._ridge import ridge, spread_of

MIN_CELLS = 5
"""Fewest cells that a batch has of a label for this label to count in the batch's offset."""

PRIOR_CELLS = 20
"""Weight, in cells, of an offset of zero that the offset of each batch is averaged with."""

ROWS = 8_192
"""Cells whose products are taken at once."""


@dataclass(frozen=True, eq=False)
class LabelStatistics:
    """Statistics of the labels of a reference.

    Attributes
    ----------
    used
        Codes of the labels, ascending.
    means
        Mean normalized expression of each label: labels × genes.
    mean, directions
        Principal components of all cells: mean of the genes, ``(n_genes,)``, and directions,
        genes × components.
    centers
        Mean of the components of each label's cells: labels × components.
    whitening
        Components × components. Components times this matrix have the covariance of an identity
        matrix around the centers of the labels.
    margins
        Linear functions of the components, one for each label, about 1 for its cells and −1 for
        others: (components + 1) × labels; the last row is the intercept.
    discriminants
        Linear discriminants of the labels in the components; ``None`` if the cells of each label
        are equal.
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
        """Principal components of cells × genes: cells × components."""
        return project(x, self.mean, self.directions).astype(np.float64)

    def of_genes(self, measured: np.ndarray) -> LabelStatistics:
        """Return the statistics for cells that have some of the genes.

        Their components are estimated, so that all that is fitted to components stays.

        Parameters
        ----------
        measured
            Mask of these genes.
        """
        if measured.all():
            return self
        return replace(
            self,
            means=self.means[:, measured],
            mean=self.mean[measured],
            directions=estimating(self.directions, measured)[measured],
        )

    def shares(self, points: np.ndarray) -> np.ndarray:
        """Probability of each label for the cells of one batch, given by their components."""
        if self.discriminants is None:
            return np.full((len(points), len(self.used)), 1 / len(self.used))
        return self.discriminants.shares(points, np.zeros(len(points), np.int64))

    def offset(self, x: sparse.csr_matrix) -> np.ndarray:
        """Offset of one batch from the label means, see :func:`offset`: ``(n_genes,)``."""
        return offset(x, self.shares(self.components(x)), self.means)


@dataclass(frozen=True, eq=False)
class KeptBatches:
    """The batches of a reference that statistics are taken of: all, or all but one.

    Parameters
    ----------
    ref
        Labeled cells of the reference.
    left_out
        Code of the batch that is held out; ``None``: all batches are used.
    """

    ref: LabeledCells
    left_out: int | None = None

    def label_statistics(self) -> LabelStatistics:
        """Return the statistics of the labels of these batches."""
        ref, everything = self.ref, np.arange(len(self.used))
        can = can_discriminate(self._points, self._codes)
        return LabelStatistics(
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
        """Codes of the labels that occur in these batches, ascending."""
        return np.flatnonzero(self.ref.counts[self._kept].sum(axis=0))

    def margins(self, labels: np.ndarray) -> np.ndarray:
        """Fit a linear function for each label: about 1 for its cells, −1 for those of others.

        Ridge regression on the components. It follows from sums over each label's cells, so that
        fitting it again without a label takes next to no time, unlike a support vector machine.

        Parameters
        ----------
        labels
            Positions in ``used`` of the labels to use.

        Returns
        -------
        (Components + 1) × these labels; the last row is the intercept.
        """
        spread, products, sums = self._products
        return ridge(products[labels].sum(axis=0), sums[labels], spread)

    @cached_property
    def _kept(self) -> np.ndarray:
        """Whether each batch is used."""
        return np.arange(len(self.ref.counts)) != self.left_out

    @cached_property
    def _points(self) -> np.ndarray:
        """Components of the cells of these batches: cells × components."""
        return self.ref.points[self._kept[self.ref.batch]]

    @cached_property
    def _codes(self) -> np.ndarray:
        """Position in ``used`` of the label of each of these cells."""
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
        """Whitening of the pooled covariance around the centers, shrunk (Ledoit and Wolf, 2004)."""
        around = self._points - self._centers[self._codes]
        covariance = LedoitWolf(assume_centered=True).fit(around).covariance_
        tiny = 1e-9 * np.trace(covariance) / len(covariance) + np.finfo(float).tiny
        return np.linalg.cholesky(np.linalg.inv(covariance + tiny * np.eye(len(covariance))))

    @cached_property
    def _products(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Standard deviations of the components; of each label, products and sums of its cells."""
        spread = spread_of(self._points)
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
    """Offset of a batch: the difference from the reference that all its labels have in common.

    For each label, the mean of the batch's cells (weighted by their probability of the label) is
    compared with the label's mean in the reference. The offset is the median of these differences
    over the labels, so that cells of a type that the reference lacks hardly change it.

    Parameters
    ----------
    cells
        Cells × genes or components of one batch.
    shares
        Probability of each label: cells × labels.
    means
        Mean of each label: labels × the same genes or components.

    Returns
    -------
    One number for each gene or component; smaller than measured where the batch has few cells
    (:data:`PRIOR_CELLS`).
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
