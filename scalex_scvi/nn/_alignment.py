"""How far the batches lie apart in the latent space, as a term of the loss."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

WIDTH = 0.2
"""Squared width of the kernel, per latent dimension, of which all cells are some 1.8 apart (mean of
squares) and the nearest twentieth 0.5."""


class BatchOffset(nn.Module):
    """Mean squared distance from the cells of a cell's batch to those of all, everywhere and near.

    An encoder that does not know the batch may still put a batch's cells a little to one side;
    this term of the loss pulls them back. A minibatch holds only a few cells of each batch, so
    that the last cells of the training are remembered. A cell has two offsets from the mean of
    all of them to the mean of those of its batch: one of all alike, and one of those near it, by a
    Gaussian kernel. The gradient moves each cell by its offsets and nothing else.

    The first offset is zero only where batches hold the same types in the same shares. The second
    does not ask for that, but cannot tell two types, each of one batch, from one that is shifted.
    Both have to be weak: see ``alignment_weight`` of :meth:`scalex_scvi.SCALEXModel.train`.

    Parameters
    ----------
    n_latent
        Latent dimensions.
    n_batch
        Number of batches.
    n_recent
        Number of cells to remember (512: eight minibatches, in which the network hardly moves).

    Attributes
    ----------
    recent, recent_batch
        Latents of the last cells, newest first, and a column of ones, by which they count,
        ``(n_recent, n_latent + 1)``, and their batches, ``(n_recent,)``. Places not taken yet are
        all zero. Not saved: eight minibatches bring them back.
    synchronise
        Whether to remember the cells of all processes (see
        :func:`~scalex_scvi.nn.synchronise_statistics`).
    """

    recent: Tensor
    recent_batch: Tensor
    synchronise: bool = False

    def __init__(self, n_latent: int, n_batch: int, *, n_recent: int = 512) -> None:
        super().__init__()
        self.n_batch = n_batch
        self.register_buffer("recent", torch.zeros(n_recent, n_latent + 1), persistent=False)
        batches = torch.zeros(n_recent, dtype=torch.int32)
        self.register_buffer("recent_batch", batches, persistent=False)

    def forward(self, latent: Tensor, batch_index: Tensor) -> Tensor:
        """Squared lengths of both offsets, added, mean over the cells: a scalar.

        Parameters
        ----------
        latent
            Mean of each cell's posterior, ``(n_cells, n_latent)``.
        batch_index
            Batch of each cell, ``(n_cells,)`` or ``(n_cells, 1)``.
        """
        with torch.autocast(latent.device.type, enabled=False):
            half = latent.dtype in (torch.bfloat16, torch.float16)
            latent, batch = latent.float() if half else latent, batch_index.reshape(-1).int()
            offsets = self.offsets(latent.detach(), batch)
            if self.training:
                self._remember(latent.detach(), batch)
            # The value is the offsets' length, the gradient moves the cells themselves alone.
            pull = 2 * (sum(offsets) * latent).sum(dim=1).mean()
            value = torch.cat(offsets, dim=1).square().sum(dim=1).mean()
            return value + pull - pull.detach()

    @torch.no_grad()
    def offsets(self, latent: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        """From the mean of the recent cells to the mean of those of each cell's batch.

        Parameters
        ----------
        latent
            ``(n_cells, n_latent)``.
        batch
            Batch of each cell, ``(n_cells,)``.

        Returns
        -------
        Of all recent cells and of those near the cell, ``(n_cells, n_latent)`` each.
        """
        recent = self.recent.to(latent.dtype)
        of_batch = recent.new_zeros(self.n_batch, recent.shape[1])
        of_batch.index_add_(0, self.recent_batch, recent)
        everywhere = _offset(of_batch[batch], of_batch.sum(dim=0, keepdim=True))
        weight = _nearness(latent, recent[:, :-1])
        of_all = weight @ recent
        of_own = weight.masked_fill_(self.recent_batch != batch[:, None], 0) @ recent
        return everywhere, _offset(of_own, of_all)

    @torch.no_grad()
    def _remember(self, latent: Tensor, batch: Tensor) -> None:
        """Put these cells, of all processes, in the place of the oldest ones."""
        if self.synchronise:
            latent, batch = _of_all_processes(latent), _of_all_processes(batch)
        n_recent = len(self.recent)
        counted = torch.cat([latent, latent.new_ones(len(latent), 1)], dim=1)
        self.recent.copy_(torch.cat([counted.to(self.recent.dtype), self.recent])[:n_recent])
        self.recent_batch.copy_(torch.cat([batch, self.recent_batch])[:n_recent])


def _nearness(latent: Tensor, recent: Tensor) -> Tensor:
    """Gaussian kernel of each latent and the recent ones, 1 where they are the same."""
    squared = torch.addmm(recent.square().sum(dim=1), latent, recent.T, alpha=-2)
    squared += latent.square().sum(dim=1, keepdim=True)
    return squared.div_(-WIDTH * latent.shape[1]).exp_()


def _offset(own: Tensor, everyone: Tensor) -> Tensor:
    """From the mean of all to the mean of a batch, both given as sums and, last, counts.

    One cell at the mean of all counts among the batch's: hardly any cell, hardly an offset.
    """
    mean = everyone[:, :-1] / everyone[:, -1:].clamp(min=1e-12)
    return (own[:, :-1] - own[:, -1:] * mean) / (own[:, -1:] + 1)


def _of_all_processes(values: Tensor) -> Tensor:
    parts = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)
