"""Calibration of label probabilities on held-out batches of the reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.neighbors import NearestNeighbors

from scalex_scvi._core.seeds import DEFAULT_SEED

from ._consensus import Consensus, can_agree
from ._neighborhoods import N_OWN_COMPONENTS, Neighbors, n_neighbors_of
from ._unknown import batch_groups

N_FOLDS = 10
"""Random parts that are held out in turn of a reference without several batches."""

MAX_FOLDS = 10
"""Most batches that are held out, the largest ones."""

MAX_HELD_OUT = 2_000
"""Most cells of a held-out batch or part: more hardly change the one number that is fitted."""

MAX_OTHERS = 20_000
"""Most cells that the discriminants are fitted to while a batch is held out."""

HOTTEST = 100.0
"""Largest temperature, at which all labels are nearly equally probable."""

TINY = 1e-12
"""Smaller probabilities are replaced by this before their logarithm is taken."""


def folds(codes: np.ndarray, batch: np.ndarray | None) -> np.ndarray:
    """Part that each cell is held out in: its batch, or one of :data:`N_FOLDS` at random."""
    groups = batch_groups(codes, batch)
    if groups is not None:
        return groups
    return np.random.default_rng(DEFAULT_SEED).permutation(len(codes)) % N_FOLDS


def temperature(spaces: Sequence[np.ndarray], codes: np.ndarray, parts: np.ndarray) -> float:
    """Find the temperature that calibrates the probabilities (Guo et al., ICML 2017).

    Each part is held out in turn, and labeled by the others like a query. The temperature is the
    number by which the logarithms of the probabilities are divided so that they are closest to the
    true labels of the held-out cells. The most probable label of a cell does not change. Closest by
    squared error (Brier score): the usual likelihood depends mostly on the few reference cells
    whose own label is wrong, and would make all probabilities too low (docs/decisions.md).

    Parameters
    ----------
    spaces
        Reference cells × dimensions: the representation, and the components, if there are any.
    codes
        Label code of each reference cell.
    parts
        Part of each reference cell, see :func:`folds`.

    Returns
    -------
    From 1 (no change) to 100. Below 1 is not looked for: on new batches probabilities were never
    found to be too low.
    """
    rng = np.random.default_rng(DEFAULT_SEED)
    largest = np.argsort(-np.bincount(parts), kind="stable")[:MAX_FOLDS]
    held_out = [_held_out(spaces, codes, parts == part, rng) for part in largest]
    known = [found for found in held_out if found is not None]
    if not known:
        return 1.0

    def error(log_temperature: float) -> float:
        by = float(np.exp(log_temperature))
        return float(np.mean([_squared_error(tempered(shares, by), own) for shares, own in known]))

    bounds = (0.0, np.log(HOTTEST))
    return float(np.exp(minimize_scalar(error, bounds=bounds, method="bounded").x))


def tempered(shares: np.ndarray, by: float) -> np.ndarray:
    """Divide the logarithms of probabilities, cells × labels, by a temperature; rows sum to 1."""
    logs = np.log(np.maximum(shares, TINY)) / by
    softened = np.exp(logs - logs.max(axis=1, keepdims=True))
    return softened / softened.sum(axis=1, keepdims=True)


def _held_out(
    spaces: Sequence[np.ndarray], codes: np.ndarray, is_own: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray] | None:
    """Probabilities of the held-out cells, and the position of their own label among the columns.

    ``None`` if the other cells have none of their labels, or cannot be told apart.
    """
    others = _sample(np.flatnonzero(~is_own), MAX_OTHERS, rng)
    used = np.unique(codes[others])
    own = _sample(np.flatnonzero(is_own & np.isin(codes, used)), MAX_HELD_OUT, rng)
    if len(own) == 0 or len(used) < 2:
        return None
    batch = np.zeros(len(own), dtype=np.int64)
    known = np.searchsorted(used, codes[others])
    of_others, of_own = [x[others] for x in spaces], [x[own] for x in spaces]
    if not can_agree(of_others, known):
        return None  # one cell of each label, for example, where the other batches are tiny
    neighbors = [_neighbors(points) for points in of_own[1:]]
    shares = Consensus.of(of_others, known).shares(of_own, batch, neighbors)
    return shares, np.searchsorted(used, codes[own])


def _neighbors(components: np.ndarray) -> Neighbors:
    """Nearest cells in the first components of the reference, which cost less than their own."""
    n_cells = len(components)
    points = components[:, :N_OWN_COMPONENTS]
    search = NearestNeighbors(n_neighbors=n_neighbors_of(n_cells)).fit(points)
    return Neighbors(np.arange(n_cells), search.kneighbors(points)[1])


def _squared_error(shares: np.ndarray, own: np.ndarray) -> float:
    """Mean squared distance of probabilities from 1 for the right label and 0 for the others."""
    right = shares[np.arange(len(own)), own]
    return float((np.square(shares).sum(axis=1) - 2 * right + 1).mean())


def _sample(cells: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    return cells if len(cells) <= most else np.sort(rng.choice(cells, most, replace=False))
