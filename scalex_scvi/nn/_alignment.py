"""How far the batches lie apart in the latent space, as a term of the loss."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F


class BatchOffset(nn.Module):
    """Mean squared distance from the batches' mean latents to the mean of all cells.

    An encoder that does not know the batch may still put a batch's cells a little to one side;
    this term of the loss pulls them back. A minibatch holds only a few cells of each batch, whose
    mean says little: the distance is that of moving averages, and its gradient flows through the
    minibatch's own cells, scaled as if they were all. Batches count by their cells.

    A distance of zero is right only where batches hold the same types in the same shares. The term
    therefore has to be weak: see ``alignment_weight`` of :meth:`scalex_scvi.SCALEXModel.train`.

    Parameters
    ----------
    n_latent
        Latent dimensions.
    n_batch
        Number of batches.
    momentum
        Weight of a minibatch in the moving averages (0.1, as in batch normalisation).

    Attributes
    ----------
    mean, share
        Moving averages of each batch's latent, ``(n_batch, n_latent)``, and share of cells,
        ``(n_batch, 1)``. They start from 0, the prior's mean, and are not saved: ten minibatches
        bring them back.
    synchronise
        Whether minibatches are those of all processes (see
        :func:`~scalex_scvi.nn.synchronise_statistics`).
    """

    mean: Tensor
    share: Tensor
    synchronise: bool = False

    def __init__(self, n_latent: int, n_batch: int, *, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(n_batch, n_latent), persistent=False)
        self.register_buffer("share", torch.zeros(n_batch, 1), persistent=False)

    def forward(self, latent: Tensor, batch_index: Tensor) -> Tensor:
        """Squared distance, a scalar, after this minibatch.

        Parameters
        ----------
        latent
            Mean of each cell's posterior, ``(n_cells, n_latent)``.
        batch_index
            Batch of each cell, ``(n_cells,)`` or ``(n_cells, 1)``.
        """
        with torch.autocast(latent.device.type, enabled=False):
            half = latent.dtype in (torch.bfloat16, torch.float16)
            return self._offset(latent.float() if half else latent, batch_index.reshape(-1).long())

    def _offset(self, latent: Tensor, batch: Tensor) -> Tensor:
        rows = F.one_hot(batch, len(self.mean)).to(latent.dtype)
        count, total = self._totals(rows.sum(dim=0)[:, None], rows.T @ latent)
        moved = torch.lerp(self.mean, total / count.clamp(min=1), self.momentum)
        mean = torch.where(count > 0, moved, self.mean)
        share = torch.lerp(self.share, count / count.sum(), self.momentum)
        if self.training:
            self.mean.copy_(mean.detach())
            self.share.copy_(share)
        share = share / share.sum()
        distance = (share * (mean - (share * mean).sum(dim=0)).square()).sum()
        # The value is the averages' distance, the gradient that of the minibatch's own means.
        return distance.detach() + (distance - distance.detach()) / self.momentum

    def _totals(self, count: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        """Count and sum of each batch over all processes, with the gradient of this one's cells."""
        if not self.synchronise:
            return count, total
        both = torch.cat([count, total.detach()], dim=1)
        distributed.all_reduce(both)
        # DDP averages the gradients of the processes; the cells of each have to count in full.
        own = (total - total.detach()) * distributed.get_world_size()
        return both[:, :1], both[:, 1:] + own
