"""How many minibatches a training takes by default."""

from __future__ import annotations

STEPS_BY_SHARE = 150
"""Steps times the share of non-zero values: in minibatches of 128 cells, each feature is seen
non-zero 19 200 times on average, unless a bound applies."""

FEWEST, MOST = 1_000, 3_000
"""Bounds of the default, whatever the data."""


def default_steps(share_of_nonzero: float) -> int:
    """Return the number of minibatches of the default training: more for sparser expression.

    A training learns from the values that are not zero. One number for all data was too small for
    peaks (3 % of the values are not zero) or too large for deeply sequenced cells (half of them),
    where a longer training separates types worse (``docs/quality.md``).

    Parameters
    ----------
    share_of_nonzero
        Share of the expression that is not zero, 0 to 1.

    Returns
    -------
    From 1 000, where at least 15 % of the values are not zero, to 3 000, where at most 5 % are.
    """
    if share_of_nonzero * MOST <= STEPS_BY_SHARE:
        return MOST
    return max(round(STEPS_BY_SHARE / share_of_nonzero), FEWEST)
