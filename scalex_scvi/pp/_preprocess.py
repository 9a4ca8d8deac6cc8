"""Preparation of counts for each kind of data: what the transform gives, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anndata import AnnData

from ._preparation import DROPPED_PREFIXES, Preparation, ScaleBy
from ._prepare import prepare
from ._profiles import ADT, ATAC, RNA, get_profile
from ._select import Selection


def rna(
    adata: AnnData,
    *,
    batch_key: str | None = None,
    layer: str | None = None,
    min_features: int = 0,
    min_cells: int = 3,
    target_sum: float | None = 1e4,
    n_top_features: Selection = 2000,
    dropped_prefixes: Sequence[str] = DROPPED_PREFIXES,
    scale_by: ScaleBy = "batch",
    log_normalized: bool | None = None,
) -> AnnData:
    """Filter, normalize, select genes and scale to [0, 1] within each batch.

    Totals are taken over all genes (less the dropped ones), before rare genes are filtered out, so
    that a query, whose genes cannot be filtered like the reference's, is normalized alike.

    Parameters
    ----------
    adata
        Cells × genes, counts. It is not changed. A dask array of blocks of cells
        (:func:`scalex_scvi.io.read_lazy`, :func:`anndata.experimental.read_lazy`) is read in
        blocks, and never held whole.
    batch_key
        Column of ``adata.obs`` with the batches; ``None``: all cells are one batch.
    layer
        Layer with the counts, instead of ``adata.X``; ``"raw"``: ``adata.raw``, with its genes.
    min_features
        Cells with fewer detected genes are left out; by default none are.
    min_cells
        Genes detected in fewer cells are removed.
    target_sum
        Total counts of a cell after normalization; ``None``: the median over cells.
    n_top_features
        Number of highly variable genes (over batches, see
        :func:`scanpy.pp.highly_variable_genes`), -1 for all, a list of genes, or the path of a text
        file with one gene a line.
    dropped_prefixes
        Genes starting with one of these are dropped; ``()`` keeps all.
    scale_by
        ``"batch"`` (the paper) or ``"global"``.
    log_normalized
        Whether the values are log-normalized already. ``None``: counts are expected, and values
        that look log-normalized raise an error.

    Returns
    -------
    A new AnnData, cells × selected genes: ``X`` (CSR, float32) in [0, 1], ``raw`` with the
    log-normalized expression of all genes that passed the filter, ``obs``, ``var``, ``obsm`` and
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
        log-normalized, or if a filter leaves nothing.
    FileNotFoundError
        If ``n_top_features`` names a file that does not exist.
    """
    return prepare(
        adata,
        Preparation(
            profile=RNA.name,
            min_features=min_features,
            min_cells=min_cells,
            target_sum="median" if target_sum is None else target_sum,
            n_top_features=n_top_features,
            dropped_prefixes=dropped_prefixes,
            scale_by=scale_by,
            log_normalized=log_normalized,
        ),
        batch_key=batch_key,
        layer=layer,
    )


def atac(
    adata: AnnData,
    *,
    batch_key: str | None = None,
    layer: str | None = None,
    min_features: int = 0,
    min_cells: int = 3,
    target_sum: float | None = 1e4,
    n_top_features: Selection = 30_000,
    log1p: bool = True,
    scale_by: ScaleBy = "batch",
    log_normalized: bool | None = None,
) -> AnnData:
    """Filter, select peaks, normalize and scale to [0, 1] within each batch.

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
        Layer with the counts, instead of ``adata.X``; ``"raw"``: ``adata.raw``, with its genes.
    min_features
        Cells with fewer detected peaks are left out; by default none are.
    min_cells
        Peaks detected in fewer cells are removed (published default).
    target_sum
        Total of a cell over the selected peaks after normalization; ``None``: the median over the
        cells that have any (published documentation). The number is recorded and used for queries.
    n_top_features
        Number of peaks with the highest variability score (published default), ties with the last
        one kept; -1 for all, a list of peaks, or the path of a text file with one peak a line. The
        score of a peak that a share ``p`` of cells has is ``1 - abs(p - 0.5)``, as in episcanpy
        (Danese et al., Nat Commun 12:5228, 2021).
    log1p
        Whether to take ``log1p`` of the normalized values. Without logarithms (the published
        documentation) the peaks of deep cells are scaled towards zero by those of shallow ones:
        integration is worse and depends on the seed (``docs/decisions.md``).
    scale_by
        ``"batch"`` (the paper) or ``"global"``.
    log_normalized
        Whether the values are normalized already (with or without logarithms); they are then
        selected and scaled only. ``None``: counts are expected, and other values raise an error.

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
    return prepare(
        adata,
        Preparation(
            profile=ATAC.name,
            min_features=min_features,
            min_cells=min_cells,
            target_sum="median" if target_sum is None else target_sum,
            n_top_features=n_top_features,
            log1p=log1p,
            scale_by=scale_by,
            log_normalized=log_normalized,
        ),
        batch_key=batch_key,
        layer=layer,
    )


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
    """Normalize antibody counts by centered log-ratio and scale to [0, 1] within each batch.

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
        Layer with the counts, instead of ``adata.X``; ``"raw"``: ``adata.raw``, with its genes.
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
        Whether the values are normalized already; they must be non-negative. ``None``: counts are
        expected, and other values raise an error.

    Returns
    -------
    A new AnnData, cells × selected proteins: ``X`` (CSR, float32) in [0, 1], ``raw`` with the
    centered log-ratios of all proteins that passed the filter, ``obs``, ``var``, ``obsm`` and
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
    The centered log-ratio (Stoeckius et al., Nat Methods 14:865, 2017) is taken in each cell, in
    the non-negative form of Seurat (``margin = 2``) and muon (``axis=1``): a count ``x`` becomes
    ``log1p(x / g)`` with ``g = exp(mean(log1p(all counts of the cell)))``. The mean is over all
    proteins that passed the filter.
    """
    return prepare(
        adata,
        Preparation(
            profile=ADT.name,
            min_features=min_features,
            min_cells=min_cells,
            n_top_features=n_top_features,
            scale_by=scale_by,
            log_normalized=log_normalized,
        ),
        batch_key=batch_key,
        layer=layer,
    )


