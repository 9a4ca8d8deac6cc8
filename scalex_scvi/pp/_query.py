"""Taking raw counts of new cells through the reference's preprocessing."""

from __future__ import annotations

import pandas as pd
from anndata import AnnData

from scalex_scvi._core.columns import check_batch_column
from scalex_scvi._core.matrices import get_matrix, is_lazy, to_csr

from ._checks import check_expression, decide_log_normalised, with_matrix
from ._dask_query import lazy_query
from ._profiles import get_profile
from ._query_steps import QuerySteps
from ._record import Preprocessing
from ._scale import scale_and_record


def prepare_query(
    adata: AnnData,
    preprocessing: Preprocessing,
    *,
    batch_key: str | None = None,
    layer: str | None = None,
    log_normalized: bool | None = None,
) -> AnnData:
    """Take counts of new cells through the same steps as the reference.

    The query is normalised as its profile says, and the reference's genes (peaks, proteins) are
    picked, with zeros for missing ones:

    - RNA: log-normalised over all genes of the query, then picked.
    - ATAC: picked, then each cell's total brought to the total that the reference used, and
      logarithms taken where the reference took them.
    - ADT: picked, then the centred log-ratio taken over the proteins that the query has: other
      proteins do not matter, and missing ones are left out of the mean instead of taken for zero.

    Then each batch is scaled. A batch that the reference knows keeps the reference's scale, so
    that cells of the reference come out exactly as they went in; a new batch is scaled by its own
    maxima. No cell and no gene is filtered out.

    Parameters
    ----------
    adata
        Cells × genes, counts. It is not changed. A dask array of blocks of cells
        (:func:`scalex_scvi.io.read_lazy`) is read in blocks, and never held whole.
    preprocessing
        The reference's record: ``model.preprocessing``, or of an AnnData by
        :meth:`Preprocessing.from_adata`.
    batch_key
        Column of ``adata.obs`` with the batches; ``None``: all cells are one batch.
    layer
        Layer with the counts, instead of ``adata.X``.
    log_normalized
        Whether the values are normalised already, like the reference's. ``None`` decides, and
        raises when it looks like it.

    Returns
    -------
    Cells × reference genes: ``X`` (CSR, float32) in [0, 1], ``obs``, ``obsm`` and ``uns`` of the
    query, the number of detected genes in ``obs["n_genes"]``, and the record. From a dask array
    ``X`` is one too, evaluated when it is written or used.

    Raises
    ------
    KeyError, TypeError, ValueError
        As :func:`rna`; also if no gene is shared, a reference gene occurs more than once, or
        counts are given where the reference's peaks or proteins came normalised.
    """
    profile = get_profile(preprocessing.profile)
    check_batch_column(adata, batch_key)
    matrix, name = get_matrix(adata, layer, features=profile.features)
    if is_lazy(matrix):
        return lazy_query(
            adata,
            preprocessing,
            batch_key=batch_key,
            layer=layer,
            log_normalized=log_normalized,
        )
    csr = to_csr(matrix, name=name)
    check_expression(csr, name=name)
    detected = csr.getnnz(axis=1)
    log_normalized = decide_log_normalised(csr, log_normalized, name=name, profile=profile)
    steps = QuerySteps.plan(adata.var_names, preprocessing, log_normalized=log_normalized)
    query = with_matrix(adata, steps(csr), pd.DataFrame(index=pd.Index(preprocessing.genes)))
    query.obs["n_genes"] = detected
    scale_and_record(query, batch_key, preprocessing, known=preprocessing.scale)
    return query
