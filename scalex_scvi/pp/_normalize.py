"""Normalisation of cells, each by itself, so that a query is normalised like the reference."""

from __future__ import annotations

import warnings

import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy import sparse


def normalize_total(
    csr: sparse.csr_matrix, target_sum: float | None
) -> tuple[sparse.csr_matrix, float]:
    """Bring the total of each cell to ``target_sum``; cells without counts stay zero.

    Parameters
    ----------
    csr
        Cells × features, float32 counts; may be overwritten. With a ``target_sum``, also a dask
        array of such blocks.
    target_sum
        Total of a cell afterwards; ``None``: the median over the cells that have any counts.

    Returns
    -------
    The normalised matrix and the total that was used.

    Raises
    ------
    ValueError
        If ``target_sum`` is not positive, or ``None`` when no cell has any count.
    """
    if target_sum is None:
        totals = np.asarray(csr.sum(axis=1)).ravel()
        if not totals.any():
            msg = "No cell has a count in any of the selected columns: select others."
            raise ValueError(msg)
        target_sum = float(np.median(totals[totals > 0]))
    check_target_sum(target_sum)
    work = AnnData(X=csr)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some cells have zero counts")
        sc.pp.normalize_total(work, target_sum=target_sum)
    return work.X, float(target_sum)


def check_target_sum(target_sum: float) -> None:
    """Raise unless it is positive."""
    if not target_sum > 0:
        msg = f"`target_sum` must be positive, or None for the median, got {target_sum!r}."
        raise ValueError(msg)


def log_normalize(
    csr: sparse.csr_matrix, target_sum: float | None
) -> tuple[sparse.csr_matrix, float]:
    """Normalise totals as :func:`normalize_total` and take log1p."""
    csr, target_sum = normalize_total(csr, target_sum)
    return csr.log1p(), target_sum


def centered_log_ratio(csr: sparse.csr_matrix, n_proteins: int) -> sparse.csr_matrix:
    r"""Centred log-ratio of each cell, in the form that is never negative.

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
    log_mean = np.asarray(csr.astype(np.float64).log1p().sum(axis=1)).ravel() / n_proteins
    ratio = csr.data / np.repeat(np.exp(log_mean), np.diff(csr.indptr))
    data = np.log1p(ratio).astype(np.float32)
    return sparse.csr_matrix((data, csr.indices.copy(), csr.indptr.copy()), shape=csr.shape)
