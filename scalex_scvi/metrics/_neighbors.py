"""What a cell's neighbors say of mixing and of cell types."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from scalex_scvi._core.ranges import check_whole

from ._inputs import as_points, complete

N_NEIGHBORS = 30
"""Neighbors of the scores by default, as in LISI."""


def same_batch_share(
    representation: npt.ArrayLike | sparse.spmatrix,
    batch: npt.ArrayLike,
    *,
    n_neighbors: int = N_NEIGHBORS,
) -> float:
    """Mean share of a cell's neighbors that come from its own batch.

    Parameters
    ----------
    representation
        Cells × dimensions, dense or sparse.
    batch
        Batch of each cell.
    n_neighbors
        Neighbors of each cell, itself left out; at most the other cells.

    Returns
    -------
    Share in [0, 1]: 1 if batches do not mix at all, :func:`expected_same_batch_share` if they are
    fully mixed.

    Raises
    ------
    ValueError
        If a batch is missing, lengths differ, or there are fewer than two cells.
    """
    return _agreement(representation, complete(batch, name="`batch`"), n_neighbors)


def expected_same_batch_share(batch: npt.ArrayLike) -> float:
    """Return the share that fully mixed batches would have: the sum of squared batch shares.

    Parameters
    ----------
    batch
        Batch of each cell; missing ones are not counted.

    Returns
    -------
    Share in (0, 1], to compare :func:`same_batch_share` with.
    """
    known = np.asarray(batch)
    known = complete(known[~pd.isna(known)] if known.ndim == 1 else known, name="`batch`")
    shares = pd.Series(known).value_counts(normalize=True)
    return float((shares**2).sum())


def knn_purity(
    representation: npt.ArrayLike | sparse.spmatrix,
    labels: npt.ArrayLike,
    *,
    n_neighbors: int = N_NEIGHBORS,
) -> float:
    """Mean share of a cell's neighbors with its own label.

    Parameters
    ----------
    representation
        Cells × dimensions, dense or sparse.
    labels
        Label of each cell.
    n_neighbors
        Neighbors of each cell, itself left out; at most the other cells.

    Returns
    -------
    Share in [0, 1], higher is better. A label of fewer cells than neighbors cannot reach 1.

    Raises
    ------
    ValueError
        If a label is missing, lengths differ, or there are fewer than two cells.
    """
    return _agreement(representation, complete(labels, name="`labels`"), n_neighbors)


def _agreement(
    representation: npt.ArrayLike | sparse.spmatrix, groups: np.ndarray, n_neighbors: int
) -> float:
    check_whole(n_neighbors, 1, name="n_neighbors")
    points = as_points(representation)
    codes, n_points = pd.factorize(groups)[0], points.shape[0]
    if n_points != len(codes) or n_points < 2:
        msg = f"Got {n_points} cells and {len(codes)} labels; needed are two cells or more."
        raise ValueError(msg)
    knn = NearestNeighbors(n_neighbors=min(n_neighbors, n_points - 1)).fit(points)
    neighbors = knn.kneighbors(return_distance=False)
    return float((codes[neighbors] == codes[:, None]).mean())
