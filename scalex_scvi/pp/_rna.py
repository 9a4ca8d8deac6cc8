"""Preprocessing of RNA counts for integration."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from ._checks import (
    batch_codes,
    check_batch_column,
    check_expression,
    check_unique_genes,
    decide_log_normalised,
    get_matrix,
    to_csr,
    with_matrix,
)
from ._record import DROPPED_PREFIXES, Preprocessing, ScaleBy
from ._scale import batch_maxima, divide_by_batch

logger = logging.getLogger(__name__)


def rna(
    adata: AnnData,
    *,
    batch_key: str | None = None,
    layer: str | None = None,
    min_features: int = 600,
    min_cells: int = 3,
    target_sum: float | None = 1e4,
    n_top_features: int | Sequence[str] = 2000,
    dropped_prefixes: Sequence[str] = DROPPED_PREFIXES,
    scale_by: ScaleBy = "batch",
    log_normalized: bool | None = None,
) -> AnnData:
    """Filter, normalise, select genes and scale to [0, 1] within each batch.

    Totals are taken over all genes (less the dropped ones), before rare genes are filtered out, so
    that a query, whose genes cannot be filtered like the reference's, is normalised alike.

    Parameters
    ----------
    adata
        Cells × genes, counts. It is not changed.
    batch_key
        Column of ``adata.obs`` with the batches; ``None``: all cells are one batch.
    layer
        Layer with the counts, instead of ``adata.X``.
    min_features
        Cells with fewer detected genes are removed (published default). Lower it for panels.
    min_cells
        Genes detected in fewer cells are removed.
    target_sum
        Total counts of a cell after normalisation; ``None``: the median over cells.
    n_top_features
        Number of highly variable genes (over batches, see
        :func:`scanpy.pp.highly_variable_genes`), a list of genes, or -1 for all.
    dropped_prefixes
        Genes starting with one of these are dropped; ``()`` keeps all.
    scale_by
        ``"batch"`` (the paper) or ``"global"``.
    log_normalized
        Whether the values are log-normalised already. ``None`` decides, and raises when it looks
        like it.

    Returns
    -------
    A new AnnData, cells × selected genes: ``X`` (CSR, float32) in [0, 1], ``raw`` with the
    log-normalised expression of all genes that passed the filter, ``obs``, ``var``, ``obsm`` and
    ``uns`` of ``adata``, and the record of all this in ``uns["scalex"]`` and
    ``varm["scalex_scale"]``, which a model takes over.

    Raises
    ------
    KeyError, ValueError
        If there is no such batch column or layer, if the values are negative, not finite or look
        log-normalised, or if a filter leaves nothing.
    """
    check_batch_column(adata, batch_key)
    check_unique_genes(adata.var_names, what="`adata`")
    matrix, name = get_matrix(adata, layer)
    csr = to_csr(matrix, name=name)
    check_expression(csr, name=name)
    log_normalized = decide_log_normalised(csr, log_normalized, name=name)

    work = with_matrix(adata, csr, adata.var)
    logger.info("Raw data: %d cells × %d genes.", work.n_obs, work.n_vars)
    work = drop_genes(filter_cells(work, min_features), tuple(dropped_prefixes))
    check_batch_column(work, batch_key)
    if not log_normalized:
        target_sum = log_normalize(work, target_sum)
    work = _filter_genes(work, min_cells)
    selected = _select_genes(work, n_top_features, batch_key)
    record = Preprocessing(
        target_sum=1e4 if target_sum is None else float(target_sum),
        scale_by=scale_by,
        dropped_prefixes=tuple(dropped_prefixes),
    )
    _scale(selected, batch_key, record)
    logger.info("Processed data: %d cells × %d genes.", selected.n_obs, selected.n_vars)
    return selected


def filter_cells(adata: AnnData, min_features: int) -> AnnData:
    """Keep cells with enough detected genes, and report how many.

    Parameters
    ----------
    adata
        Cells × genes. It is not changed.
    min_features
        Cells with fewer genes above zero are left out; 0 keeps all.

    Returns
    -------
    A new AnnData.

    Raises
    ------
    ValueError
        If no cell is left.
    """
    matrix, name = get_matrix(adata, layer=None)
    detected = to_csr(matrix, name=name).getnnz(axis=1)
    keep = detected >= min_features
    if not keep.any():
        msg = (
            f"No cell has `min_features`={min_features!r} genes: the median cell has "
            f"{np.median(detected):.0f}, the best {detected.max()}. Lower `min_features`."
        )
        raise ValueError(msg)
    logger.info("Kept %d of %d cells (min_features=%d).", keep.sum(), len(keep), min_features)
    kept = adata[keep]
    return kept.to_memory() if adata.isbacked else kept.copy()


def drop_genes(adata: AnnData, prefixes: tuple[str, ...]) -> AnnData:
    """Leave out genes whose names start with one of ``prefixes``."""
    dropped = starts_with(adata.var_names, prefixes)
    if not dropped.any():
        return adata
    logger.info("Dropped %d genes named %s.", dropped.sum(), ", ".join(f"{p}*" for p in prefixes))
    return adata[:, ~dropped].copy()


def starts_with(names: pd.Index, prefixes: tuple[str, ...]) -> np.ndarray:
    """Tell for each name whether it starts with one of ``prefixes``."""
    return np.array([str(name).startswith(prefixes) for name in names], dtype=bool)


def log_normalize(adata: AnnData, target_sum: float | None) -> float:
    """Normalise totals and take log1p, in place; return the total that was used."""
    if target_sum is None:
        totals = np.asarray(adata.X.sum(axis=1)).ravel()
        target_sum = float(np.median(totals[totals > 0]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some cells have zero counts")
        sc.pp.normalize_total(adata, target_sum=target_sum)
    adata.uns.pop("log1p", None)
    sc.pp.log1p(adata)
    return target_sum


def _filter_genes(adata: AnnData, min_cells: int) -> AnnData:
    adata.var["n_cells"] = adata.X.getnnz(axis=0)
    keep = (adata.var["n_cells"] >= min_cells).to_numpy()
    if not keep.any():
        msg = (
            f"No gene is detected in `min_cells`={min_cells!r} of {adata.n_obs} cells. "
            "Lower `min_cells`."
        )
        raise ValueError(msg)
    logger.info("Kept %d of %d genes (min_cells=%d).", keep.sum(), len(keep), min_cells)
    return adata[:, keep].copy()


def _select_genes(
    adata: AnnData, n_top_features: int | Sequence[str], batch_key: str | None
) -> AnnData:
    """Subset to the selected genes; all genes stay in ``raw``."""
    adata.raw = adata
    if not isinstance(n_top_features, (int, np.integer)):
        return _select_listed(adata, list(n_top_features))
    if n_top_features == -1 or n_top_features >= adata.n_vars:
        return adata
    if n_top_features < 1:
        msg = f"`n_top_features` must be positive, -1 (all) or a list, got {n_top_features!r}."
        raise ValueError(msg)
    # scanpy wants strings; the user's column may hold integers or booleans.
    codes, _ = batch_codes(adata, batch_key)
    ranked = AnnData(X=adata.X, obs=pd.DataFrame({"batch": pd.Categorical(codes.astype(str))}))
    ranked.obs_names, ranked.var_names = adata.obs_names.astype(str), adata.var_names
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=RuntimeWarning)
        sc.pp.highly_variable_genes(ranked, n_top_genes=n_top_features, batch_key="batch")
    adata.var = adata.var.drop(columns=ranked.var.columns, errors="ignore").join(ranked.var)
    return adata[:, ranked.var["highly_variable"].to_numpy()].copy()


def _select_listed(adata: AnnData, genes: list[str]) -> AnnData:
    missing = [gene for gene in genes if gene not in adata.var_names]
    if len(missing) == len(genes):
        msg = f"None of the {len(genes)} listed genes is in the data, e.g. {missing[:5]!r}."
        raise ValueError(msg)
    if missing:
        logger.warning(
            "%d of %d listed genes are not in the data (after filtering), for example %s.",
            len(missing),
            len(genes),
            missing[:5],
        )
    return adata[:, [gene for gene in genes if gene in adata.var_names]].copy()


def _scale(adata: AnnData, batch_key: str | None, record: Preprocessing) -> None:
    codes, names = batch_codes(adata, batch_key)
    csr = sparse.csr_matrix(adata.X)
    maxima = batch_maxima(csr, codes, names, scale_by=record.scale_by)
    adata.X = divide_by_batch(csr, codes, maxima)
    record.with_scale(maxima).to_adata(adata)
