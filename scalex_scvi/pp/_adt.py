"""Preprocessing of surface proteins (antibody-derived tags) for integration."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from sklearn.utils.sparsefuncs import mean_variance_axis

from scalex_scvi._core.columns import batch_codes, check_batch_column

from ._filter import filter_cells, filter_features
from ._normalize import centered_log_ratio
from ._profiles import ADT
from ._record import Preprocessing, ScaleBy
from ._scale import scale_and_record
from ._select import Selection, read_selection, select_features
from ._start import finish, start


def adt(
    adata: AnnData,
    *,
    batch_key: str | None = None,
    layer: str | None = None,
    min_features: int = 0,
    min_cells: int = 1,
    n_top_features: Selection = -1,
    scale_by: ScaleBy = "batch",
    log_normalized: bool | None = None,
) -> AnnData:
    """Normalise antibody counts by centred log-ratio and scale to [0, 1] within each batch.

    The published package has no such profile. Where the proteins of CITE-seq data lie in
    ``obsm``, make them an object of their own first::

        proteins = AnnData(adata.obsm["protein_expression"], obs=adata.obs)

    Parameters
    ----------
    adata
        Cells × proteins, counts. It is not changed.
    batch_key
        Column of ``adata.obs`` with the batches; ``None``: all cells are one batch.
    layer
        Layer with the counts, instead of ``adata.X``.
    min_features
        Cells with fewer detected proteins are removed. None are by default: panels hold some
        dozens of proteins, most of which are detected in most cells.
    min_cells
        Proteins detected in fewer cells are removed; by default those that no cell has.
    n_top_features
        -1 for all (default: proteins on a panel were chosen by hand), a list of proteins, the path
        of a text file with one protein a line, or a number: those of the highest variance within
        batches.
    scale_by
        ``"batch"`` (the paper) or ``"global"``.
    log_normalized
        Whether the values are normalised already; they must be non-negative. ``None`` decides, and
        raises when it looks like it.

    Returns
    -------
    A new AnnData, cells × selected proteins: ``X`` (CSR, float32) in [0, 1], ``raw`` with the
    centred log-ratios of all proteins that passed the filter, ``obs``, ``var``, ``obsm`` and
    ``uns`` of ``adata``, and the record of all this in ``uns["scalex"]`` and
    ``varm["scalex_scale"]``, which a model takes over. Added are ``obs["n_genes"]`` (detected
    proteins), ``var["n_cells"]`` and, where proteins were selected by number,
    ``var["variance_within_batches"]``.

    Raises
    ------
    KeyError, TypeError, ValueError, FileNotFoundError
        As :func:`rna`; also if the values are not whole numbers and nothing is declared.

    Notes
    -----
    The centred log-ratio (Stoeckius et al., Nat Methods 14:865, 2017) is taken in each cell, in
    the non-negative form of Seurat (``margin = 2``) and muon (``axis=1``): a count ``x`` becomes
    ``log1p(x / g)`` with ``g = exp(mean(log1p(all counts of the cell)))``. The mean is over all
    proteins that passed the filter.
    """
    selection = read_selection(n_top_features)
    work, log_normalized = start(
        adata, ADT, batch_key=batch_key, layer=layer, log_normalized=log_normalized
    )
    work = filter_cells(work, min_features, profile=ADT.name)
    check_batch_column(work, batch_key)  # again: the filter may leave one cell of a batch
    work = filter_features(work, min_cells, ADT)
    if not log_normalized:
        work.X = centered_log_ratio(work.X, work.n_vars)
    record = Preprocessing(
        profile=ADT.name,
        target_sum=None,
        scale_by=scale_by,
        dropped_prefixes=(),
        panel=tuple(work.var_names),
        log_normalized=log_normalized,
    )
    work.raw = work
    work = select_features(work, selection, lambda n: _most_variable(work, n, batch_key), ADT)
    scale_and_record(work, batch_key, record)
    return finish(work, ADT)


def _most_variable(adata: AnnData, n_top: int, batch_key: str | None) -> np.ndarray:
    """Mask of the proteins of the highest variance within batches, which is written down."""
    codes, names = batch_codes(adata, batch_key)
    variance = np.zeros(adata.n_vars)
    for code in range(len(names)):
        rows = codes == code
        variance += rows.mean() * mean_variance_axis(adata.X[rows], axis=0)[1]
    adata.var["variance_within_batches"] = variance
    mask = np.zeros(adata.n_vars, dtype=bool)
    mask[np.argsort(-variance, kind="stable")[:n_top]] = True
    return mask
