"""Which query cells fit no label of a reference."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from scipy import sparse

from ._group_fits import LEVEL, GroupStandard
from ._label_statistics import LabelStatistics
from ._misfit_calibration import Standards
from ._misfits import Fitting
from ._neighborhoods import Neighbors, n_neighbors_of
from ._unknown import check_held_out, p_values

logger = logging.getLogger(__name__)


def sizes_of(batch: np.ndarray) -> list[int]:
    """Numbers of neighbors that the cells of these batches are averaged with, each once, sorted."""
    return sorted({n_neighbors_of(int(n)) for n in np.unique(batch, return_counts=True)[1]})


def neighborhood_p_values(
    statistics: LabelStatistics,
    standards: Standards,
    x: sparse.csr_matrix,
    neighbors: Sequence[Neighbors],
    max_refused: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Compare the misfits of query cells with those of held-out reference cells.

    Parameters
    ----------
    statistics
        Statistics of the labels of the reference.
    standards
        What held-out batches show, for each number of neighbors that the query's batches need
        (:func:`sizes_of`).
    x
        Normalized expression of the query: cells × the genes of the reference.
    neighbors
        Of the query's batches: each is compared by itself.
    max_refused
        Threshold of the p-value below which cells will be called unknown: there must be enough
        held-out cells for so small a p-value.

    Returns
    -------
    A p-value for each query cell, in (0, 1], and its misfit: the weighted sum of the measures above
    the baseline of its batch, on a scale where about 5 % of known cells are above 1. In a batch of
    nothing known p-values are at most that of the groups, whatever the misfit of a single cell.

    Raises
    ------
    ValueError
        If there are too few held-out cells for ``max_refused``.
    """
    for batch in neighbors:
        check_held_out(max_refused, len(standards.misfits[batch.nearest.shape[1]].known))
    groups = standards.groups or GroupStandard.usual(len(statistics.means))
    p, misfit = np.empty(x.shape[0]), np.empty(x.shape[0])
    for batch in neighbors:
        own, size = batch.cells, batch.nearest.shape[1]
        calibration = standards.misfits[size]
        cells = x if len(own) == x.shape[0] else x[own]
        fitting = Fitting(statistics, cells, batch.nearest, groups)
        found = fitting.neighborhoods(size).misfits()
        unlike = fitting.of_nothing_known
        misfit[own] = calibration.relative(found, nothing_known=bool(unlike.any()))
        of_cells = p_values(misfit[own], calibration.known)
        p[own] = np.where(unlike, np.minimum(of_cells, LEVEL), of_cells)
        if unlike.any():
            logger.warning(
                "A batch of %d query cells looks like none of the labels: the cells given to a "
                "label are further from it on average than those of known types in a new batch. "
                "They are called unknown (with `max_refused` below %s: some of them). A technology "
                "or a species that the reference lacks can look the same.",
                len(own),
                LEVEL,
            )
    return p, misfit
