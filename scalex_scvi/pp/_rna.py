"""Preprocessing of RNA counts for integration."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData

from scalex_scvi._core.columns import batch_codes, check_batch_column
from scalex_scvi._core.matrices import get_matrix, is_lazy

from ._dask import lazy_rna
from ._filter import drop_genes, filter_cells, filter_features
from ._normalize import log_normalize
from ._profiles import RNA
from ._record import DROPPED_PREFIXES, Preprocessing, ScaleBy
from ._scale import scale_and_record
from ._select import Selection, read_selection, select_features
from ._start import finish, start


def rna(
    adata: AnnData,
    *,
    batch_key: str | None = None,
    layer: str | None = None,
    min_features: int = 600,
    min_cells: int = 3,
    target_sum: float | None = 1e4,
    n_top_features: Selection = 2000,
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
        Cells × genes, counts. It is not changed. A dask array of blocks of cells
        (:func:`scalex_scvi.io.read_lazy`, :func:`anndata.experimental.read_lazy`) is read in
        blocks, and never held whole.
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
        :func:`scanpy.pp.highly_variable_genes`), -1 for all, a list of genes, or the path of a text
        file with one gene a line.
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
    ``varm["scalex_scale"]``, which a model takes over. Added are ``obs["n_genes"]`` (detected
    genes), ``var["n_cells"]`` (cells that a gene is detected in) and, where genes were selected by
    number, scanpy's columns of highly variable genes.

    From a dask array ``X`` is one too, evaluated when it is written
    (:func:`scalex_scvi.io.write_store`) or used; there is no ``raw``, and cells without any
    selected gene are not reported. All else is the same.

    Raises
    ------
    KeyError, TypeError, ValueError
        If there is no such batch column or layer, if the values are negative, not finite or look
        log-normalised, or if a filter leaves nothing.
    FileNotFoundError
        If ``n_top_features`` names a file that does not exist.
    """
    selection = read_selection(n_top_features)
    if is_lazy(get_matrix(adata, layer)[0]):
        return lazy_rna(
            adata,
            batch_key=batch_key,
            layer=layer,
            min_features=min_features,
            min_cells=min_cells,
            target_sum=target_sum,
            selection=selection,
            dropped_prefixes=tuple(dropped_prefixes),
            scale_by=scale_by,
            log_normalized=log_normalized,
        )
    work, log_normalized = start(
        adata, RNA, batch_key=batch_key, layer=layer, log_normalized=log_normalized
    )
    work = drop_genes(filter_cells(work, min_features), tuple(dropped_prefixes))
    check_batch_column(work, batch_key)  # again: the filter may leave one cell of a batch
    if not log_normalized:
        work.X, target_sum = log_normalize(work.X, target_sum)
        work.uns.pop("log1p", None)  # of other values
    work = filter_features(work, min_cells, RNA)
    work.raw = work
    work = select_features(work, selection, lambda n: _highly_variable(work, n, batch_key), RNA)
    record = Preprocessing(
        profile=RNA.name,
        target_sum=1e4 if target_sum is None else target_sum,
        scale_by=scale_by,
        dropped_prefixes=tuple(dropped_prefixes),
        log_normalized=log_normalized,
    )
    scale_and_record(work, batch_key, record)
    return finish(work, RNA)


def _highly_variable(adata: AnnData, n_top: int, batch_key: str | None) -> np.ndarray:
    """Mask of highly variable genes; scanpy's columns are written into ``adata.var``."""
    # scanpy wants strings; the user's column may hold integers or booleans.
    codes, _ = batch_codes(adata, batch_key)
    batch = pd.DataFrame({"batch": pd.Categorical(codes.astype(str))}, index=adata.obs_names)
    ranked = AnnData(X=adata.X, obs=batch, var=pd.DataFrame(index=adata.var_names))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=RuntimeWarning)
        sc.pp.highly_variable_genes(ranked, n_top_genes=n_top, batch_key="batch")
    adata.var = adata.var.drop(columns=ranked.var.columns, errors="ignore").join(ranked.var)
    return ranked.var["highly_variable"].to_numpy()
