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
        The last cells, newest first: their latents, a column of ones, by which they count, and the
        latents' squared lengths, ``(n_recent, n_latent + 2)``, and their batches, ``(n_recent,)``,
        as floating point numbers. Places not taken yet are all zero. Not saved: eight minibatches
        bring them back.
    kernel
        The logarithm of the kernel as a form of two rows of ``recent``.
    synchronise
        Whether to remember the cells of all processes (see
        :func:`~scalex_scvi.nn.synchronise_statistics`).
    """

    recent: Tensor
    recent_batch: Tensor
    kernel: Tensor
    synchronise: bool = False

    def __init__(self, n_latent: int, n_batch: int, *, n_recent: int = 512) -> None:
        super().__init__()
        self.n_batch = n_batch
        self.register_buffer("recent", torch.zeros(n_recent, n_latent + 2), persistent=False)
        self.register_buffer("recent_batch", torch.zeros(n_recent), persistent=False)
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
        with torch.autocast(latent.device.type, enabled=False):
            latent, batch = latent.to(self.recent.dtype), batch_index.reshape(-1)
            offsets = self.offsets(latent.detach(), batch)
            if self.training:
                self._remember(latent.detach(), batch)
            # The value is the offsets' length, the gradient moves the cells themselves alone.
            pull = (offsets.sum(dim=0) * latent).sum() * (2 / len(latent))
            return offsets.square().sum() / len(latent) + pull - pull.detach()

    @torch.no_grad()
    def offsets(self, latent: Tensor, batch: Tensor) -> Tensor:
        """From the mean of the recent cells to the mean of those of each cell's batch.

        Parameters
        ----------
        latent
            ``(n_cells, n_latent)``.
        batch
            Batch of each cell, ``(n_cells,)``.

        Returns
        -------
        Of all recent cells and of those near the cell, ``(2, n_cells, n_latent)``.
        """
        cells = _rows(latent)
        near = (cells @ self.kernel @ self.recent.T).exp_()
        # Zeros and ones as numbers: a mask of truth values takes four times as long on a CPU.
        own = torch.empty_like(near)
        torch.eq(self.recent_batch, batch.to(own.dtype)[:, None], out=own)
        everyone = torch.stack([self.recent.sum(dim=0).expand_as(cells), near @ self.recent])
        return _offset(torch.stack([own, own * near]) @ self.recent, everyone)

    @torch.no_grad()
    def _remember(self, latent: Tensor, batch: Tensor) -> None:
        """Put these cells, of all processes, in the place of the oldest ones."""
        if self.synchronise:
            latent, batch = _of_all_processes(latent), _of_all_processes(batch)
        n_recent = len(self.recent)
        self.recent.copy_(torch.cat([_rows(latent), self.recent])[:n_recent])
        self.recent_batch.copy_(torch.cat([batch, self.recent_batch])[:n_recent])


def _rows(latent: Tensor) -> Tensor:
    """Make rows of :attr:`BatchOffset.recent` of latents."""
    squared = latent.square().sum(dim=1, keepdim=True)
    return torch.cat([latent, torch.ones_like(squared), squared], dim=1)


def _kernel(n_latent: int) -> Tensor:
    """Matrix between two rows of :attr:`BatchOffset.recent` that makes the kernel's exponent.

    That is minus their squared distance, ``2 x y - x² - y²``, by the kernel's width: three terms
    that one product has in it.
    """
    kernel = torch.zeros(n_latent + 2, n_latent + 2)
    kernel[:n_latent, :n_latent] = 2 * torch.eye(n_latent)
    kernel[-1, -2] = kernel[-2, -1] = -1
    return kernel / (WIDTH * n_latent)


def _offset(own: Tensor, everyone: Tensor) -> Tensor:
    """From the mean of all to the mean of a batch, both given as sums of :attr:`recent`.

    One cell at the mean of all counts among the batch's: hardly any cell, hardly an offset.
    """
    mean = everyone[..., :-2] / everyone[..., -2:-1].clamp(min=1e-12)
    n_own = own[..., -2:-1]
    return (own[..., :-2] - n_own * mean) / (n_own + 1)


def _of_all_processes(values: Tensor) -> Tensor:
    parts = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)
