"""Taking raw counts of new cells through the reference's preprocessing."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from ._checks import (
    batch_codes,
    check_batch_column,
    check_expression,
    decide_log_normalised,
    get_matrix,
    to_csr,
    with_matrix,
)
from ._record import Preprocessing
from ._reindex import gene_selector
from ._rna import log_normalize, starts_with
from ._scale import batch_maxima, divide_by_batch

logger = logging.getLogger(__name__)


def prepare_query(
    adata: AnnData,
    preprocessing: Preprocessing,
    *,
    batch_key: str | None = None,
    layer: str | None = None,
    log_normalized: bool | None = None,
) -> AnnData:
    """Take counts of new cells through the same steps as the reference.

    Normalisation comes first, over all genes of the query; then the reference's genes are picked,
    with zeros for missing ones; then each batch is scaled. A batch that the reference knows keeps
    the reference's scale, so that cells of the reference come out exactly as they went in; a new
    batch is scaled by its own maxima. No cell and no gene is filtered out.

    Parameters
    ----------
    adata
        Cells × genes, counts. It is not changed.
    preprocessing
        The reference's record: ``model.preprocessing``, or of an AnnData by
        :meth:`Preprocessing.from_adata`.
    batch_key
        Column of ``adata.obs`` with the batches; ``None``: all cells are one batch.
    layer
        Layer with the counts, instead of ``adata.X``.
    log_normalized
        Whether the values are log-normalised already. ``None`` decides, and raises when it looks
        like it.

    Returns
    -------
    Cells × reference genes: ``X`` (CSR, float32) in [0, 1], ``obs``, ``obsm`` and ``uns`` of the
    query, and the record.

    Raises
    ------
    KeyError, ValueError
        As :func:`rna`; also if no gene is shared, or a reference gene occurs more than once.
    """
    check_batch_column(adata, batch_key)
    matrix, name = get_matrix(adata, layer)
    csr = to_csr(matrix, name=name)
    check_expression(csr, name=name)
    selector = gene_selector(adata.var_names, pd.Index(preprocessing.genes))
    if not decide_log_normalised(csr, log_normalized, name=name):
        csr = _log_normalize(csr, adata.var_names, preprocessing)
    genes = pd.DataFrame(index=pd.Index(preprocessing.genes))
    query = with_matrix(adata, sparse.csr_matrix(csr @ selector), genes)
    return _scale(query, preprocessing, batch_key)


def _log_normalize(
    csr: sparse.csr_matrix, genes: pd.Index, preprocessing: Preprocessing
) -> sparse.csr_matrix:
    """Log-normalise all genes; genes that the reference dropped become zero."""
    names = genes.astype(str)
    dropped = starts_with(names, preprocessing.dropped_prefixes)
    kept = csr @ sparse.diags((~dropped).astype(np.float32))
    work = AnnData(X=sparse.csr_matrix(kept, dtype=np.float32))
    log_normalize(work, preprocessing.target_sum)
    return work.X


def _scale(query: AnnData, reference: Preprocessing, batch_key: str | None) -> AnnData:
    codes, names = batch_codes(query, batch_key)
    maxima = batch_maxima(query.X, codes, names, scale_by=reference.scale_by)
    known = [name for name in names if name in reference.scale.columns] if batch_key else []
    if known:
        logger.info("Batches known to the reference, scaled as there: %s.", ", ".join(known))
        maxima[known] = reference.scale[known].to_numpy()
    query.X = divide_by_batch(query.X, codes, maxima)
    reference.with_scale(maxima).to_adata(query)
    return query
