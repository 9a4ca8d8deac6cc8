"""Encoding of whole data sets, block by block, with running or with batch statistics."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from scalex_scvi.nn import Encoder, FullyConnectedBlock

from ._row_blocks import Block, as_tensor

logger = logging.getLogger(__name__)

MIN_CELLS_FOR_BATCH_STATS = 32
"""Batches with fewer cells use running statistics: a variance of so few cells is noise."""

Statistics: TypeAlias = "list[tuple[Tensor, Tensor] | None]"
"""For each hidden layer mean and variance, batches × units; ``None``: the layer's own."""

BatchStats = Literal["running", "batch"]

Result = TypeVar("Result")


class Cells(Protocol):
    """Blocks of cells, wherever they are, with the encoder where they are."""

    def map(self, method: Callable[..., np.ndarray], *shared: Any) -> np.ndarray:
        """Return ``method(encoder, block, codes, *shared)`` of all blocks, stacked in order."""
        ...

    def fold(self, method: Callable[..., Moments], *shared: Any) -> Moments:
        """Return the same of all blocks, merged."""
        ...


class LocalCells:
    """Blocks of cells that this process reads, one after the other.

    Parameters
    ----------
    encoder
        The encoder, in eval mode.
    read
        Returns a fresh iterator over blocks of cells × genes, and the batch of each cell, at each
        call.
    """

    def __init__(
        self, encoder: BlockEncoder, read: Callable[[], Iterable[tuple[Block, np.ndarray]]]
    ) -> None:
        self.encoder = encoder
        self.read = read

    def _results(self, method: Callable[..., Result], *shared: Any) -> Iterator[Result]:
        for block, codes in self.read():
            yield method(self.encoder, block, codes, *shared)

    def map(self, method: Callable[..., np.ndarray], *shared: Any) -> np.ndarray:
        """See :class:`Cells`."""
        return _in_place(self._results(method, *shared))

    def fold(self, method: Callable[..., Moments], *shared: Any) -> Moments:
        """See :class:`Cells`."""
        return reduce(Moments.merge, self._results(method, *shared))


def _in_place(results: Iterator[np.ndarray]) -> np.ndarray:
    """Put the rows of all results under one another, each as it comes.

    Kept one by one until the last, small results between the freed memory of their blocks keep
    that memory from being used again: 2.7 GB for a million cells.
    """
    rows = next(results)
    filled = len(rows)
    for result in results:
        if filled + len(result) > len(rows):
            rows = np.concatenate([rows, np.empty_like(rows), np.empty_like(result)])
        rows[filled : filled + len(result)] = result
        filled += len(result)
    return rows[:filled]


