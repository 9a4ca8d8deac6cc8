"""Preprocessing of chromatin accessibility (peaks) for integration."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from scalex_scvi._core.columns import check_batch_column

from ._filter import filter_cells, filter_features
from ._normalize import log_normalize, normalize_total
from ._profiles import ATAC
from ._record import Preprocessing, ScaleBy
from ._scale import scale_and_record
from ._select import Selection, read_selection, select_features
from ._start import finish, start


def atac(
    adata: AnnData,
    *,
    batch_key: str | None = None,
    layer: str | None = None,
    min_features: int = 100,
    min_cells: int = 3,
    target_sum: float | None = 1e4,
    n_top_features: Selection = 30_000,
    log1p: bool = True,
    scale_by: ScaleBy = "batch",
    log_normalized: bool | None = None,
) -> AnnData:
    """Filter, select peaks, normalise and scale to [0, 1] within each batch.

    Totals are taken over the selected peaks, as in the published documentation, then logarithms,
    as in the published package since 1.0.4. Gene activity (counts per gene) is prepared by
    :func:`rna` instead, together with RNA as another batch.

    Parameters
    ----------
    adata
        Cells × peaks, counts or zeros and ones. It is not changed.
    batch_key
        Column of ``adata.obs`` with the batches; ``None``: all cells are one batch.
    layer
        Layer with the counts, instead of ``adata.X``.
    min_features
        Cells with fewer detected peaks are removed (published default).
    min_cells
        Peaks detected in fewer cells are removed (published default).
    target_sum
        Total of a cell over the selected peaks after normalisation; ``None``: the median over the
        cells that have any (published documentation). The number is recorded and used for queries.
    n_top_features
        Number of peaks with the highest variability score (published default), ties with the last
        one kept; -1 for all, a list of peaks, or the path of a text file with one peak a line. The
        score of a peak that a share ``p`` of cells has is ``1 - abs(p - 0.5)``, as in episcanpy
        (Danese et al., Nat Commun 12:5228, 2021).
    log1p
        Whether to take ``log1p`` of the normalised values. Without logarithms (the published
        documentation) the peaks of deep cells are scaled towards zero by those of shallow ones:
        integration is worse and depends on the seed (``docs/decisions.md``).
    scale_by
        ``"batch"`` (the paper) or ``"global"``.
    log_normalized
        Whether the values are normalised already (with or without logarithms); they are then
        selected and scaled only. ``None`` decides, and raises when it looks like it.

    Returns
    -------
    A new AnnData, cells × selected peaks: ``X`` (CSR, float32) in [0, 1], ``obs``, ``var``,
    ``obsm`` and ``uns`` of ``adata``, and the record of all this in ``uns["scalex"]`` and
    ``varm["scalex_scale"]``, which a model takes over. Added are ``obs["n_genes"]`` (detected
    peaks; the published name), ``var["n_cells"]``, ``var["prop_shared_cells"]`` and
    ``var["variability_score"]``. There is no ``raw``. A cell without any selected peak stays, all
    zero, and is reported.

    Raises
    ------
    KeyError, TypeError, ValueError, FileNotFoundError
        As :func:`rna`; also if the values are not whole numbers and nothing is declared.
    """
    selection = read_selection(n_top_features)
    work, log_normalized = start(
        adata, ATAC, batch_key=batch_key, layer=layer, log_normalized=log_normalized
    )
    work = filter_cells(work, min_features, profile=ATAC.name)
    check_batch_column(work, batch_key)  # again: the filter may leave one cell of a batch
    work = filter_features(work, min_cells, ATAC)
    _score(work)
    work = select_features(work, selection, lambda n: _most_variable(work, n), ATAC)
    if not log_normalized:
        work.X, target_sum = (log_normalize if log1p else normalize_total)(work.X, target_sum)
    record = Preprocessing(
        profile=ATAC.name,
        target_sum=target_sum,
        scale_by=scale_by,
        dropped_prefixes=(),
        panel=tuple(work.var_names),
        log_normalized=log_normalized,
        log1p=log1p,
    )
    scale_and_record(work, batch_key, record)
    return finish(work, ATAC)


def _score(adata: AnnData) -> None:
    """Write the variability score of each peak into ``adata.var``."""
    share = adata.var["n_cells"] / adata.n_obs
    adata.var["prop_shared_cells"] = share
    adata.var["variability_score"] = 1 - (share - 0.5).abs()


def _most_variable(adata: AnnData, n_top: int) -> np.ndarray:
    """Mask of the peaks whose share of cells is nearest to one half, ties kept."""
    # In whole cells: as floats, shares of 0.3 and 0.7 are not quite equally far from 0.5.
    distance = np.abs(2 * adata.var["n_cells"].to_numpy().astype(np.int64) - adata.n_obs)
    return distance <= np.partition(distance, n_top - 1)[n_top - 1]