def preprocess(
    adata: AnnData,
    profile: str = "RNA",
    *,
    batch_key: str | None = None,
    layer: str | None = None,
    min_features: int | None = None,
    min_cells: int | None = None,
    target_sum: float | None = None,
    n_top_features: Selection | None = None,
    **more: Any,
) -> AnnData:
    """Prepare counts for integration, as the kind of data needs it.

    ``None`` means the profile's own default:

    ======================  ======  ======  ====
    ..                      RNA     ATAC    ADT
    ======================  ======  ======  ====
    ``min_features``        0       0       0
    ``min_cells``           3       3       1
    ``target_sum``          1e4     1e4     not taken
    ``n_top_features``      2000    30 000  -1 (all)
    ======================  ======  ======  ====

    Parameters
    ----------
    adata
        Cells × genes (peaks, proteins), counts. It is not changed.
    profile
        ``"RNA"`` (:func:`rna`), ``"ATAC"`` (:func:`atac`) or ``"ADT"`` (:func:`adt`), upper or
        lower case.
    batch_key
        Column of ``adata.obs`` with the batches; ``None``: all cells are one batch.
    layer
        Layer with the counts, instead of ``adata.X``; ``"raw"``: ``adata.raw``, with its genes.
    min_features
        Cells with fewer detected features are removed.
    min_cells
        Features detected in fewer cells are removed.
    target_sum
        Total of a cell after normalization. For the median call :func:`rna` or :func:`atac`.
    n_top_features
        Number of features to select, -1 for all, a list of names, or the path of a text file with
        one name a line. More than there are means all.
    **more
        Further options of :class:`Preparation`: ``scale_by``, ``new_batches``,
        ``log_normalized``, for RNA ``dropped_prefixes`` and for ATAC ``log1p``.

    Returns
    -------
    What the profile's function returns.

    Raises
    ------
    KeyError, TypeError, ValueError, FileNotFoundError
        As the profile's function; also for an unknown profile, or an argument that it does not
        take.
    """
    name = get_profile(profile).name
    options: dict[str, Any] = {
        "min_features": min_features,
        "min_cells": min_cells,
        "target_sum": target_sum,
        "n_top_features": n_top_features,
    } | more
    allowed = [f for f in Preparation.names() if f not in ("profile", "processed")]
    unknown = [key for key in options if key not in allowed]
    if unknown:
        msg = f"`profile` {name!r} takes no {unknown!r}; allowed are {allowed!r}."
        raise TypeError(msg)
    return prepare(adata, Preparation(profile=name, **options), batch_key=batch_key, layer=layer)


def batch_scale(
    adata: AnnData, batch_key: str | None = None, *, scale_by: ScaleBy = "batch"
) -> AnnData:
    """Divide each gene by its maximum within each batch.

    Parameters
    ----------
    adata
        Cells × genes, non-negative, usually log-normalized. It is not changed.
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
    KeyError, TypeError
        If there is no such column, or ``adata`` is no AnnData.
    ValueError
        For negative or non-finite values, and for missing or one-cell batches.
    """
    as_it_is = Preparation(
        min_cells=0,
        n_top_features=-1,
        dropped_prefixes=(),
        log_normalized=True,
        scale_by=scale_by,
    )
    return prepare(adata, as_it_is, batch_key=batch_key)
