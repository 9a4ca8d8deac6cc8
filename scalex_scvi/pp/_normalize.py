"""Normalization of cells, each by itself, so that a query is normalized like the reference."""

from __future__ import annotations

from numbers import Real

import numpy as np
from scipy import sparse


def totals(csr: sparse.csr_matrix) -> np.ndarray:
    """Total of each cell, float64, summed as in :meth:`Transform.normalize`."""
    return csr @ np.ones(csr.shape[1])


def normalize_total(
    csr: sparse.csr_matrix, target_sum: float, total: np.ndarray | None = None
) -> sparse.csr_matrix:
    """Bring the total of each cell to ``target_sum``, in place; cells without counts stay zero.

    As :func:`scanpy.pp.normalize_total`, bit for bit where counts are whole numbers. That one takes
    2 ms for a minibatch of 64 cells, as long as a quarter of a training iteration; this takes a
    tenth of it.

    Parameters
    ----------
    csr
        Cells × features, float32 counts; overwritten.
    target_sum
        Total of a cell afterwards.
    total
        Total of each cell, overwritten; default: that of the features that ``csr`` has.
    """
    total = totals(csr) if total is None else total
    csr.data /= np.repeat(row_divisor(total, target_sum), np.diff(csr.indptr))
    return csr


def row_divisor(total: np.ndarray, target_sum: float) -> np.ndarray:
    """Return what the counts of each cell are divided by, float32; ``total`` is overwritten."""
    total[total == 0] = 1
    return (total / target_sum).astype(np.float32)


def check_target_sum(target_sum: float) -> None:
    """Raise unless it is positive and finite."""
    if not (isinstance(target_sum, Real) and 0 < float(target_sum) < np.inf):
        msg = f"`target_sum` must be positive and finite, got {target_sum!r}."
        raise ValueError(msg)


def log_normalize(
    csr: sparse.csr_matrix, target_sum: float, total: np.ndarray | None = None
) -> sparse.csr_matrix:
    """Normalize totals as :func:`normalize_total` and take log1p; ``csr`` is overwritten."""
    normalize_total(csr, target_sum, total)
    np.log1p(csr.data, out=csr.data)
    return csr


def without_logarithms(csr: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return what values are the log1p of; ``csr`` is not changed."""
    return sparse.csr_matrix((np.expm1(csr.data), csr.indices, csr.indptr), shape=csr.shape)


def centered_log_ratio(csr: sparse.csr_matrix, n_proteins: int) -> sparse.csr_matrix:
    r"""Centered log-ratio of each cell, in the form that is never negative.

    A count :math:`x_p` becomes :math:`\log(1 + x_p / g)` with
    :math:`g = \exp(\frac{1}{P} \sum_p \log(1 + x_p))`, the geometric mean of the cell's ``1 + x``.
    This is what Seurat (``NormalizeData(normalization.method = "CLR", margin = 2)``) and muon
    (``muon.prot.pp.clr(axis=1)``, flavor ``"seurat"``) compute. Zeros stay zeros.

    Parameters
    ----------
    csr
        Cells × proteins, float32 counts; not changed.
    n_proteins
        Number :math:`P` of proteins that were measured: columns of ``csr``, less empty ones that
        stand for proteins that were not.
    """
    log_mean = totals(csr.astype(np.float64).log1p()) / n_proteins
    ratio = csr.data / np.repeat(np.exp(log_mean), np.diff(csr.indptr))
    data = np.log1p(ratio).astype(np.float32)
    return sparse.csr_matrix((data, csr.indices.copy(), csr.indptr.copy()), shape=csr.shape)
