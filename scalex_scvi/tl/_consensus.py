"""Labels by several classifiers, and by what they say of a cell's neighbors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ._discriminant import Discriminants, can_discriminate
from ._neighborhoods import Neighbors, averaging

NEIGHBORS_WEIGHT = 2 / 3
"""Power of the mean over neighbors: they count less than the cell, so that a rare type is not lost
among them. A half and three quarters are level with it over twelve sets (docs/decisions.md)."""

LEAST = 1e-30
"""Added to products of probabilities: a row of zeros cannot be divided by its sum."""


@dataclass(frozen=True, eq=False)
class Consensus:
    """Statistics of a reference that give each query cell the probability of each label.

    The probabilities of three classifiers are averaged. Then those of each cell are multiplied by a
    power of their mean over its nearest cells in its own batch: a cell is noise, types come in
    groups.

    Attributes
    ----------
    by_latent
        Linear discriminants of the labels in the latent, or another representation.
    by_expression, by_ridge
        Linear discriminants and a ridge regression in the components of the expression. ``None``:
        the others count alone. Without ``by_ridge`` neighbors are not asked, either: so it is with
        a representation alone, and with references that earlier versions saved.
    """

    by_latent: Discriminants
    by_expression: Discriminants | None = None
    by_ridge: Discriminants | None = None

    @classmethod
    def of(cls, spaces: Sequence[np.ndarray], codes: np.ndarray) -> Consensus:
        """Fit the classifiers.

        Parameters
        ----------
        spaces
            Reference cells × dimensions: the representation, and the components, if there are any.
        codes
            Label code of each reference cell, from 0 on; each occurs.
        """
        fits = [Discriminants.of(points, codes) for points in spaces]
        return cls(*fits, *(Discriminants.by_ridge(points, codes) for points in spaces[1:]))

    def shares(
        self, spaces: Sequence[np.ndarray], batch: np.ndarray, neighbors: Sequence[Neighbors]
    ) -> np.ndarray:
        """Give query cells the probability of each label.

        Parameters
        ----------
        spaces
            Query cells × dimensions, in the spaces of :meth:`of`.
        batch
            Batch code of each query cell.
        neighbors
            Of each batch of the query; none where there are no components.

        Returns
        -------
        Query cells × labels; rows sum to 1. Not calibrated.
        """
        found = [self.by_latent.shares(spaces[0], batch)]
        others = (self.by_expression, self.by_ridge)
        found += [other.shares(spaces[1], batch) for other in others if other is not None]
        shares = np.mean(found, axis=0)
        return shares if self.by_ridge is None else among_neighbors(shares, neighbors)


def can_agree(spaces: Sequence[np.ndarray], codes: np.ndarray) -> bool:
    """Whether classifiers can be fitted in each space: see :func:`can_discriminate`."""
    return all(can_discriminate(points, codes) for points in spaces)


def among_neighbors(shares: np.ndarray, neighbors: Sequence[Neighbors]) -> np.ndarray:
    """Multiply probabilities, cells × labels, by a power of their mean over neighbors."""
    found = np.empty_like(shares)
    for batch in neighbors:
        own = shares[batch.cells]
        products = own * (averaging(batch.nearest, len(own)) @ own) ** NEIGHBORS_WEIGHT + LEAST
        found[batch.cells] = products / products.sum(axis=1, keepdims=True)
    return found
