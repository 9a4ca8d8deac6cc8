"""The loss of a minibatch as one launch on a GPU, and its gradients as another (CUDA graphs).

A minibatch of 64 cells is so little work that a GPU waits most of the time for the next of some
hundred kernels to be launched. A graph launches all of them at once.
"""

from __future__ import annotations

from typing import Any

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import BaseModuleClass, LossOutput
from torch import Tensor, nn

from scalex_scvi.module import OFFSET_KEY


def loss_and_sums(losses: LossOutput) -> tuple[Tensor, Tensor]:
    """Return the loss, and what the means over an epoch are made of, without gradients.

    Parameters
    ----------
    losses
        What the module gives for a minibatch.
    """
    with torch.no_grad():
        n_cells = losses.n_obs_minibatch
        loss = losses.loss.detach()
        sums = torch.stack(
            [
                loss * n_cells,
                losses.reconstruction_loss_sum.detach(),
                losses.kl_local_sum.detach(),
                losses.extra_metrics.get(OFFSET_KEY, torch.zeros_like(loss)) * n_cells,
                torch.full_like(loss, n_cells),
            ]
        )
    return losses.loss, sums


class _LossOf(nn.Module):
    """A module's loss as a function of tensors."""

    def __init__(self, module: BaseModuleClass, loss_kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.module = module
        self.loss_kwargs = loss_kwargs

    def forward(self, x: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        tensors = {REGISTRY_KEYS.X_KEY: x, REGISTRY_KEYS.BATCH_KEY: batch}
        *_, losses = self.module(tensors, loss_kwargs=self.loss_kwargs)
        return loss_and_sums(losses)


class GraphedLoss:
    """Loss and sums of minibatches of one shape, recorded with the first of them.

    Parameters
    ----------
    module
        The network, on a GPU and in train mode. Recording leaves its statistics, and the
        generator's state, as they were.
    loss_kwargs
        Arguments of the module's loss; they are recorded, too.
    tensors
        A minibatch.
    """

    def __init__(
        self, module: BaseModuleClass, loss_kwargs: dict[str, Any], tensors: dict[str, Tensor]
    ) -> None:
        x = tensors[REGISTRY_KEYS.X_KEY]
        self.shape = x.shape
        buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
        state = torch.cuda.get_rng_state(x.device)
        samples = (x.clone(), tensors[REGISTRY_KEYS.BATCH_KEY].clone())
        self._call = torch.cuda.make_graphed_callables(_LossOf(module, loss_kwargs), samples)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        torch.cuda.set_rng_state(state, x.device)

    def __call__(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return loss and sums, to be used before the next call."""
        return self._call(tensors[REGISTRY_KEYS.X_KEY], tensors[REGISTRY_KEYS.BATCH_KEY])
