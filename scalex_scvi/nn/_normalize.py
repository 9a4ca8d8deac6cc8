"""Normalisation of a minibatch by segments, its backward pass written out."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable


class Statistics(NamedTuple):
    """What the cells of each segment are normalised with, ``(n_segments, n_features)`` each.

    ``share`` ``(n_segments, 1)`` is what one cell contributes to its segment's mean: one over their
    number, or 0 where the statistics are not those of the minibatch, and no gradient flows
    through them.
    """

    mean: Tensor
    var: Tensor
    share: Tensor


@torch.no_grad()
def minibatch_moments(
    x: Tensor, rows: Tensor, *, synchronise: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and biased variance of each segment of a minibatch.

    Parameters
    ----------
    x
        Values ``(n_cells, n_features)``.
    rows
        One-hot matrix ``(n_cells, n_segments)`` of each cell's segment.
    synchronise
        Whether to take the cells of all processes together, whose segments must then mean the
        same. The result is the same in all of them.

    Returns
    -------
    Count ``(n_segments, 1)``, mean and variance ``(n_segments, n_features)``. Without a cell both
    are 0.
    """
    count = _total(rows.sum(dim=0)[:, None], synchronise)
    average = rows.T / count.clamp(min=1)
    mean = _total(average @ x, synchronise)
    var = _total(average @ _centre(x, rows, mean).square_(), synchronise)
    return count, mean, var


def normalise(
    x: Tensor,
    rows: Tensor,
    statistics: Statistics,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float,
    synchronise: bool,
) -> Tensor:
    """Normalise each cell with the statistics, weight and bias of its segment.

    The gradient of ``x`` flows through the statistics too, as in batch normalisation. Written out,
    forward and backward take two thirds of the time that torch's automatic one does
    (``docs/profile.md``).

    Parameters
    ----------
    x
        Values ``(n_cells, n_features)``.
    rows
        One-hot matrix ``(n_cells, n_segments)`` of each cell's segment.
    statistics
        Of each segment, see :func:`minibatch_moments`.
    weight, bias
        Of each segment, ``(n_segments, n_features)``.
    eps
        Added to the variance.
    synchronise
        Whether the statistics are over the cells of all processes.

    Returns
    -------
    Tensor of shape ``(n_cells, n_features)``.
    """
    return _Normalise.apply(x, weight, bias, rows, statistics, eps, synchronise)


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        rows: Tensor,
        statistics: Statistics,
        eps: float,
        synchronise: bool,
    ) -> Tensor:
        centred = _centre(x, rows, statistics.mean)
        inverse = torch.rsqrt(statistics.var + eps)
        ctx.save_for_backward(centred, rows, weight, inverse, statistics.share)
        ctx.synchronise = synchronise
        return torch.addcmul(rows @ bias, centred, rows @ (weight * inverse))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        centred, rows, weight, inverse, share = ctx.saved_tensors
        of_bias = rows.T @ gradient
        of_weight = rows.T @ (gradient * centred) * inverse
        # Each process' loss depends on the common statistics, and so on each cell.
        common_bias, common_weight = _total(torch.stack([of_bias, of_weight]), ctx.synchronise)
        scale = weight * inverse
        through_mean = rows @ (scale * share * common_bias)
        through_var = rows @ (scale * share * inverse * common_weight)
        of_x = gradient * (rows @ scale) - through_mean
        of_x.addcmul_(centred, through_var, value=-1)
        return of_x, of_weight, of_bias, None, None, None, None


def _centre(x: Tensor, rows: Tensor, mean: Tensor) -> Tensor:
    return torch.addmm(x, rows, mean, alpha=-1)


def _total(x: Tensor, synchronise: bool) -> Tensor:
    """Sum over all processes."""
    if synchronise:
        x = x.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(x)
    return x
