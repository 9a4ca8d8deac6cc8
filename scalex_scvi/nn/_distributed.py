"""Batch normalisation over the cells of all processes that train one model together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn


class _SumOverProcesses(torch.autograd.Function):
    """Sum of a tensor over all processes; so is its gradient, as each sum enters each loss."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _SumOverProcesses.apply(gradient)


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
        same. The result is the same in all of them, and gradients flow to all of them.

    Returns
    -------
    Count ``(n_segments, 1)``, mean and variance ``(n_segments, n_features)``. Without a cell both
    are 0.
    """
    total = _SumOverProcesses.apply if synchronise else _unchanged
    count = total(rows.sum(dim=0)[:, None])
    average = rows.T / count.clamp(min=1)
    mean = total(average @ x)
    var = total(average @ (x - rows @ mean).square())
    return count, mean, var


def _unchanged(x: Tensor) -> Tensor:
    return x


class BatchNorm1d(nn.BatchNorm1d):
    """torch's batch normalisation, which can take its statistics over all processes.

    As :class:`torch.nn.SyncBatchNorm` does, which needs a GPU. In one process, and in eval mode,
    this is :class:`torch.nn.BatchNorm1d`, bit for bit.

    Attributes
    ----------
    synchronise
        Whether to (see :func:`synchronise_statistics`).
    """

    synchronise: bool = False

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(n_cells, n_features)``."""
        if not (self.training and self.synchronise):
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
            count, mean, var = minibatch_moments(x, x.new_ones(len(x), 1), synchronise=True)
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                self.running_mean.lerp_(mean[0], self.momentum)
                self.running_var.lerp_(var[0] * (count[0] / (count[0] - 1)), self.momentum)
            return (x - mean) * (self.weight * torch.rsqrt(var + self.eps)) + self.bias


def synchronise_statistics(module: nn.Module, synchronise: bool = True) -> None:
    """Let batch normalisation take its training statistics over all processes, or its own alone.

    Switched on for a training in several processes and off after it, not whenever
    ``torch.distributed`` runs: a process may train another model by itself later, and would wait
    for the others for ever.

    Parameters
    ----------
    module
        A network; what it holds of this package's normalisations is switched.
    synchronise
        Whether to synchronise. ``torch.distributed`` must be initialised then, and each training
        step be taken by all processes.
    """
    for part in module.modules():
        if hasattr(type(part), "synchronise"):
            part.synchronise = synchronise
