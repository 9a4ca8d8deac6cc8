"""Batch normalization over the cells of all processes that train one model together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._normalize import Statistics, minibatch_moments, normalize


class BatchNorm1d(nn.BatchNorm1d):
    """torch's batch normalization, which can take its statistics over all processes.

    As :class:`torch.nn.SyncBatchNorm` does, which needs a GPU. In one process, and in eval mode,
    this is :class:`torch.nn.BatchNorm1d`, bit for bit.

    Attributes
    ----------
    synchronize
        Whether to (see :func:`synchronize_statistics`).
    """

    synchronize: bool = False

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``(n_cells, n_features)``."""
        if not (self.training and self.synchronize):
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
            rows = x.new_ones(len(x), 1)
            count, mean, var = minibatch_moments(x, rows, synchronize=True)
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                self.running_mean.lerp_(mean[0], self.momentum)
                self.running_var.lerp_(var[0] * (count[0] / (count[0] - 1)), self.momentum)
            statistics = Statistics(mean, var, share=1 / count)
            weight, bias = self.weight[None], self.bias[None]
            return normalize(x, rows, statistics, weight, bias, eps=self.eps, synchronize=True)


def synchronize_statistics(module: nn.Module, synchronize: bool = True) -> None:
    """Let batch normalization take its training statistics over all processes, or its own alone.

    Switched on for a training in several processes, and off after it. Whether ``torch.distributed``
    runs does not decide: a process may train another model by itself later, and would then wait for
    the others without end.

    Parameters
    ----------
    module
        A network; what it holds of this package's normalizations is switched.
    synchronize
        Whether to synchronize. ``torch.distributed`` must be initialized then, and each training
        step be taken by all processes.
    """
    for part in module.modules():
        if hasattr(type(part), "synchronize"):
            part.synchronize = synchronize
