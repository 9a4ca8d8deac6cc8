"""Cells taken through the transform, and what of them can be seen in an AnnData."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scalex_scvi._core.blocks import blocks_of
from scalex_scvi._core.columns import batch_codes, check_batch_column
from scalex_scvi._core.inputs import check_adata
from scalex_scvi._core.matrices import get_matrix, in_frames, is_lazy, without_matrix
from scalex_scvi._core.measured import mark_measured
from scalex_scvi.io import with_raw

from ._batch_scale import fit_query
from ._columns import MIN_GENE_SHARE, Columns
from ._fit import Fit, fit
from ._preparation import Preparation
from ._profiles import ATAC, get_profile
from ._record import Preprocessing
from ._transform import Transform, divide_by_batch
from ._values import report_empty_cells

UNSCALED_ROWS = 8_192
"""Cells whose factors are held at once."""

_OF_SELECTION = (
    "highly_variable",
    "means",
    "dispersions",
    "dispersions_norm",
    "highly_variable_nbatches",
    "highly_variable_intersection",
    "variance_within_batches",
)
"""Columns of ``var`` that say how features were selected."""


def fit_adata(
    adata: AnnData, preparation: Preparation, batch_key: str | None, layer: str | None
) -> Fit:
    """Fit the transform to the counts of an AnnData: see :meth:`Preprocessing.fit`."""
    check_adata(adata, lazy_obs=True)
    adata, layer = with_raw(adata, layer)
    profile = get_profile(preparation.profile)
    matrix, name = get_matrix(adata, layer, features=profile.features)
    light = in_frames(adata)
    check_batch_column(light, batch_key)
    codes, names = batch_codes(light, batch_key)
    blocks = blocks_of(matrix, codes)
    return fit(blocks, light.var, names, preparation, name=name, batch_key=batch_key)


def prepare(
    adata: AnnData,
    preparation: Preparation,
    *,
    batch_key: str | None = None,
    layer: str | None = None,
) -> AnnData:
    """Fit the transform to counts, and return what it makes of them as a new AnnData.

    Parameters
    ----------
    adata
        Cells × features, counts. It is not changed.
    preparation
        What is to be done.
    batch_key
        Column of ``adata.obs`` with the batches; ``None``: all cells are one batch.
    layer
        Layer with the counts, instead of ``adata.X``; ``"raw"``: ``adata.raw``, with its genes.

    Returns
    -------
    See :func:`scalex_scvi.pp.rna`.

    Raises
    ------
    KeyError, TypeError, ValueError, FileNotFoundError
        See :func:`scalex_scvi.pp.rna`.
    """
    check_adata(adata, lazy_obs=True)
    adata, layer = with_raw(adata, layer)
    found = fit_adata(adata, preparation, batch_key, layer)
    record = found.record
    result = _annotated(adata, found)
    codes, names = batch_codes(result, batch_key)
    of_all_cells = np.zeros(adata.n_obs, dtype=np.intp)
    of_all_cells[found.kept] = codes
    blocks = blocks_of(get_matrix(adata, layer)[0], of_all_cells)
    scale = record.scale_of(names)
    passed = result.uns.pop("_passed")
    if blocks.is_lazy or record.profile == ATAC.name:
        transform = Transform.by_position(record, found.over, found.selected).with_scale(scale)
        x = blocks.collect(transform, n_columns=len(record.genes), keep=found.kept)
    else:
        normal = blocks.collect(
            _normalize,
            Transform.by_position(record, found.over, found.passed),
            n_columns=len(found.passed),
            keep=found.kept,
        )
        result.raw = AnnData(normal, obs=result.obs[[]], var=passed)
        chosen = np.searchsorted(found.passed, found.selected)
        x = Columns.at(chosen, len(found.passed)).pick(normal)
        x = divide_by_batch(x.copy() if x is normal else x, codes, scale)
    if sparse.issparse(x):
        report_empty_cells(int((x.getnnz(axis=1) == 0).sum()), x.shape, record.profile)
    result.X = x
    record.to_adata(result)
    return result


def _normalize(block: Any, codes: np.ndarray, transform: Transform) -> sparse.csr_matrix:
    return transform.normalize(block)


def _annotated(adata: AnnData, found: Fit) -> AnnData:
    """Annotations of the cells that are kept and of the selected features, without a matrix."""
    light = without_matrix(adata)
    light.uns.pop("log1p", None)  # of other values
    var = light.var.drop(columns=found.columns.columns, errors="ignore")
    passed = var.iloc[found.passed].join(_as_scanpy(found.columns))
    chosen = np.searchsorted(found.passed, found.selected)
    result = AnnData(
        obs=light.obs[found.kept].copy(),
        var=passed.iloc[chosen].copy(),
        obsm={key: value[found.kept] for key, value in light.obsm.items()},
        uns=light.uns,
    )
    result.obs["n_genes"] = found.detected[found.kept]
    result.uns["_passed"] = passed.drop(columns=[c for c in passed if c in _OF_SELECTION])
    return result


def _as_scanpy(columns: pd.DataFrame) -> pd.DataFrame:
    """Give columns the types that they had before features were left out of them."""
    types = {
        "highly_variable": bool,
        "highly_variable_intersection": bool,
        "highly_variable_nbatches": np.int64,
        "dispersions_norm": np.float32,
    }
    return columns.astype({name: kind for name, kind in types.items() if name in columns})


def prepare_query(
    adata: AnnData,
    preprocessing: Preprocessing,
    *,
    batch_key: str | None = None,
    layer: str | None = None,
    log_normalized: bool | None = None,
    min_gene_share: float = MIN_GENE_SHARE,
) -> AnnData:
    """Take counts of new cells through the transform that was fitted to the reference.

    The query is normalized as its profile says, and the reference's genes (peaks, proteins) are
    picked, with zeros for missing ones:

    - RNA: log-normalized over all genes of the query, or over those that the reference's record
      names in ``panel``, then picked.
    - ATAC: picked, then each cell's total brought to the total that the reference used, and
      logarithms taken where the reference took them.
    - ADT: picked, then the centered log-ratio taken over the proteins that the query has: other
      proteins do not matter, and missing ones are left out of the mean instead of taken for zero.

    Cells that lack some of the genes (peaks) over which the reference was normalized are brought to
    the total that the others make up there, if the record knows it.

    Then each batch is scaled. A batch that the reference knows keeps the reference's scale, so
    that cells of the reference come out exactly as they went in; a new batch has the geometric
    mean of the reference's scales, or its own maxima (``new_batches`` of :class:`Preparation`).
    No cell and no gene is filtered out.

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
        Layer with the counts, instead of ``adata.X``; ``"raw"``: ``adata.raw``, with its genes.
    log_normalized
        Whether the values are normalized already, like the reference's. ``None``: counts are
        expected, and values that look normalized raise an error. If all cells of RNA have the same
        total before log1p (to 1 %, of at least 10 cells) over the genes of ``adata``, and not that
        of the reference over these, log1p is undone, and they are normalized as counts are, with a
        warning. Cells that were normalized over more genes stay as they are.
    min_gene_share
        Share of the reference's genes that the query must have, 0 to 1. A query with fewer is
        refused, since most of its genes would have to be guessed. Genes are found by ``var_names``;
        if these are clearly of another kind than the reference's names, by a column of ``var``
        (such as CELLxGENE's ``feature_name``), or by ids without their versions, with a warning.

    Returns
    -------
    Cells × reference genes: ``X`` (CSR, float32) in [0, 1], ``obs``, ``obsm`` and ``uns`` of the
    query, the number of detected genes in ``obs["n_genes"]``, and the record. If genes are missing,
    ``var["scalex_measured"]`` is False for these. From a dask array ``X`` is one too, evaluated
    when it is written or used.

    Raises
    ------
    KeyError, TypeError, ValueError
        As :func:`rna`; also if too few genes are shared, a reference gene occurs more than once, or
        counts are given where the reference's peaks or proteins came normalized.
    """
    check_adata(adata, lazy_obs=True)
    if not isinstance(preprocessing, Preprocessing):
        msg = (
            f"`preprocessing` is a {type(preprocessing).__name__!r}; allowed is a record: "
            "`model.preprocessing`, or `Preprocessing.from_adata(prepared)`. A model that was "
            "given values in [0, 1] without one has none."
        )
        raise TypeError(msg)
    adata, layer = with_raw(adata, layer)
    matrix, _ = get_matrix(adata, layer, features=get_profile(preprocessing.profile).features)
    found = fit_query(
        adata,
        preprocessing,
        batch_key=batch_key,
        layer=layer,
        log_normalized=log_normalized,
        min_gene_share=min_gene_share,
    )
    codes, names = batch_codes(in_frames(adata), batch_key)
    transform = found.transform.with_scale(found.record.scale_of(names))
    light = without_matrix(adata)
    query = AnnData(
        X=blocks_of(matrix, codes).collect(transform, n_columns=len(preprocessing.genes)),
        obs=light.obs.assign(n_genes=found.detected),
        var=pd.DataFrame(index=pd.Index(preprocessing.genes)),
        obsm=dict(light.obsm),
        uns=light.uns,
    )
    mark_measured(query.var, transform.measured)
    replace(found.record, scale=found.record.scale[names]).to_adata(query)
    return query


def unscale(adata: AnnData) -> sparse.csr_matrix:
    """Undo the scaling of prepared cells, by their record.

    Parameters
    ----------
    adata
        Prepared cells × genes, ``X`` in [0, 1]. It is not changed.

    Returns
    -------
    Normalized expression, cells × genes, in which batches differ by what scaling takes out.

    Raises
    ------
    ValueError
        If the scale is not known: see :func:`can_unscale`.
    """
    record = Preprocessing.from_adata(adata)
    if record is None or not can_unscale(adata):
        msg = (
            "`adata` carries no record of the scale of each of its batches, or is a dask array: "
            "pass what `model.get_prepared()` gives, in memory."
        )
        raise ValueError(msg)
    codes, names = batch_codes(adata, record.batch_key)
    scale = record.scale_of(names)
    # Without a scale there, the value was left as it was, as in `divide_by_batch`.
    factors = np.where(scale > 0, scale, 1)
    csr = sparse.csr_matrix(adata.X, dtype=np.float32, copy=True)
    for start in range(0, csr.shape[0], UNSCALED_ROWS):
        bounds = csr.indptr[start : start + UNSCALED_ROWS + 1]
        block = slice(bounds[0], bounds[-1])
        batch = np.repeat(codes[start : start + UNSCALED_ROWS], np.diff(bounds))
        csr.data[block] *= factors[batch, csr.indices[block]]
    return csr


def can_unscale(adata: AnnData) -> bool:
    """Whether cells are in memory, with a record of the scale of each of their batches.

    Parameters
    ----------
    adata
        Cells × genes, as :func:`rna` or :meth:`scalex_scvi.SCALEXModel.get_prepared` return them.
    """
    record = Preprocessing.from_adata(adata)
    if record is None or adata.X is None or is_lazy(adata.X):
        return False
    if record.batch_key is not None and record.batch_key not in adata.obs:
        return False
    codes, names = batch_codes(adata, record.batch_key)
    return bool((codes >= 0).all()) and set(names) <= set(record.scale.columns)
