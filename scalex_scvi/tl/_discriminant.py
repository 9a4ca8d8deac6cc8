"""Labels by linear discriminants of the reference, after taking out the query's own offset."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

N_ROUNDS = 3
"""More rounds of labels and offset hardly change either."""

OFFSET_PRIOR = 20
"""Cells without any offset that each batch of the query is averaged with: few cells move little."""


def discriminant_shares(
    points: np.ndarray, codes: np.ndarray, targets: np.ndarray, batch: np.ndarray
) -> np.ndarray:
    """Probability of each label for each query cell.

    Labels are Gaussians of one covariance and, whatever their number of cells, equally probable:
    the reference's composition says little of the query's. What a new batch keeps of its technology
    is first of all an offset of all its cells. It is the median of what its cells differ by from
    the means of their labels, which a minority of cells of unknown types hardly moves.

    Parameters
    ----------
    points
        Reference cells × dimensions.
    codes
        Label code of each reference cell, from 0 on; each occurs.
    targets
        Query cells × dimensions.
    batch
        Batch code of each query cell: each batch has its own offset.

    Returns
    -------
    Query cells × labels; rows sum to 1.
    """
    n_labels = int(codes.max()) + 1
    if n_labels == 1:
        return np.ones((len(targets), 1))
    model = LinearDiscriminantAnalysis(priors=np.full(n_labels, 1 / n_labels))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Variables are collinear")
        model.fit(points, codes)
    shares = np.empty((len(targets), n_labels))
    for code in np.unique(batch):
        own = batch == code
        shares[own] = _without_offset(model, targets[own])
    return shares


def can_discriminate(points: np.ndarray, codes: np.ndarray) -> bool:
    """Whether the cells of a label differ from each other, for any label."""
    means = np.zeros((codes.max() + 1, points.shape[1]))
    np.add.at(means, codes, points)
    means /= np.bincount(codes)[:, None]
    return not np.allclose(points, means[codes])


def _without_offset(model: LinearDiscriminantAnalysis, targets: np.ndarray) -> np.ndarray:
    shares = model.predict_proba(targets)
    weight = len(targets) / (len(targets) + OFFSET_PRIOR)
    for _ in range(N_ROUNDS):
        offset = np.median(targets - shares @ model.means_, axis=0)
        shares = model.predict_proba(targets - weight * offset)
    return shares
