"""Taking counts that do not fit in memory through the reference's preprocessing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scalex_scvi._core.blocks import DaskArray, map_rows, over_blocks, reduce_blocks
from scalex_scvi._core.columns import batch_codes

from ._dask import lazy_start, scale_lazily
from ._profiles import get_profile
from ._query_steps import QuerySteps
from ._record import Preprocessing, ScaleBy
from ._scale import known_scale, report_empty_cells

logger = logging.getLogger(__name__)


def lazy_query(
    adata: AnnData,
    reference: Preprocessing,
    *,
    batch_key: str | None,
    layer: str | None,
    log_normalized: bool | None,
) -> AnnData:
    """Do what :func:`prepare_query` does in two passes, and leave the result unevaluated.

    Parameters
    ----------
    adata
        Its matrix is a dask array of blocks of rows.
    reference
        The reference's record.
    batch_key, layer, log_normalized
        See :func:`prepare_query`.
    """
    profile = get_profile(reference.profile)
    work, x, detected, log_normalized = lazy_start(
        adata, profile, batch_key=batch_key, layer=layer, log_normalized=log_normalized
    )
    steps = QuerySteps.plan(work.var_names, reference, log_normalized=log_normalized)
    genes = pd.Index(reference.genes)
    x = map_rows(x, steps, n_columns=len(genes))
    query = AnnData(
        obs=work.obs.assign(n_genes=detected),
        var=pd.DataFrame(index=genes),
        obsm=dict(work.obsm),
        uns=work.uns,
    )
    codes, names = batch_codes(query, batch_key)
    maxima = _maxima(x, codes, names, scale_by=reference.scale_by, profile=profile.name)
    if batch_key is not None:
        maxima = known_scale(maxima, reference.scale)
    query.X = scale_lazily(x, codes, maxima)
    reference.with_scale(maxima, batch_key).to_adata(query)
    return query


def _maxima(
    x: DaskArray, codes: np.ndarray, names: list[str], *, scale_by: ScaleBy, profile: str
) -> pd.DataFrame:
    """Maximum of each gene in each batch; cells without any of the genes are reported."""
    block_maxima = partial(_block_maxima, n_batches=len(names))
    maxima, n_empty = reduce_blocks(over_blocks(x, block_maxima, codes), _merge_maxima)
    report_empty_cells(n_empty, x.shape, profile)
    if scale_by == "global":
        maxima = np.broadcast_to(maxima.max(axis=0), maxima.shape)
    return pd.DataFrame(maxima.T.copy(), columns=names)


def _block_maxima(
    block: sparse.csr_matrix, codes: np.ndarray, *, n_batches: int
) -> tuple[np.ndarray, int]:
    maxima = np.zeros((n_batches, block.shape[1]), dtype=np.float32)
    for code in np.unique(codes):
        maxima[code] = block[codes == code].max(axis=0).toarray().ravel()
    return maxima, int((block.getnnz(axis=1) == 0).sum())


def _merge_maxima(parts: Sequence[tuple[np.ndarray, int]]) -> tuple[np.ndarray, int]:
    maxima, n_empty = zip(*parts, strict=True)
    return np.max(maxima, axis=0), sum(n_empty)