@dataclass
class Moments:
    """Number, mean and summed squares about the mean, of each batch, in double precision.

    ``count`` is ``(n_batch,)``, ``mean`` and ``squares`` are ``(n_batch, n_units)``.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, h: Tensor, batch: Tensor, n_batch: int) -> Moments:
        """Moments of one block: ``(n_cells, n_units)`` and the batch of each cell."""
        present, batch = torch.unique(batch, return_inverse=True)
        rows = F.one_hot(batch, len(present)).double()
        h = h.double()
        count = h.new_zeros(n_batch)
        mean = h.new_zeros(n_batch, h.shape[1])
        squares = torch.zeros_like(mean)
        count[present] = rows.sum(dim=0)
        own = rows.T @ h / count[present, None]
        mean[present] = own
        squares[present] = rows.T @ (h - rows @ own).square_()
        return cls(count, mean, squares)

    def merge(self, other: Moments) -> Moments:
        """Add other cells (Chan, Golub & LeVeque 1979), stable where E[x²] − E[x]² is not."""
        total = self.count + other.count
        share = (other.count / total.clamp(min=1))[:, None]
        shift = other.mean - self.mean
        return Moments(
            total,
            self.mean + shift * share,
            self.squares + other.squares + shift.square() * self.count[:, None] * share,
        )

    def variance(self) -> Tensor:
        """Biased variance, as BatchNorm normalises with."""
        return self.squares / self.count.clamp(min=1)[:, None]


class BlockEncoder:
    """The encoder over blocks of cells, CSR or dense.

    Parameters
    ----------
    encoder
        The encoder, in eval mode. Nothing in it changes.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    @property
    def device(self) -> torch.device:
        """Where the encoder is."""
        return self.encoder.mean_head.weight.device

    @cached_property
    def _first_weight(self) -> Tensor:
        """Genes × units: the layout in which a sparse row picks whole rows."""
        return self.encoder.layers[0].linear.weight.detach().T.contiguous()

    @torch.inference_mode()
    def encode(
        self, block: Block, codes: np.ndarray, statistics: Statistics | None = None
    ) -> np.ndarray:
        """Mean and variance of the latent, side by side: ``(n_cells, 2 · n_latent)``."""
        batch = self._on_device(codes)
        statistics = statistics or [None] * len(self.encoder.layers)
        h = self._hidden(block, batch, statistics)
        return torch.cat(self.encoder.heads(h), dim=1).cpu().numpy()

    @torch.inference_mode()
    def moments(
        self, block: Block, codes: np.ndarray, statistics: Statistics, n_batch: int
    ) -> Moments:
        """Moments of the first layer whose statistics are not known, before normalisation."""
        batch = self._on_device(codes)
        h = self._hidden(block, batch, statistics)
        return Moments.of(self._linear(len(statistics), h), batch, n_batch)

    def _on_device(self, codes: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(codes, dtype=np.int64)).to(self.device)

    def _hidden(self, block: Block, batch: Tensor, statistics: Statistics) -> Tensor:
        """Run the layers whose statistics are given."""
        h = as_tensor(block, self.device)
        for depth, known in enumerate(statistics):
            layer = self.encoder.layers[depth]
            h = layer.finish(_normalise(layer, self._linear(depth, h), batch, known))
        return h

    def _linear(self, depth: int, x: Tensor) -> Tensor:
        linear = self.encoder.layers[depth].linear
        if x.layout is torch.sparse_csr:
            return (x @ self._first_weight).add_(linear.bias)
        return linear(x)


def _normalise(
    layer: FullyConnectedBlock, h: Tensor, batch: Tensor, known: tuple[Tensor, Tensor] | None
) -> Tensor:
    if known is None or layer.norm is None:
        return layer.normalise(h)
    mean, var = known
    scale = layer.norm.weight * torch.rsqrt(var + layer.norm.eps)
    return (h - mean[batch]) * scale[batch] + layer.norm.bias


def encode_cells(
    cells: Cells, encoder: Encoder, batch_stats: BatchStats, batch_names: list[str]
) -> np.ndarray:
    """Mean and variance of the latent of all cells, ``(2, n_cells, n_latent)``.

    Parameters
    ----------
    cells
        All cells.
    encoder
        The encoder, in eval mode. Nothing in it changes.
    batch_stats
        See :meth:`scalex_scvi.model.SCALEXModel.get_latent_representation`.
    batch_names
        Names of the batches, for messages.
    """
    statistics = None
    if batch_stats == "batch":
        statistics = batch_statistics(cells, encoder, batch_names)
    both = cells.map(BlockEncoder.encode, statistics)
    return np.stack(np.split(both, 2, axis=1))


@torch.inference_mode()
def batch_statistics(cells: Cells, encoder: Encoder, batch_names: list[str]) -> Statistics:
    """Exact mean and variance of each batch over all cells, for each normalised hidden layer.

    One pass over the cells for each layer.
    """
    statistics: Statistics = []
    for layer in encoder.layers:
        if layer.norm is None:
            statistics.append(None)
            continue
        moments = cells.fold(BlockEncoder.moments, list(statistics), len(batch_names))
        if not any(known is not None for known in statistics):
            _report_small_batches(moments.count, batch_names)
        statistics.append(_or_running(moments, layer.norm))
    return statistics


def _or_running(moments: Moments, norm: torch.nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    device = moments.count.device
    enough = (moments.count >= MIN_CELLS_FOR_BATCH_STATS)[:, None]
    return (
        torch.where(enough, moments.mean.float(), norm.running_mean.to(device)),
        torch.where(enough, moments.variance().float(), norm.running_var.to(device)),
    )


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
