"""How many minibatches a training takes by default."""

from __future__ import annotations

STEPS_BY_SHARE = 100
"""Steps times the share of non-zero values: in minibatches of 128 cells, each feature is seen
non-zero 12 800 times on average, unless a bound applies."""

FEWEST, MOST = 1_000, 3_000
"""Bounds of the default, whatever the data."""


def default_steps(share_of_nonzero: float, *, nonlinear: bool = False) -> int:
    """Return the number of minibatches of the default training: more for sparser expression.

    A training learns from the values that are not zero. One number for all data was too small for
    peaks (3 % of the values are not zero) or too large for deeply sequenced cells (half of them),
    where a longer training separates types worse. A decoder with a nonlinear part, which there is
    for many types or few counts, starts as a linear one and takes longest (``docs/quality.md``).

    Parameters
    ----------
    share_of_nonzero
        Share of the expression that is not zero, 0 to 1.
    nonlinear
        Whether the decoder has a nonlinear part (``n_residual`` of
        :class:`scalex_scvi.SCALEXModel`).

    Returns
    -------
    From 1 000, where at least 10 % of the values are not zero, to 3 000, where at most 3 % are;
    with a nonlinear part 3 000.
    """
    if nonlinear or share_of_nonzero * MOST <= STEPS_BY_SHARE:
        return MOST
    return max(round(STEPS_BY_SHARE / share_of_nonzero), FEWEST)
