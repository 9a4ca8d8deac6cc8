"""The scale of a query's batches: that of the reference, by default for new ones too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scalex_scvi._core.blocks import Blocks, blocks_of
from scalex_scvi._core.columns import batch_codes, check_batch_column
from scalex_scvi._core.matrices import get_matrix, in_frames, to_csr

from ._columns import MIN_GENE_SHARE
from ._many import narrow, tally_cells, worth_compiling
from ._normalize import totals, without_logarithms
from ._profiles import RNA, get_profile
from ._record import Preprocessing
from ._transform import SAME_TOTAL, Transform
from ._values import (
    BatchValues,
    ValueSummary,
    check_counts,
    check_expression,
    report_empty_cells,
)

FEWEST_TO_COMPARE = 10
"""Cells whose totals are the same by chance, if there are fewer."""


@dataclass(frozen=True)
class QueryFit:
    """A record for other cells.

    Attributes
    ----------
    record
        The reference's, with the scale of the query's new batches added.
    transform
        From the query's features to the record's, without a scale.
    detected
        Number of detected features of each cell.
    own_total
        Total that log-normalized cells were brought to over their own features, if all have the
        same; else ``None``.
    """

    record: Preprocessing
    transform: Transform
    detected: np.ndarray
    own_total: float | None


def fit_query(
    adata: AnnData,
    reference: Preprocessing,
    *,
    batch_key: str | None = None,
    layer: str | None = None,
    log_normalized: bool | None = None,
    min_gene_share: float = MIN_GENE_SHARE,
) -> QueryFit:
    """Check a query's counts and find the scale of its batches, in one pass over blocks.

    Parameters
    ----------
    adata
        Cells × features, counts; not changed.
    reference
        What was fitted to the reference.
    batch_key, layer, log_normalized, min_gene_share
        See :func:`scalex_scvi.pp.prepare_query`.

    Returns
    -------
    ``record``, the reference's with the scale of the query's new batches added; ``transform``, from
    the query's features to the record's, without a scale; ``detected``, the number of detected
    features of each cell; and ``own_total``, the one total of log-normalized cells over their own
    features, if they have one.

    Raises
    ------
    KeyError, TypeError, ValueError
        See :func:`scalex_scvi.pp.prepare_query`.
    """
    profile = get_profile(reference.profile)
    matrix, name = get_matrix(adata, layer, features=profile.features)
    light = in_frames(adata)
    check_batch_column(light, batch_key, lone_cells=True)
    codes, names = batch_codes(light, batch_key)
    blocks = blocks_of(matrix, codes)
    own_total = _own_total(blocks, reference) if log_normalized else None
    # What is not declared is either counts or refused.
    transform = Transform.plan(
        reference,
        light.var,
        log_normalized=bool(log_normalized),
        own_total=own_total,
        min_gene_share=min_gene_share,
    )
    scale_is_known = reference.new_batches == "reference" and len(reference.scale.columns) > 0
    found = blocks.fold(_scan, _merge, transform, len(names), not scale_is_known)
    check_expression(found.values, name=name)
    check_counts(
        found.by_batch,
        log_normalized,
        name=name,
        batch_names=names,
        profile=profile,
        strict=True,
    )
    report_empty_cells(found.n_empty, (len(codes), len(reference.genes)), profile.name)
    maxima = found.maxima
    if scale_is_known:
        maxima = np.broadcast_to(reference.scale_of_new(), maxima.shape)
    elif reference.scale_by == "global":
        maxima = np.broadcast_to(maxima.max(axis=0), maxima.shape)
    own = pd.DataFrame(maxima.T.copy(), columns=names, index=list(reference.genes))
    if batch_key is None or reference.batch_key is None:  # names that nobody gave: never the same
        record = replace(reference, scale=own, batch_key=batch_key)
    else:
        record = reference.with_new_batches(own, batch_key)
    return QueryFit(record, transform, found.detected, own_total)


def _own_total(blocks: Blocks, reference: Preprocessing) -> float | None:
    """Return the total that log-normalized cells were brought to, over the features they have.

    ``None`` if totals differ, so that cells were normalized over other features; if it cannot be
    told of so few cells; or if the reference has none to bring them to.
    """
    if reference.profile != RNA.name or reference.log_normalized:
        return None
    with np.errstate(over="ignore"):
        total = blocks.map(_total_before_logarithm)
    total = total[total > 0]
    if len(total) < FEWEST_TO_COMPARE:
        return None
    middle = float(np.median(total))
    return middle if np.allclose(total, middle, rtol=SAME_TOTAL, atol=0) else None


def _total_before_logarithm(block: Any, codes: np.ndarray) -> np.ndarray:
    csr = to_csr(block, name="The matrix").astype(np.float64)
    return totals(without_logarithms(csr))


@dataclass(frozen=True)
class _Scan:
    values: ValueSummary
    by_batch: BatchValues
    detected: np.ndarray
    maxima: np.ndarray
    n_empty: int


def _scan(
    block: Any, codes: np.ndarray, transform: Transform, n_batches: int, with_maxima: bool
) -> _Scan:
    wanted = transform.direct
    if worth_compiling(block):
        csr = narrow(block)
        none = len(wanted.places) + 1  # no column is counted
        found = tally_cells(csr, codes, wanted, wanted, none)
        values, by_batch, detected = found.values, found.by_batch, found.filled
        n_empty = int((found.detected == 0).sum())
    else:
        csr = to_csr(block, name="The matrix")
        values, by_batch = ValueSummary.of(csr.data), BatchValues.of(csr, codes)
        detected = csr.getnnz(axis=1)
        n_empty = int((wanted.pick(csr).getnnz(axis=1) == 0).sum())
    maxima = np.zeros((n_batches, wanted.n_wanted), dtype=np.float32)
    if with_maxima:
        _raise_to(maxima, csr, codes, transform)
    return _Scan(values, by_batch, detected, maxima, n_empty)


def _raise_to(
    maxima: np.ndarray, csr: sparse.csr_matrix, codes: np.ndarray, transform: Transform
) -> None:
    """Raise the maxima of batches to those of cells."""
    with np.errstate(all="ignore"):  # values are judged when all of them are known
        normal = transform.normalize(csr)
    # One index of both is twice as fast as two.
    of_cells = np.repeat(codes.astype(np.intp), np.diff(normal.indptr))
    np.maximum.at(maxima.reshape(-1), of_cells * normal.shape[1] + normal.indices, normal.data)


def _merge(parts: Sequence[_Scan]) -> _Scan:
    return _Scan(
        reduce(ValueSummary.merge, (part.values for part in parts)),
        reduce(BatchValues.merge, (part.by_batch for part in parts)),
        np.concatenate([part.detected for part in parts]),
        np.max([part.maxima for part in parts], axis=0),
        sum(part.n_empty for part in parts),
    )
