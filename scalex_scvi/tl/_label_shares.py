"""How probable each label is for each query cell, by the methods of label transfer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from anndata import AnnData
from scipy import sparse

from scalex_scvi._core.columns import batch_codes, check_no_missing

from ._components import expression_components
from ._discriminant import can_discriminate, discriminant_shares
from ._unknown import Votes

logger = logging.getLogger(__name__)

Method = Literal["consensus", "discriminant", "neighbors"]


def label_shares(
    ref: AnnData,
    query: AnnData,
    points: np.ndarray | sparse.csr_matrix,
    targets: np.ndarray | sparse.csr_matrix,
    codes: np.ndarray,
    *,
    method: Method | None,
    rep: str,
    batch_key: str | None,
    votes: Callable[[], Votes],
) -> np.ndarray:
    """Probability of each label for each query cell: cells × labels, rows sum to 1.

    Parameters
    ----------
    ref, query, method, rep, batch_key
        See :func:`scalex_scvi.tl.label_transfer`.
    points, targets
        Representation ``rep`` of the reference's and of the query's cells.
    codes
        Label code of each reference cell, from 0 on; each occurs.
    votes
        Lets the neighbours vote, if that is the method.

    Raises
    ------
    ValueError
        If the method is unknown, or impossible with what there is.
    """
    if method is not None and method not in get_args(Method):
        msg = f"`method` must be one of {list(get_args(Method))!r} or None, got {method!r}."
        raise ValueError(msg)
    can = rep != "X" and can_discriminate(points, codes)
    if method == "neighbors" or (method is None and not can):
        return votes().shares
    if not can:
        msg = (
            f"`method={method!r}` cannot use `rep` {rep!r}: it needs a representation in "
            "`obsm`, and labels whose cells differ from each other. Use `method='neighbors'`."
        )
        raise ValueError(msg)
    batch = _query_batches(query, batch_key)
    shares = discriminant_shares(points, codes, targets, batch)
    if method == "discriminant":
        return shares
    components = expression_components(ref, query)
    if components is not None:
        in_ref, in_query = components
        return (shares + discriminant_shares(in_ref, codes, in_query, batch)) / 2
    if method == "consensus":
        msg = (
            "`method='consensus'` needs `ref` and `query` with the same genes in `X`, prepared by "
            "`scalex_scvi.pp`, and in memory: pass the `adata` of the reference's and of the "
            "query's model, or `method='discriminant'`."
        )
        raise ValueError(msg)
    logger.info("Labels by %r alone: `X` is not the same genes, prepared, in both.", rep)
    return shares


def _query_batches(query: AnnData, batch_key: str | None) -> np.ndarray:
    if batch_key is None or batch_key not in query.obs:
        return np.zeros(query.n_obs, dtype=np.int64)
    check_no_missing(query, batch_key, what="batch")
    return batch_codes(query, batch_key)[0]
