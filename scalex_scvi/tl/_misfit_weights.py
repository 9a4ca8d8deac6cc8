"""How much each measure of misfit counts: learned from labels removed from a reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize

from scalex_scvi._core.seeds import DEFAULT_SEED

from ._held_out import MIN_EXAMPLES, HeldOutBatch
from ._misfits import MEASURES

MAX_KNOWN = 500
"""Most cells of other types that each removed type is compared with."""

PRIOR_WEIGHTS = (1.0, 0.0, 0.0)
"""Weights of the measures where no type can be removed: the correlation alone, which changes least
between technologies."""

DECAY = 1e-3
"""Strength of the penalty that pulls learned weights towards :data:`PRIOR_WEIGHTS`."""


def learned_weights(held_out: Sequence[HeldOutBatch], spread: np.ndarray) -> np.ndarray:
    """Learn the weights of the measures from types that were removed from the reference.

    Which measure finds an absent type differs between references: the correlation where types
    differ in many genes, the margin where they differ in a few markers. Each pair of a held-out
    batch and one of its types, removed from the other batches, is an example in which it is known
    which cells should be called unknown. The weights, at least 0, are those of a logistic
    regression. All examples have the same total weight, half of it for the unknown cells.

    Parameters
    ----------
    held_out
        Held-out batches with at least one removed type; without any, the weights are
        :data:`PRIOR_WEIGHTS`.
    spread
        Unit of each measure: difference of the 0.95 quantile of known cells from the baseline.

    Returns
    -------
    One weight for each measure, in these units.
    """
    prior = np.array(PRIOR_WEIGHTS)
    rng = np.random.default_rng(DEFAULT_SEED)
    examples = [_example(batch, label, rng) for batch in held_out for label in batch.without]
    examples = [example for example in examples if example is not None]
    if not examples:
        return prior
    rows, signs, shares = (np.concatenate(parts) for parts in zip(*examples, strict=True))
    rows, shares = rows / spread, shares / len(examples)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights, constant = parameters[:-1], parameters[-1]
        fits = signs * (rows @ weights + constant)
        slopes = -signs * shares / (1 + np.exp(np.clip(fits, -500, 500)))
        deviation = weights - prior
        value = shares @ np.logaddexp(0, -fits) + DECAY / 2 * deviation @ deviation
        return value, np.append(rows.T @ slopes + DECAY * deviation, slopes.sum())

    bounds = [(0, None)] * len(MEASURES) + [(None, None)]
    found = minimize(loss, np.append(prior, 0.0), jac=True, method="L-BFGS-B", bounds=bounds)
    weights = found.x[:-1]
    return weights if weights.sum() > 0 else prior


def _example(
    batch: HeldOutBatch, label: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Misfits, +1 for cells of the removed label and −1 for others, and the weight of each cell."""
    unseen = np.flatnonzero(batch.codes == label)
    others = np.flatnonzero(batch.known & (batch.codes != label))
    if len(others) < MIN_EXAMPLES:
        return None
    if len(others) > MAX_KNOWN:
        others = np.sort(rng.choice(others, MAX_KNOWN, replace=False))
    rows = batch.without[label][np.concatenate([unseen, others])]
    sizes = len(unseen), len(others)
    signs = np.repeat([1.0, -1.0], sizes)
    return rows, signs, np.repeat([0.5 / sizes[0], 0.5 / sizes[1]], sizes)
