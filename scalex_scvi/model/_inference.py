"""Encoding of whole data sets, block by block, with running or with batch statistics."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Literal, TypeAlias

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

from scalex_scvi._core.blocks import Block, Blocks
from scalex_scvi._core.threads import are_few_cells, one_thread, one_thread_each
from scalex_scvi.nn import Encoder, FullyConnectedBlock
from scalex_scvi.pp import DeviceRows, Transform, on_device

from ._completion import Completion

logger = logging.getLogger(__name__)

MIN_CELLS_FOR_BATCH_STATS = 32
"""Batches with fewer cells use running statistics: a variance of so few cells is too uncertain."""

SPARSE_BELOW = 0.12
"""Share of values other than zero below which CSR times dense takes less time than dense times
dense. Measured for 2 000 genes and 1 024 hidden units, one thread: half of it at 5 %, three
quarters at 10 %, 1.5 times at 20 %."""

Statistics: TypeAlias = "list[tuple[Tensor, Tensor] | None]"
"""For each hidden layer mean and variance, batches × units; ``None``: the layer's own."""

BatchStats = Literal["running", "batch"]

ROWS = 512
"""Cells encoded at once: more are not faster (measured up to 4 096)."""

DEVICE_ROWS = 16_384
"""The same on a GPU, which is idle for most of the time with few."""


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
        """Biased variance, as BatchNorm normalizes with."""
        return self.squares / self.count.clamp(min=1)[:, None]


class BlockEncoder:
    """The encoder over blocks of cells, CSR or dense, counts or values in [0, 1].

    Parameters
    ----------
    encoder
        The encoder, in eval mode. Nothing in it changes.
    transform
        Applied to each block first; ``None``: blocks hold values in [0, 1].
    size
        Cells encoded at once.
    completion
        What genes are expected to be that the cells lack; ``None``: as they are.
    """

    def __init__(
        self,
        encoder: Encoder,
        transform: Transform | None = None,
        size: int | None = None,
        completion: Completion | None = None,
    ) -> None:
        self.encoder = encoder
        self.transform = transform
        self.completion = completion
        self.size = size or (ROWS if self.device.type == "cpu" else DEVICE_ROWS)

    @property
    def device(self) -> torch.device:
        """Where the encoder is."""
        return self.encoder.mean_head.weight.device

    @cached_property
    def _first_weight(self) -> Tensor:
        """Genes × units: the layout in which a sparse row picks whole rows."""
        return self.encoder.layers[0].linear.weight.detach().T.contiguous()

    @cached_property
    def _completed(self) -> Completion | None:
        if self.completion is None:
            return None
        weight = self.encoder.layers[0].linear.weight.detach()
        return self.completion.to(self.device).of_layer(weight)

    @torch.inference_mode()
    def encode(
        self, block: Block, codes: np.ndarray, statistics: Statistics | None = None
    ) -> np.ndarray:
        """Mean and variance of the latent, side by side: ``(n_cells, 2 · n_latent)``."""
        statistics = statistics or [None] * len(self.encoder.layers)
        parts = [
            torch.cat(self.encoder.heads(self._hidden(x, batch, statistics)), dim=1)
            for x, batch in self._parts(block, codes)
        ]
        return torch.cat(parts).cpu().numpy()

    @torch.inference_mode()
    def hidden(self, block: Block, codes: np.ndarray) -> np.ndarray:
        """Return the last hidden layer, ``(n_cells, n_hidden)``."""
        own: Statistics = [None] * len(self.encoder.layers)
        parts = [self._hidden(x, batch, own) for x, batch in self._parts(block, codes)]
        return torch.cat(parts).cpu().numpy()

    @torch.inference_mode()
    def moments(
        self, block: Block, codes: np.ndarray, statistics: Statistics, n_batch: int
    ) -> Moments:
        """Moments of the first layer whose statistics are not known, before normalization."""
        return reduce(
            Moments.merge,
            (
                Moments.of(
                    self._linear(len(statistics), self._hidden(x, batch, statistics)),
                    batch,
                    n_batch,
                )
                for x, batch in self._parts(block, codes)
            ),
        )

    @cached_property
    def _there(self) -> Callable[[Block, np.ndarray], DeviceRows] | None:
        """The transform on a GPU, if that is where the encoder is."""
        return None if self.device.type == "cpu" else on_device(self.transform, self.device)

    def _parts(self, block: Block, codes: np.ndarray) -> Iterator[tuple[Block | Tensor, Tensor]]:
        """Yield the cells that are encoded at once, whatever the size of the block."""
        if self._there is not None:
            for start in range(0, block.shape[0], self.size):
                rows = slice(start, start + self.size)
                yield self._there(block[rows], codes[rows]).dense(), self._on_device(codes[rows])
            return
        if self.transform is not None:
            block = self.transform(block, codes)
        for start in range(0, block.shape[0], self.size):
            rows = slice(start, start + self.size)
            yield block[rows], self._on_device(codes[rows])

    def _on_device(self, codes: np.ndarray) -> Tensor:
        # Those that dask holds for all blocks cannot be written into, which torch warns of.
        return torch.from_numpy(np.require(codes, np.int64, ["W"])).to(self.device)

    def _hidden(self, block: Block | Tensor, batch: Tensor, statistics: Statistics) -> Tensor:
        """Run the layers whose statistics are given."""
        h = block if isinstance(block, Tensor) else as_tensor(block, self.device)
        for depth, known in enumerate(statistics):
            layer = self.encoder.layers[depth]
            h = layer.finish(_normalize(layer, self._linear(depth, h), batch, known))
        return h

    def _linear(self, depth: int, x: Tensor) -> Tensor:
        linear = self.encoder.layers[depth].linear
        is_sparse = x.layout is torch.sparse_csr
        h = (x @ self._first_weight).add_(linear.bias) if is_sparse else linear(x)
        if depth == 0 and self._completed is not None:
            return self._completed.add_to(h, x)
        return h


