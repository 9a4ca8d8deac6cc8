"""Normalization of a minibatch by segments, its backward pass written out."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable


class Statistics(NamedTuple):
    """What the cells of each segment are normalized with, ``(n_segments, n_features)`` each.

    ``share`` ``(n_segments, 1)`` is what one cell contributes to its segment's mean: one over their
    number, or 0 where the statistics are not those of the minibatch, and no gradient flows
    through them.
    """

    mean: Tensor
    var: Tensor
    share: Tensor


@torch.no_grad()
def minibatch_moments(
    x: Tensor, rows: Tensor, *, synchronize: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and biased variance of each segment of a minibatch.

    Parameters
    ----------
    x
        Values ``(n_cells, n_features)``.
    rows
        One-hot matrix ``(n_cells, n_segments)`` of each cell's segment.
    synchronize
        Whether to take the cells of all processes together, whose segments must then mean the
        same. The result is the same in all of them.

    Returns
    -------
    Count ``(n_segments, 1)``, mean and variance ``(n_segments, n_features)``. Without a cell both
    are 0.
    """
    count = _total(rows.sum(dim=0)[:, None], synchronize)
    average = rows.T / count.clamp(min=1)
    mean = _total(average @ x, synchronize)
    var = _total(average @ _center(x, rows, mean).square_(), synchronize)
    return count, mean, var


def normalize(
    x: Tensor,
    rows: Tensor,
    statistics: Statistics,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float,
    synchronize: bool,
) -> Tensor:
    """Normalize each cell with the statistics, weight and bias of its segment.

    The gradient of ``x`` flows through the statistics too, as in batch normalization. Written out,
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
    synchronize
        Whether the statistics are over the cells of all processes.

    Returns
    -------
    Tensor of shape ``(n_cells, n_features)``.
    """
    return _Normalize.apply(x, weight, bias, rows, statistics, eps, synchronize)


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        rows: Tensor,
        statistics: Statistics,
        eps: float,
        synchronize: bool,
    ) -> Tensor:
        centered = _center(x, rows, statistics.mean)
        inverse = torch.rsqrt(statistics.var + eps)
        ctx.save_for_backward(centered, rows, weight, inverse, statistics.share)
        ctx.synchronize = synchronize
        return torch.addcmul(rows @ bias, centered, rows @ (weight * inverse))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        centered, rows, weight, inverse, share = ctx.saved_tensors
        of_bias = rows.T @ gradient
        of_weight = rows.T @ (gradient * centered) * inverse
        # Each process' loss depends on the common statistics, and so on each cell.
        common_bias, common_weight = _total(torch.stack([of_bias, of_weight]), ctx.synchronize)
        scale = weight * inverse
        through_mean = rows @ (scale * share * common_bias)
        through_var = rows @ (scale * share * inverse * common_weight)
        of_x = gradient * (rows @ scale) - through_mean
        of_x.addcmul_(centered, through_var, value=-1)
        return of_x, of_weight, of_bias, None, None, None, None


def _center(x: Tensor, rows: Tensor, mean: Tensor) -> Tensor:
    return torch.addmm(x, rows, mean, alpha=-1)


def _total(x: Tensor, synchronize: bool) -> Tensor:
    """Sum over all processes."""
    if synchronize:
        x = x.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(x)
    return x
