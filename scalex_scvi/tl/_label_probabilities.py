"""How probable each label is for each query cell, by the methods of label transfer."""

from __future__ import annotations

import logging
from typing import Literal, get_args

import numpy as np

from ._components import expression_components
from ._discriminant import Discriminants, can_discriminate
from ._pair import Pair

logger = logging.getLogger(__name__)

Method = Literal["consensus", "discriminant", "neighbors"]


def label_probabilities(pair: Pair, method: Method | None) -> np.ndarray:
    """Probability of each label for each query cell: cells × labels, rows sum to 1.

    Parameters
    ----------
    pair
        Reference and query.
    method
        See :func:`scalex_scvi.tl.label_transfer`.

    Raises
    ------
    ValueError
        If the method is unknown, or impossible with what there is.
    """
    if method is not None and method not in get_args(Method):
        msg = f"`method` must be one of {list(get_args(Method))!r} or None, got {method!r}."
        raise ValueError(msg)
    can = pair.use_rep != "X" and can_discriminate(pair.points, pair.codes)
    if method == "neighbors" or (method is None and not can):
        return pair.votes.shares
    if not can:
        msg = (
            f"`method={method!r}` cannot use the representation {pair.use_rep!r}: it needs one in "
            "`obsm`, and labels whose cells differ from each other. Use `method='neighbors'`."
        )
        raise ValueError(msg)
    batch = pair.query_batches()
    shares = Discriminants.of(pair.points, pair.codes).shares(pair.targets, batch)
    if method == "discriminant":
        return shares
    components = expression_components(pair.ref, pair.query)
    if components is not None:
        in_ref, in_query = components
        by_expression = Discriminants.of(in_ref, pair.codes).shares(in_query, batch)
        return (shares + by_expression) / 2
    if method == "consensus":
        msg = (
            "`method='consensus'` needs `ref` and `query` with the same genes in `X`, prepared "
            "alike, and in memory: pass what `model.get_prepared()` of both models gives, or "
            "`method='discriminant'`."
        )
        raise ValueError(msg)
    logger.warning(
        "Labels by %r alone: `X` of `ref` and `query` is not the same genes, prepared, or `ref` "
        "has too few cells. Pass what `model.get_prepared()` of both models gives for labels that "
        "use expression too, or `method='discriminant'` to do without.",
        pair.use_rep,
    )
    return shares