def _normalize(
    layer: FullyConnectedBlock, h: Tensor, batch: Tensor, known: tuple[Tensor, Tensor] | None
) -> Tensor:
    if known is None or layer.norm is None:
        return layer.normalize(h)
    mean, var = known
    scale = layer.norm.weight * torch.rsqrt(var + layer.norm.eps)
    return (h - mean[batch]) * scale[batch] + layer.norm.bias


def encode_cells(
    blocks: Blocks,
    encoder: BlockEncoder,
    *,
    batch_stats: BatchStats,
    batch_names: list[str],
) -> np.ndarray:
    """Mean and variance of the latent of all cells, ``(2, n_cells, n_latent)``.

    Parameters
    ----------
    blocks
        All cells.
    encoder
        The encoder. Workers of a cluster get a copy, for the CPU.
    batch_stats
        See :meth:`scalex_scvi.model.SCALEXModel.get_latent_representation`.
    batch_names
        Names of the batches, for messages.
    """
    check_batch_stats(batch_stats)
    if blocks.is_lazy:
        of_worker = copy.deepcopy(encoder.encoder).cpu()
        encoder = BlockEncoder(
            of_worker, encoder.transform, min(encoder.size, ROWS), encoder.completion
        )
    few = are_few_cells(blocks.shape[0])
    with one_thread_each() if blocks.is_lazy else one_thread(few):  # dask: a block on each core
        statistics = None
        if batch_stats == "batch":
            statistics = batch_statistics(blocks, encoder, batch_names)
        both = blocks.map(_encode, encoder, statistics)
    return np.stack(np.split(both, 2, axis=1))


def check_batch_stats(batch_stats: str) -> None:
    """Raise unless it is known."""
    if batch_stats not in ("running", "batch"):
        msg = f"`batch_stats` must be 'running' or 'batch', got {batch_stats!r}."
        raise ValueError(msg)


def _encode(
    block: Block, codes: np.ndarray, encoder: BlockEncoder, statistics: Statistics | None
) -> np.ndarray:
    return encoder.encode(block, codes, statistics)


def _moments(
    block: Block, codes: np.ndarray, encoder: BlockEncoder, statistics: Statistics, n_batch: int
) -> Moments:
    return encoder.moments(block, codes, statistics, n_batch)


def _merge(parts: Sequence[Moments]) -> Moments:
    return reduce(Moments.merge, parts)


@torch.inference_mode()
def batch_statistics(
    blocks: Blocks, encoder: BlockEncoder, batch_names: list[str], *, report: bool = True
) -> Statistics:
    """Exact mean and variance of each batch over all cells, for each normalized hidden layer.

    One pass over the cells for each layer. Small batches are named in a message, unless ``report``
    is false.
    """
    statistics: Statistics = []
    for layer in encoder.encoder.layers:
        if layer.norm is None:
            statistics.append(None)
            continue
        moments = blocks.fold(_moments, _merge, encoder, list(statistics), len(batch_names))
        if report and not any(known is not None for known in statistics):
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


def as_tensor(block: Block, device: torch.device) -> Tensor:
    """Return a block as float32: sparse (CSR) where that is faster, else dense.

    torch multiplies sparse matrices by MKL, on CPUs; without it they become dense.
    """
    if isinstance(block, np.ndarray):
        dense = np.require(block, dtype=np.float32, requirements=["C", "W"])
        return torch.from_numpy(dense).to(device)
    few = block.nnz < SPARSE_BELOW * block.shape[0] * block.shape[1]
    if few and device.type == "cpu" and torch.backends.mkl.is_available():
        return _csr_tensor(sparse.csr_matrix(block))
    return torch.from_numpy(block.astype(np.float32, copy=False).toarray()).to(device)


def _csr_tensor(csr: sparse.csr_matrix) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            torch.from_numpy(csr.indptr),
            torch.from_numpy(csr.indices),
            torch.from_numpy(csr.data.astype(np.float32, copy=False)),
            size=csr.shape,
            check_invariants=False,  # scipy's are; torch warns where nothing is said
        )
