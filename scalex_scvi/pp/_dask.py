"""Preprocessing of RNA counts that do not fit in memory, in blocks of rows by dask."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from scalex_scvi._core.blocks import (
    DaskArray,
    keep_rows,
    map_rows,
    over_blocks,
    pick_columns,
    reduce_blocks,
    stack_rows,
    without_matrix,
)
from scalex_scvi._core.columns import batch_codes, check_batch_column
from scalex_scvi._core.matrices import get_matrix, to_csr

from ._checks import ValueSummary, check_expression, check_unique_genes, decide_log_normalised
from ._filter import cells_to_keep, drop_genes, features_to_keep
from ._moments import BatchMoments, block_moments, merge_moments, rank_genes
from ._normalize import normalize_total
from ._profiles import RNA, Profile
from ._record import Preprocessing, ScaleBy
from ._scale import check_scale_by, divide_by_batch
from ._select import select_features

logger = logging.getLogger(__name__)


def lazy_rna(
    adata: AnnData,
    *,
    batch_key: str | None,
    layer: str | None,
    min_features: int,
    min_cells: int,
    target_sum: float | None,
    selection: int | list[str],
    dropped_prefixes: tuple[str, ...],
    scale_by: ScaleBy,
    log_normalized: bool | None,
) -> AnnData:
    """Do what :func:`rna` does in two passes over the data, and leave the result unevaluated.

    The first pass checks the values and counts genes of cells, the second takes, for each batch,
    the moments that genes are selected by and the maxima that they are scaled by. ``target_sum``
    ``None`` (the median) needs one more. What these passes return is small: a number for each
    cell, and some for each gene and batch.

    Parameters
    ----------
    adata
        Its matrix is a dask array of blocks of rows.
    batch_key, layer, min_features, min_cells, target_sum, dropped_prefixes, scale_by
        See :func:`rna`.
    selection
        Read ``n_top_features``.
    log_normalized
        See :func:`rna`.
    """
    check_scale_by(scale_by)
    work, x, detected, log_normalized = lazy_start(
        adata, RNA, batch_key=batch_key, layer=layer, log_normalized=log_normalized
    )
    check_unique_genes(work.var_names, what="`adata`", profile=RNA)
    logger.info("Raw data: %d cells × %d genes.", *x.shape)
    keep = cells_to_keep(detected, min_features, RNA)
    work = work[keep].copy()
    work.obs["n_genes"] = detected[keep]
    check_batch_column(work, batch_key)  # again: the filter may leave one cell of a batch
    all_genes = work.var_names
    work = drop_genes(work, dropped_prefixes)
    x = pick_columns(keep_rows(x, keep), all_genes.get_indexer(work.var_names))
    if not log_normalized:
        x, target_sum = lazy_log_normalize(x, target_sum)
        work.uns.pop("log1p", None)  # of other values
    codes, names = batch_codes(work, batch_key)
    moments = reduce_blocks(over_blocks(x, block_moments, codes), merge_moments)
    work, columns = _select(work, moments, min_cells, selection)
    maxima = _maxima(moments, names, columns, scale_by)
    work.X = scale_lazily(pick_columns(x, columns), codes, maxima)
    record = Preprocessing(
        profile=RNA.name,
        target_sum=1e4 if target_sum is None else target_sum,
        scale_by=scale_by,
        dropped_prefixes=dropped_prefixes,
        log_normalized=log_normalized,
    )
    record.with_scale(maxima, batch_key).to_adata(work)
    logger.info("Processed data: %d cells × %d genes.", *work.shape)
    return work


def lazy_start(
    adata: AnnData,
    profile: Profile,
    *,
    batch_key: str | None,
    layer: str | None,
    log_normalized: bool | None,
) -> tuple[AnnData, DaskArray, np.ndarray, bool]:
    """Check everything, in one pass over the data.

    Returns
    -------
    The annotations in memory, the matrix as CSR float32 blocks, the number of detected features
    of each cell, and whether the values are normalised.
    """
    matrix, name = get_matrix(adata, layer, features=profile.features)
    work = without_matrix(adata)
    check_batch_column(work, batch_key)
    x = csr_blocks(matrix, name=name)
    scan = reduce_blocks(over_blocks(x, _scan_block), _merge_scans)
    check_expression(scan.values, name=name)
    normalised = decide_log_normalised(scan.values, log_normalized, name=name, profile=profile)
    return work, x, scan.detected, normalised


@dataclass(frozen=True)
class _Scan:
    values: ValueSummary
    detected: np.ndarray


def _scan_block(block: sparse.csr_matrix) -> _Scan:
    return _Scan(ValueSummary.of(block), block.getnnz(axis=1))


def _merge_scans(scans: Sequence[_Scan]) -> _Scan:
    values = scans[0].values
    for scan in scans[1:]:
        values = values.merge(scan.values)
    return _Scan(values, np.concatenate([scan.detected for scan in scans]))


def csr_blocks(matrix: DaskArray, *, name: str) -> DaskArray:
    """Turn the blocks of a dask array into float32 CSR.

    Raises
    ------
    ValueError
        If cells are not in blocks of whole rows of known length.
    """
    if matrix.numblocks[1] != 1 or np.isnan(matrix.shape).any():
        msg = (
            f"{name} is a dask array with chunks {matrix.chunks!r}: allowed are chunks of whole "
            "cells (rows) of known length. Read it by `scalex_scvi.io.read_lazy`; a matrix that "
            "is stored by genes (CSC) has to be stored by cells (CSR) first."
        )
        raise ValueError(msg)
    return map_rows(matrix, to_csr, name=name)


def lazy_log_normalize(x: DaskArray, target_sum: float | None) -> tuple[DaskArray, float]:
    """Normalise totals and take log1p, by scanpy; the median total costs one pass."""
    if target_sum is None:
        totals = stack_rows(over_blocks(x, _totals), x.chunks[0])
        target_sum = float(np.median(totals[totals > 0]))
    x, target_sum = normalize_total(x, target_sum)
    work = AnnData(X=x)
    sc.pp.log1p(work)
    return work.X, target_sum


def _totals(block: sparse.csr_matrix) -> np.ndarray:
    return np.asarray(block.sum(axis=1)).ravel()


def _select(
    adata: AnnData, moments: BatchMoments, min_cells: int, selection: int | list[str]
) -> tuple[AnnData, np.ndarray]:
    """Filter and select genes; also return which columns of the matrix they are."""
    all_genes = adata.var_names
    adata.var["n_cells"] = moments.cells_with_gene()
    adata = adata[:, features_to_keep(adata, min_cells, RNA)].copy()
    filtered = all_genes.get_indexer(adata.var_names)

    def best(n_top: int) -> np.ndarray:
        ranked = rank_genes(moments.subset(filtered), adata.var_names, n_top)
        adata.var = adata.var.drop(columns=ranked.columns, errors="ignore").join(ranked)
        return ranked["highly_variable"].to_numpy()

    adata = select_features(adata, selection, best, RNA)
    return adata, all_genes.get_indexer(adata.var_names)


def _maxima(
    moments: BatchMoments, names: list[str], columns: np.ndarray, scale_by: ScaleBy
) -> pd.DataFrame:
    maxima = moments.maxima(len(names))[:, columns]
    if scale_by == "global":
        maxima = np.broadcast_to(maxima.max(axis=0), maxima.shape)
    return pd.DataFrame(maxima.T.copy(), columns=names)


def scale_lazily(x: DaskArray, codes: np.ndarray, maxima: pd.DataFrame) -> DaskArray:
    """Divide each cell by the maxima of its batch."""
    return map_rows(x, divide_by_batch, codes, maxima=maxima)
