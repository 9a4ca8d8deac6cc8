"""Encoding with batch statistics, and decoding, over whole data sets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from torch import Tensor
from torch.nn import functional as F

from scalex_scvi.module import SCALEXVAE
from scalex_scvi.nn import FullyConnectedBlock

logger = logging.getLogger(__name__)

MIN_CELLS_FOR_BATCH_STATS = 32
"""Batches with fewer cells use running statistics: a variance of so few cells is noise."""

Minibatches = Callable[[], Iterable[dict[str, Tensor]]]


class _Moments:
    """Mean and variance of each batch over a stream of minibatches, in double precision."""

    def __init__(self, n_batch: int, n_features: int, device: torch.device) -> None:
        self.n_batch = n_batch
        self.count = torch.zeros(n_batch, dtype=torch.float64, device=device)
        self.mean = torch.zeros(n_batch, n_features, dtype=torch.float64, device=device)
        self.squares = torch.zeros_like(self.mean)

    def update(self, h: Tensor, batch: Tensor) -> None:
        """Merge a minibatch (Chan, Golub & LeVeque 1979), stable where E[x²] − E[x]² is not."""
        rows = F.one_hot(batch, self.n_batch).double()
        h = h.double()
        count = rows.sum(dim=0)
        mean = rows.T @ h / count.clamp(min=1)[:, None]
        squares = rows.T @ (h - rows @ mean).square()
        total = (self.count + count).clamp(min=1)
        shift = mean - self.mean
        self.squares += squares + shift.square() * (self.count * count / total)[:, None]
        self.mean += shift * (count / total)[:, None]
        self.count += count

    def variance(self) -> Tensor:
        """Biased variance, as BatchNorm normalises with."""
        return self.squares / self.count.clamp(min=1)[:, None]


def encode_with_batch_stats(
    module: SCALEXVAE, minibatches: Minibatches, n_batch: int, batch_names: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Encode all cells, normalising hidden layers with each batch's own exact statistics.

    One pass over the data for each normalised layer, and one to encode. Nothing in the module
    changes.

    Parameters
    ----------
    module
        The network, in eval mode.
    minibatches
        Returns a fresh iterator over the minibatches at each call.
    n_batch
        Number of batches.
    batch_names
        Their names, for messages.

    Returns
    -------
    Mean and variance of the latent, each ``(n_cells, n_latent)``.
    """
    statistics: list[tuple[Tensor, Tensor] | None] = []
    for depth, layer in enumerate(module.encoder.layers):
        if layer.norm is None:
            statistics.append(None)
            continue
        moments = _Moments(n_batch, layer.norm.num_features, module.device)
        for x, batch in _inputs(minibatches(), module.device):
            moments.update(layer.linear(_hidden(module, x, batch, statistics[:depth])), batch)
        if depth == 0:
            _report_small_batches(moments.count, batch_names)
        statistics.append(_or_running(moments, layer.norm))
    parts = [
        module.encoder.heads(_hidden(module, x, batch, statistics))
        for x, batch in _inputs(minibatches(), module.device)
    ]
    mean, var = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    return mean, var


def _inputs(minibatches: Iterable[dict[str, Tensor]], device: torch.device) -> Any:
    for tensors in minibatches:
        batch = tensors[REGISTRY_KEYS.BATCH_KEY].reshape(-1).long()
        yield tensors[REGISTRY_KEYS.X_KEY].to(device), batch.to(device)


def _hidden(
    module: SCALEXVAE, x: Tensor, batch: Tensor, statistics: list[tuple[Tensor, Tensor] | None]
) -> Tensor:
    """Run the layers whose statistics are known."""
    for layer, known in zip(module.encoder.layers, statistics, strict=False):
        x = layer.finish(_normalise(layer, layer.linear(x), batch, known))
    return x


def _normalise(
    layer: FullyConnectedBlock, h: Tensor, batch: Tensor, known: tuple[Tensor, Tensor] | None
) -> Tensor:
    if known is None or layer.norm is None:
        return h
    mean, var = known
    scale = layer.norm.weight * torch.rsqrt(var + layer.norm.eps)
    return (h - mean[batch]) * scale[batch] + layer.norm.bias


def _or_running(moments: _Moments, norm: torch.nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    enough = (moments.count >= MIN_CELLS_FOR_BATCH_STATS)[:, None]
    mean = torch.where(enough, moments.mean.float(), norm.running_mean)
    var = torch.where(enough, moments.variance().float(), norm.running_var)
    return mean, var


def _report_small_batches(count: Tensor, batch_names: list[str]) -> None:
    small = [
        f"{name} ({int(n)})"
        for name, n in zip(batch_names, count.tolist(), strict=True)
        if 0 < n < MIN_CELLS_FOR_BATCH_STATS
    ]
    if small:
        logger.warning(
            "batch_stats='batch' needs %d cells of a batch; running statistics are used for: %s.",
            MIN_CELLS_FOR_BATCH_STATS,
            ", ".join(small),
        )
