"""How probable each label is for each query cell, by the methods of label transfer."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from ._calibration import folds, temperature, tempered
from ._components import expression_components
from ._consensus import Consensus
from ._discriminant import can_discriminate
from ._pair import Pair

logger = logging.getLogger(__name__)

Method = Literal["consensus", "discriminant", "neighbors"]


def check_method(method: Method | None) -> None:
    """Raise if there is no such method."""
    if method is not None and method not in get_args(Method):
        allowed = list(get_args(Method))
        msg = f"`method` must be one of {allowed!r} or None, got {method!r}."
        raise ValueError(msg)


@dataclass(frozen=True, eq=False)
class Labeling:
    """A method of label transfer, applied to a reference and a query.

    Parameters
    ----------
    pair
        Reference and query.
    method
        See :func:`scalex_scvi.tl.label_transfer`.

    Raises
    ------
    ValueError
        If the method is unknown, or needs what the reference or the query lacks.
    """

    pair: Pair
    method: Method | None = None

    def __post_init__(self) -> None:
        check_method(self.method)
        _ = self.spaces

    @cached_property
    def spaces(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Points of reference and query in each space for discriminants; empty: neighbors vote."""
        pair, method = self.pair, self.method
        can = pair.use_rep != "X" and can_discriminate(pair.points, pair.codes)
        if method == "neighbors" or (method is None and not can):
            return []
        if not can:
            msg = (
                f"`method={method!r}` cannot use the representation {pair.use_rep!r}: it needs one "
                "in `obsm`, and labels whose cells differ from each other. Use "
                "`method='neighbors'`."
            )
            raise ValueError(msg)
        own = (pair.points, pair.targets)
        if method == "discriminant":
            return [own]
        components = expression_components(pair.ref, pair.query)
        if components is not None:
            return [own, components]
        if method == "consensus":
            msg = (
                "`method='consensus'` needs `ref` and `query` with the same genes in `X`, prepared "
                "alike, and in memory: pass what `model.get_prepared()` of both models gives, or "
                "`method='discriminant'`."
            )
            raise ValueError(msg)
        logger.warning(
            "Labels by %r alone: `X` of `ref` and `query` is not the same genes, prepared, in the "
            "batches that they were prepared with, or `ref` has too few cells. Pass what "
            "`model.get_prepared()` of both models gives for labels that use expression too, or "
            "`method='discriminant'` to do without.",
            pair.use_rep,
        )
        return [own]

    def shares(self) -> np.ndarray:
        """Return the probability of each label for each query cell; rows sum to 1.

        Not calibrated: probabilities of discriminants are too close to 0 and 1, but their order is
        that of :meth:`probabilities`.
        """
        if not self.spaces:
            return self.pair.votes.shares
        batch = self.pair.query_batches()
        codes = self.pair.codes
        points, targets = zip(*self.spaces, strict=True)
        neighbors = self.pair.query_neighbors if len(self.spaces) > 1 else []
        return Consensus.of(points, codes).shares(targets, batch, neighbors)

    def probabilities(self) -> np.ndarray:
        """Return :meth:`shares`, calibrated on held-out batches; shares of votes do not change."""
        shares = self.shares()
        if not self.spaces or shares.shape[1] < 2:
            return shares
        spaces = [points for points, _ in self.spaces]
        codes = self.pair.codes
        found = temperature(spaces, codes, folds(codes, self.pair.ref_batches()))
        return tempered(shares, found)
