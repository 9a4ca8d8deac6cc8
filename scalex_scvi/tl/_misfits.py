"""How badly the cells of one batch fit the labels of a reference, by three measures."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.spatial.distance import cdist
from sklearn.utils.extmath import row_norms

from ._group_fits import GroupStandard, of_nothing_known
from ._label_statistics import LabelStatistics, offset
from ._labeled_cells import centered, unit
from ._neighborhoods import averaging

MEASURES = ("correlation", "distance", "margin")

ROWS = 2_000
"""Cells that are compared with the labels at a time."""

ROUNDING = 1e-6
"""Variance of a cell's expression, as a share of its mean square, up to which it is rounding."""

FLOORS = (0.03, 1e-3)
"""Added to correlation distances and to distances before logarithms: ratios of smaller ones are
noise."""


class Fitting:
    """The cells of one batch beside the labels of a reference.

    A cell is noise, types come in groups: its expression is averaged with that of its nearest cells
    of its own batch, and the offset of the batch is taken off.

    Parameters
    ----------
    statistics
        Statistics of the labels of the reference, without this batch.
    x
        Cells × genes of the batch, normalized.
    nearest
        Positions of the cells that each cell is averaged with, itself first: cells × neighbors.
    groups
        What its groups are compared with; ``None``: the batch is taken to have known types.

    Attributes
    ----------
    of_nothing_known
        Whether each cell is in a group that no label fits, in a batch of nothing known. The offset
        of such a batch is not taken off.
    """

    def __init__(
        self,
        statistics: LabelStatistics,
        x: sparse.csr_matrix,
        nearest: np.ndarray,
        groups: GroupStandard | None = None,
    ) -> None:
        self._statistics, self._x, self._nearest = statistics, x, nearest
        points = statistics.components(x)
        shares = statistics.shares(points)
        self.of_nothing_known = np.zeros(x.shape[0], dtype=bool)
        if groups is not None:
            codes = (averaging(nearest, x.shape[0]) @ shares).argmax(axis=1)
            self.of_nothing_known = of_nothing_known(groups, x, codes, statistics.means)
        self._offset = np.zeros(x.shape[1])
        if not self.of_nothing_known.any():
            self._offset = offset(x, shares, statistics.means)
            points -= offset(points, shares, statistics.centers)
        self._points = points

    def neighborhoods(self, n_neighbors: int) -> Neighborhoods:
        """Average each cell with its ``n_neighbors`` nearest cells, itself included."""
        average = averaging(self._nearest[:, :n_neighbors], self._x.shape[0])
        correlations = _label_correlations(self._x, average, self._offset, self._statistics.means)
        distances = _label_distances(self._points, average, self._statistics)
        return Neighborhoods(self._statistics, average, correlations, distances, self._points)


class Neighborhoods:
    """Cells of a batch, averaged with their like, beside each label.

    Parameters
    ----------
    statistics
        Statistics of the labels of the reference.
    average
        Averaging: cells × cells.
    correlations, distances
        Correlation of each neighborhood's mean expression with that of each label, and distance
        from its center in standard deviations: cells × labels.
    points
        Components of the cells themselves.
    """

    def __init__(
        self,
        statistics: LabelStatistics,
        average: sparse.csr_matrix,
        correlations: np.ndarray,
        distances: np.ndarray,
        points: np.ndarray,
    ) -> None:
        self._statistics, self._average = statistics, average
        self._correlations, self._distances, self._points = correlations, distances, points

    def misfits(self) -> np.ndarray:
        """Misfit of each cell with the label that it fits best: cells × :data:`MEASURES`.

        Correlation distance (logarithm) and distance in standard deviations (logarithm) are of
        neighborhoods, and averaged over the same neighbors once more; the margin is of the cell
        itself, which a type of a handful of cells does not vanish in.
        """
        return self._of(np.arange(len(self._statistics.used)), self._statistics.margins)

    def without(self, label: int, margins: np.ndarray) -> np.ndarray:
        """Return the same as if the reference did not have a label.

        Parameters
        ----------
        label
            Its code.
        margins
            Linear decision of the others.
        """
        return self._of(np.flatnonzero(self._statistics.used != label), margins)

    def _of(self, labels: np.ndarray, margins: np.ndarray) -> np.ndarray:
        average = self._average
        distance = average @ (average @ (1 - self._correlations[:, labels].max(axis=1)))
        return np.stack(
            [
                np.log(np.maximum(distance, 0) + FLOORS[0]),
                np.log(average @ self._distances[:, labels].min(axis=1) + FLOORS[1]),
                -(self._points @ margins[:-1] + margins[-1]).max(axis=1),
            ],
            axis=1,
        )


def _label_distances(
    points: np.ndarray, average: sparse.csr_matrix, statistics: LabelStatistics
) -> np.ndarray:
    """Distance of mean components from label centers, in standard deviations: cells × labels."""
    centers = statistics.centers @ statistics.whitening
    found = np.empty((len(points), len(centers)))
    for start in range(0, len(points), ROWS):
        own = average[start : start + ROWS] @ points @ statistics.whitening
        found[start : start + ROWS] = cdist(own, centers)
    return found


def _label_correlations(
    x: sparse.csr_matrix, average: sparse.csr_matrix, batch_offset: np.ndarray, means: np.ndarray
) -> np.ndarray:
    """Correlation of mean expression with label means: cells × labels.

    The noise of a mean of few cells lowers a correlation by the root of the share of variance that
    is signal; half of it (in logarithms) is made up for, since sparse cells are else far from
    everything; made up for whole, differences between types that are shallow get lost.
    """
    n_cells, n_genes = x.shape
    towards = unit(centered(means.astype(np.float64)))
    # What is linear in expression is averaged after it is multiplied: nothing has to be dense.
    factors = np.column_stack([towards.T, batch_offset, np.ones(n_genes)])
    blocks = [slice(start, start + ROWS) for start in range(0, n_cells, ROWS)]
    products = average @ np.concatenate([x[block] @ factors for block in blocks])
    squares = [row_norms(average[block] @ x, squared=True) for block in blocks]
    square = np.concatenate(squares).astype(np.float64) / n_genes
    n_neighbors = average.indptr[1] - average.indptr[0]
    of_cells = row_norms(x, squared=True).astype(np.float64) / n_genes
    noise = (average @ of_cells - square) / max(n_neighbors - 1, 1)
    mean = products[:, -1] / n_genes - batch_offset.mean()
    of_offset = (batch_offset @ batch_offset - 2 * products[:, -2]) / n_genes
    variance = square + of_offset - mean**2
    varies = variance > ROUNDING * square
    variance = np.where(varies, variance, 1)
    signal = np.clip((variance - noise) / variance, 0.05, 1) ** 0.25
    lengths = np.sqrt(variance * n_genes) * signal
    return varies[:, None] * (products[:, :-2] - towards @ batch_offset) / lengths[:, None]
