"""Scaling to [0, 1] by the maximum of each gene within each batch."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.preprocessing import MaxAbsScaler

from scalex_scvi._core.columns import batch_codes, check_batch_column
from scalex_scvi._core.matrices import get_matrix, is_lazy, to_csr

from ._checks import check_expression, with_matrix
from ._profiles import get_profile
from ._record import Preprocessing, ScaleBy

logger = logging.getLogger(__name__)


def batch_scale(
    adata: AnnData, batch_key: str | None = None, *, scale_by: ScaleBy = "batch"
) -> AnnData:
    """Divide each gene by its maximum within each batch.

    Parameters
    ----------
    adata
        Cells × genes, non-negative, usually log-normalised. It is not changed.
    batch_key
        Column of ``adata.obs`` with the batches; ``None``: all cells are one batch.
    scale_by
        ``"batch"`` (the paper) or ``"global"``: one maximum over all cells.

    Returns
    -------
    A new AnnData whose ``X`` (CSR, float32) lies in [0, 1], with the ``obs``, ``var``, ``obsm``
    and ``uns`` of ``adata``. Genes without counts in a batch stay zero.

    Raises
    ------
    ValueError
        For negative or non-finite values, and for missing or one-cell batches.
    """
    check_batch_column(adata, batch_key)
    matrix, name = get_matrix(adata, layer=None)
    csr = to_csr(matrix, name=name)
    check_expression(csr, name=name)
    codes, names = batch_codes(adata, batch_key)
    maxima = batch_maxima(csr, codes, names, scale_by=scale_by)
    return with_matrix(adata, divide_by_batch(csr, codes, maxima), adata.var)


def batch_maxima(
    csr: sparse.csr_matrix, codes: np.ndarray, names: list[str], *, scale_by: ScaleBy = "batch"
) -> pd.DataFrame:
    """Maximum of each gene in each batch: genes × batches, float32, in the order of ``names``."""
    check_scale_by(scale_by)
    if scale_by == "global":
        overall = MaxAbsScaler().fit(csr).max_abs_
        columns = [overall] * len(names)
    else:
        columns = [MaxAbsScaler().fit(csr[codes == code]).max_abs_ for code in range(len(names))]
    return pd.DataFrame(np.column_stack(columns).astype(np.float32), columns=names)


def check_scale_by(scale_by: str) -> None:
    """Raise unless it is known."""
    if scale_by not in ("batch", "global"):
        msg = f"`scale_by` must be 'batch' or 'global', got {scale_by!r}."
        raise ValueError(msg)


def divide_by_batch(
    csr: sparse.csr_matrix, codes: np.ndarray, maxima: pd.DataFrame
) -> sparse.csr_matrix:
    """Divide the values of each cell by the maxima of its batch, without changing ``csr``.

    Values above the maximum (of a known batch, seen in new cells) become 1.
    """
    cell_of_value = np.repeat(np.arange(csr.shape[0]), np.diff(csr.indptr))
    divisor = maxima.to_numpy()[csr.indices, codes[cell_of_value]]
    # A gene that is zero in all the reference's cells of a batch has no scale there.
    data = np.divide(csr.data, divisor, out=np.ones_like(csr.data), where=divisor > 0)
    np.minimum(data, 1, out=data)
    return sparse.csr_matrix((data, csr.indices.copy(), csr.indptr.copy()), shape=csr.shape)


def unscale(adata: AnnData) -> sparse.csr_matrix | None:
    """Undo the scaling of prepared cells, by their record.

    Parameters
    ----------
    adata
        Prepared cells × genes, ``X`` in [0, 1]. It is not changed.

    Returns
    -------
    Normalised expression, cells × genes, in which batches differ by what scaling takes out; or
    ``None`` if the cells carry no record of their scale, or are in a dask array.
    """
    record = Preprocessing.from_adata(adata)
    if record is None or adata.X is None or is_lazy(adata.X):
        return None
    if record.batch_key is not None and record.batch_key not in adata.obs:
        return None
    codes, names = batch_codes(adata, record.batch_key)
    if (codes < 0).any() or not set(names) <= set(record.scale.columns):
        return None
    csr = to_csr(adata.X, name="adata.X")
    factor = record.scale[names].to_numpy()[csr.indices, np.repeat(codes, np.diff(csr.indptr))]
    # Without a scale there, the value was left as it was, as in `divide_by_batch`.
    csr.data *= np.where(factor > 0, factor, 1)
    return csr


def scale_and_record(
    adata: AnnData,
    batch_key: str | None,
    record: Preprocessing,
    *,
    known: pd.DataFrame | None = None,
) -> None:
    """Scale ``adata.X`` within each batch and write the record, in place.

    Parameters
    ----------
    adata
        Cells × selected features, normalised.
    batch_key
        Column of ``adata.obs`` with the batches; ``None``: all cells are one batch.
    record
        What was done so far; its own scale is replaced.
    known
        Features × batches: maxima to use for batches of these names instead of their own.
    """
    codes, names = batch_codes(adata, batch_key)
    csr = sparse.csr_matrix(adata.X)
    report_empty_cells(int((csr.getnnz(axis=1) == 0).sum()), csr.shape, record.profile)
    maxima = batch_maxima(csr, codes, names, scale_by=record.scale_by)
    if known is not None and batch_key is not None:
        maxima = known_scale(maxima, known)
    adata.X = divide_by_batch(csr, codes, maxima)
    record.with_scale(maxima, batch_key).to_adata(adata)


def known_scale(maxima: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """Take the maxima of known batches (columns) in place of a query's own."""
    shared = [name for name in maxima.columns if name in known.columns]
    if shared:
        logger.info("Batches known to the reference, scaled as there: %s.", ", ".join(shared))
    return maxima.assign(**{name: known[name].to_numpy() for name in shared})


def report_empty_cells(n_empty: int, shape: tuple[int, int], profile: str) -> None:
    """Warn of cells without any selected feature."""
    if n_empty:
        logger.warning(
            "%d of %d cells have none of the %d selected %s; their values are all zero.",
            n_empty,
            *shape,
            get_profile(profile).features,
        )
