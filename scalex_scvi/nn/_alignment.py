"""Distance between batches in the latent space, as a term of the loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

WIDTH = 0.2
"""Squared width of the kernel, per latent dimension. For comparison: the squared distance of two
cells, per dimension, is 1.8 on average, and 0.5 for a cell and the nearest twentieth."""


class BatchOffset(nn.Module):
    """Mean squared offset of the batches in the latent space, globally and near each cell.

    An encoder that does not know the batch may still shift the cells of a batch a little; this term
    of the loss pulls them back. A minibatch has only a few cells of each batch, so the most recent
    cells of the training are kept. Each cell has two offsets, from the mean latent of all recent
    cells to the mean latent of those of its batch: one with equal weights (global), and one with
    the weights of a Gaussian kernel around the cell (local). The gradient moves each cell by its
    own offsets and by nothing else.

    The global offset is zero only where batches have the same types in the same shares. The local
    one does not need that, but cannot distinguish two types that are in one batch each from one
    type that is shifted. So the weight of this term must be small: see ``alignment_weight`` of
    :class:`scalex_scvi.train.Recipe`.

    Parameters
    ----------
    n_latent
        Latent dimensions.
    n_batch
        Number of batches.
    n_recent
        Number of recent cells to keep (512: four minibatches, during which the network hardly
        changes).

    Attributes
    ----------
    recent
        A row for each recent cell, newest first, ``(n_recent, n_latent + 2 + n_batch)``: its
        latent, a one (so that sums over rows count cells), the squared length of the latent, and
        the batch, one-hot. Rows that are not filled yet are zero. Not saved with a model: four
        minibatches fill them again.
    kernel
        Matrix of the bilinear form that gives the logarithm of the kernel of two such rows
        (without the batch), ``(n_latent + 2, n_latent + 2)``.
    synchronize
        Whether to keep the cells of all processes (see
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
        """Sum of the squared lengths of both offsets, mean over the cells: a scalar.

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
        """Offsets from the mean of the recent cells to the mean of those of each cell's batch.

        Parameters
        ----------
        latent
            ``(n_cells, n_latent)``.
        batch_index
            Batch of each cell, ``(n_cells,)`` or ``(n_cells, 1)``.

        Returns
        -------
        Global and local offset of each cell, ``(2, n_cells, n_latent)``.
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
        # Weights of recent cells for each cell: of its batch, of its batch and near, near.
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
        # One cell at the mean of all is added to the batch: the offset of a few cells is small.
        return torch.addcmul(of_own[..., :n_latent], n_own, mean, value=-1) / (n_own + 1)

    def _remember(self, cells: Tensor) -> None:
        """Replace the oldest recent cells by these, of all processes."""
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
