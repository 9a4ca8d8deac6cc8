"""Whether the decoder has a nonlinear part by default: where there are many cells of many types."""

from __future__ import annotations

import numpy as np
from scvi.data import AnnDataManager

from scalex_scvi._core.blocks import evenly_spread

from ._data import cells_all_over

UNITS = 128
"""Width of the decoder's nonlinear part, where it has one; four times as many are no better."""

FEWEST_CELLS = 3_000
"""With fewer cells a nonlinear decoder overfits to noise, and types are separated worse."""

PRIOR_COMPONENTS = 32
"""Normal distributions that the prior is a mixture of where the decoder has a nonlinear part."""

COMPONENT, LEAST_SHARE = 10, 1 / 3
"""The standard deviation of this principal component must be this share of the first one's."""

CELLS_LOOKED_AT = 1024


def default_residual(manager: AnnDataManager) -> int:
    """Return how many hidden units the decoder has by default beside its linear part.

    It has none where the variance of the principal components falls quickly: a linear decoder of
    ten latent dimensions can then represent all types, and a nonlinear one would spend the latent
    on noise. Many fine types, or cells with few counts, make the variance fall slowly
    (docs/decisions.md).

    Parameters
    ----------
    manager
        A model's ``adata_manager``.

    Returns
    -------
    128 for 3 000 cells or more of whose components the tenth has at least a third of the standard
    deviation of the first (:func:`component_share`), else 0.
    """
    if manager.adata.n_obs < FEWEST_CELLS:
        return 0
    return UNITS if component_share(manager) >= LEAST_SHARE else 0


def default_prior_components(n_residual: int) -> int:
    """Return of how many normal distributions the prior is a mixture by default.

    Where there are many types, one normal distribution draws them onto one another, and with a
    mixture each can have a place of its own. Where there are few, a mixture separates batches as
    much as types (docs/quality.md).

    Parameters
    ----------
    n_residual
        Width of the decoder's nonlinear part, as :func:`default_residual` returns it.

    Returns
    -------
    32 where the decoder has a nonlinear part, else 1: the standard normal distribution.
    """
    return PRIOR_COMPONENTS if n_residual else 1


def component_share(manager: AnnDataManager, n_cells: int = CELLS_LOOKED_AT) -> float:
    """Return the standard deviation of the tenth principal component over that of the first.

    Of the expression in [0, 1] less the mean of each batch, over ``n_cells`` cells spread evenly.

    Parameters
    ----------
    manager
        A model's ``adata_manager``.
    n_cells
        Cells to look at, at most.

    Returns
    -------
    In [0, 1]; 0 where there are fewer components, or nothing varies.
    """
    x = np.concatenate(list(cells_all_over(manager, n_cells)))
    cells = evenly_spread(manager.adata.n_obs, n_cells)
    _, codes = np.unique(manager.codes[cells], return_inverse=True)
    of_batch = np.eye(codes.max() + 1, dtype=x.dtype)[codes]
    x -= of_batch @ ((of_batch.T @ x) / of_batch.sum(axis=0)[:, None])
    gram = x @ x.T if len(x) <= x.shape[1] else x.T @ x
    variances = np.linalg.eigvalsh(gram.astype(np.float64))[::-1]
    if len(variances) < COMPONENT or variances[0] <= 0:
        return 0.0
    return float(np.sqrt(max(variances[COMPONENT - 1], 0.0) / variances[0]))
