"""Ridge regression of labels: about 1 for the cells of a label, −1 for those of others."""

from __future__ import annotations

import numpy as np

RIDGE = 0.01
"""Penalty, relative to the mean square of a standardized dimension. For labels, a tenth and ten
times as much were level with it (docs/history/decisions.md)."""

NO_SPREAD = 1e-5
"""Share of the largest standard deviation up to which a dimension is taken for constant: what is
left there is rounding, which standardizing would make as large as all else."""


def spread_of(points: np.ndarray) -> np.ndarray:
    """Return what each dimension of cells × dimensions is divided by to standardize it.

    Returns
    -------
    Standard deviations; infinite for a dimension that is constant, so that it does not count.
    """
    spread = points.std(axis=0)
    return np.where(spread > NO_SPREAD * spread.max(), spread, np.inf)


def ridge(products: np.ndarray, sums: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Solve the regression from sums over cells.

    Parameters
    ----------
    products
        ``rows.T @ rows`` of all cells, where ``rows`` are their standardized dimensions and a one.
    sums
        Sum of the rows of each label's cells: labels × (dimensions + 1).
    spread
        What the dimensions were divided by, see :func:`spread_of`.

    Returns
    -------
    (Dimensions + 1) × labels: linear functions of the dimensions as they were before they were
    standardized; the last row is the intercept.
    """
    penalty = RIDGE * np.trace(products) / len(products) + np.finfo(float).tiny
    targets = 2 * sums - sums.sum(axis=0)
    weights = np.linalg.solve(products + penalty * np.eye(len(products)), targets.T)
    weights[:-1] /= spread[:, None]
    return weights
