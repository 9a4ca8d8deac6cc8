"""How far the batches lie apart in the latent space, as a term of the loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

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
        Number of cells to remember (512: four minibatches, in which the network hardly moves).

    Attributes
    ----------
    recent
        A row for each of the last cells, newest first: its latent, a one, by which it counts, the
        latent's squared length and the batch, one-hot, ``(n_recent, n_latent + 2 + n_batch)``.
        Places not taken yet are all zero. Not saved: four minibatches bring them back.
    kernel
        The logarithm of the kernel as a form of two such rows, without the batch.
    synchronize
        Whether to remember the cells of all processes (see
        :func:`~scalex_scvi.nn.synchronize_statistics`).
    """

    recent: Tensor
    kernel: Tensor
    synchronize: bool = False

    def __init__(self, n_latent: int, n_batch: int, *, n_recent: int = 512) -> None:
        super().__init__()
        self.n_latent = n_latent
        self.n_batch = n_batch
        recent = torch.zeros(n_recent, n_latent + 2 + n_batch)
        self.register_buffer("recent", recent, persistent=False)
        self.register_buffer("kernel", _kernel(n_latent), persistent=False)

    def forward(self, latent: Tensor, batch_index: Tensor) -> Tensor:
        """Squared lengths of both offsets, added, mean over the cells: a scalar.

        Parameters
        ----------
        latent
            Mean of each cell's posterior, ``(n_cells, n_latent)``.
        batch_index
            Batch of each cell, ``(n_cells,)`` or ``(n_cells, 1)``.
        """
        if self.n_batch == 1:
            return latent.new_zeros(())
        with torch.autocast(latent.device.type, enabled=False), torch.no_grad():
            cells = self._rows(latent.to(self.recent.dtype), batch_index)
            offsets = self._offsets(cells)
            if self.training:
                self._remember(cells)
        return _Pull.apply(latent, offsets)

    @torch.no_grad()
    def offsets(self, latent: Tensor, batch_index: Tensor) -> Tensor:
        """From the mean of the recent cells to the mean of those of each cell's batch.

        Parameters
        ----------
        latent
            ``(n_cells, n_latent)``.
        batch_index
            Batch of each cell, ``(n_cells,)`` or ``(n_cells, 1)``.

        Returns
        -------
        Of all recent cells and of those near the cell, ``(2, n_cells, n_latent)``.
        """
        return self._offsets(self._rows(latent, batch_index))

    def _rows(self, latent: Tensor, batch_index: Tensor) -> Tensor:
        """Make rows of :attr:`recent`."""
        squared = latent.square().sum(dim=1, keepdim=True)
        batch = F.one_hot(batch_index.reshape(-1).long(), self.n_batch).to(latent.dtype)
        return torch.cat([latent, torch.ones_like(squared), squared, batch], dim=1)

    def _offsets(self, cells: Tensor) -> Tensor:
        n_latent = self.n_latent
        sizes = [n_latent + 2, self.n_batch]
        points, batch = cells.split(sizes, dim=1)
        recent, recent_batch = self.recent.split(sizes, dim=1)
        # What each recent cell counts for each cell: those of its batch, those of them near, near.
        weights = recent.new_empty(3, len(cells), len(recent))
        own, near_own, near = weights
        # A product tells which batches are equal in a fifth of the time of a comparison on a CPU.
        torch.mm(batch, recent_batch.T, out=own)
        torch.exp(points @ self.kernel @ recent.T, out=near)
        torch.mul(near, own, out=near_own)
        sums = weights @ recent
        of_own, of_near = sums[:2], sums[2]
        of_all = torch.stack([recent.sum(dim=0).expand_as(of_near), of_near])
        n_own, n_all = (x[..., n_latent, None] for x in (of_own, of_all))
        mean = of_all[..., :n_latent] / n_all.clamp(min=1e-12)
        # One cell at the mean of all counts among the batch's: hardly any cell, hardly an offset.
        return torch.addcmul(of_own[..., :n_latent], n_own, mean, value=-1) / (n_own + 1)

    def _remember(self, cells: Tensor) -> None:
        """Put these cells, of all processes, in the place of the oldest ones."""
        if self.synchronize:
            cells = _of_all_processes(cells)
        self.recent.copy_(torch.cat([cells, self.recent])[: len(self.recent)])


class _Pull(torch.autograd.Function):
    """Mean squared length of the offsets, whose gradient moves each cell by its own ones."""

    @staticmethod
    def forward(ctx: Any, latent: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(offsets)
        ctx.dtype = latent.dtype
        return offsets.square().sum() / len(latent)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (offsets,) = ctx.saved_tensors
        pull = offsets.sum(dim=0) * (2 / offsets.shape[1] * gradient)
        return pull.to(ctx.dtype), None


def _kernel(n_latent: int) -> Tensor:
    """Matrix between two rows of :attr:`BatchOffset.recent` that makes the kernel's exponent.

    That is minus their squared distance, ``2 x y - x² - y²``, by the kernel's width: three terms
    that one product has in it.
    """
    one, squared = n_latent, n_latent + 1
    kernel = torch.zeros(n_latent + 2, n_latent + 2)
    kernel[:n_latent, :n_latent] = 2 * torch.eye(n_latent)
    kernel[one, squared] = kernel[squared, one] = -1
    return kernel / (WIDTH * n_latent)


def _of_all_processes(values: Tensor) -> Tensor:
    parts = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)
