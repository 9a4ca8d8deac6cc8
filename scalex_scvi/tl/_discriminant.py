"""Labels by linear functions of a space, after taking out the query's own offset."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.special import expit, softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ._ridge import ridge, spread_of

N_ROUNDS = 3
"""Rounds of estimating labels and offset in turn; more hardly change either."""

OFFSET_PRIOR = 20
"""Weight, in cells, of an offset of zero that the offset of each query batch is averaged with: the
offset of a batch of few cells is uncertain."""

VALUES_AT_ONCE = 100_000
"""Differences of cells from means that are held at a time, in dimensions and cells."""

SHARPNESS = 8.0
"""What the ridge regression's values, about 1 for a label's cells and −1 for others, are multiplied
by to be logarithms of probabilities; 4 and 16 were level with it (docs/history/decisions.md)."""


@dataclass(frozen=True, eq=False)
class Discriminants:
    """Linear functions that tell labels apart: statistics of the reference, and none of its cells.

    All labels are equally probable a priori, since the query may have other shares of them than the
    reference.

    Attributes
    ----------
    means
        Labels × dimensions.
    weights, intercept
        Of the linear function of each label: labels × dimensions, and labels. Of two labels there
        is one function, which is positive for the second; of one label there is none.
    """

    means: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, codes: np.ndarray) -> Discriminants:
        """Fit linear discriminants: each label is a Gaussian, and all have one covariance.

        Parameters
        ----------
        points
            Reference cells × dimensions.
        codes
            Label code of each reference cell, from 0 on; each occurs.
        """
        n_labels = int(codes.max()) + 1
        if n_labels == 1:
            return cls(points.mean(axis=0)[None], np.zeros((0, points.shape[1])), np.zeros(0))
        constant = np.isinf(spread_of(points))
        if constant.any():  # scikit-learn would standardize what rounding has left of them
            points = np.where(constant, 0, points)
        model = LinearDiscriminantAnalysis(priors=np.full(n_labels, 1 / n_labels))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Variables are collinear")
            model.fit(points, codes)
        return cls(model.means_, model.coef_, model.intercept_)

    @classmethod
    def by_ridge(cls, points: np.ndarray, codes: np.ndarray) -> Discriminants:
        """Fit a ridge regression of 1 for a label's cells and −1 for others; labels count alike.

        It knows no covariance of labels, so that it errs where others than :meth:`of` do.

        Parameters
        ----------
        points, codes
            As in :meth:`of`.
        """
        n_cells = np.bincount(codes)
        weight = 1 / n_cells[codes]
        member = sparse.csr_matrix((weight, (codes, np.arange(len(codes)))))
        mean, spread = points.mean(axis=0), spread_of(points)
        rows = np.ones((len(points), points.shape[1] + 1))
        rows[:, :-1] = (points - mean) / spread
        sums = member @ rows
        rows *= np.sqrt(weight)[:, None]
        found = SHARPNESS * ridge(rows.T @ rows, sums, spread)
        weights, intercept = found[:-1].T, found[-1] - mean @ found[:-1]
        if len(n_cells) <= 2:  # one function of two labels, none of one
            weights, intercept = np.diff(weights, axis=0), np.diff(intercept)
        return cls(member @ points, weights, intercept)

    def shares(self, targets: np.ndarray, batch: np.ndarray) -> np.ndarray:
        """Probability of each label for each query cell, after taking out each batch's offset.

        A new batch differs from the reference above all by an offset that all its cells have in
        common. The offset is the median difference of its cells from the means of their labels,
        so that a minority of cells of unknown types hardly changes it.

        Parameters
        ----------
        targets
            Query cells × dimensions.
        batch
            Batch code of each query cell: each batch has its own offset.

        Returns
        -------
        Query cells × labels; rows sum to 1.
        """
        shares = np.ones((len(targets), len(self.means)))
        if len(self.means) == 1:
            return shares
        for code in np.unique(batch):
            own = batch == code
            shares[own] = self._without_offset(targets[own])
        return shares

    def _without_offset(self, targets: np.ndarray) -> np.ndarray:
        shares = self._probabilities(targets, np.zeros(targets.shape[1]))
        weight = len(targets) / (len(targets) + OFFSET_PRIOR)
        for _ in range(N_ROUNDS):
            offset = self._median_differences(targets, shares)
            shares = self._probabilities(targets, weight * offset)
        return shares

    def _median_differences(self, targets: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Of the cells from the means of their labels, in each dimension."""
        # Some dimensions at a time: a copy of all of them is large with many cells.
        n_at_once = max(1, VALUES_AT_ONCE // len(targets))
        offset = []
        for start in range(0, targets.shape[1], n_at_once):
            some = slice(start, start + n_at_once)
            expected = np.stack([shares @ means for means in self.means.T[some]])
            offset.append(np.median(targets.T[some] - expected, axis=1, overwrite_input=True))
        return np.concatenate(offset)

    def _probabilities(self, targets: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """Probabilities of the labels, after the offset is subtracted from all targets."""
        found = targets @ self.weights.T + (self.intercept - self.weights @ offset)
        if len(self.means) == 2:
            second = expit(found[:, 0])
            return np.column_stack([1 - second, second])
        return softmax(found, axis=1)


def can_discriminate(points: np.ndarray, codes: np.ndarray) -> bool:
    """Whether there is a label whose cells differ from each other: else nothing can be fitted."""
    means = np.zeros((codes.max() + 1, points.shape[1]))
    np.add.at(means, codes, points)
    means /= np.bincount(codes)[:, None]
    return not np.allclose(points, means[codes])
