"""From a matrix to the latent of its cells, wherever the matrix is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from torch import Tensor

from scalex_scvi._core.matrices import by_rows, is_lazy
from scalex_scvi.nn import Encoder

from ._dask_cells import DaskCells
from ._inference import BatchStats, BlockEncoder, Cells, LocalCells, encode_cells
from ._row_blocks import ROWS, Block, row_blocks


def check_batch_stats(batch_stats: str) -> None:
    """Raise unless it is known."""
    if batch_stats not in ("running", "batch"):
        msg = f"`batch_stats` must be 'running' or 'batch', got {batch_stats!r}."
        raise ValueError(msg)


def encode(
    encoder: Encoder,
    matrix: Any,
    codes: np.ndarray,
    *,
    batch_names: list[str],
    batch_stats: BatchStats = "running",
    indices: Sequence[int] | np.ndarray | None = None,
    block_size: int | None = None,
) -> np.ndarray:
    """Mean and variance of the latent, ``(2, n_cells, n_latent)``, in the order of ``indices``.

    Rows are read in the order in which they lie, block by block.

    Parameters
    ----------
    encoder
        The encoder, in eval mode.
    matrix
        Cells × genes in [0, 1]: dense or sparse, in memory, of a backed AnnData or of dask.
    codes
        Batch of each cell.
    batch_names
        Names of the batches, for messages.
    batch_stats
        See :meth:`scalex_scvi.model.SCALEXModel.get_latent_representation`.
    indices
        Cells to use: numbers, which may repeat, or a mask; default: all.
    block_size
        Cells encoded at once, where dask does not say it.
    """
    wanted = np.arange(matrix.shape[0])
    if indices is not None:
        wanted = wanted[np.asarray(indices)]
    if not len(wanted):
        msg = f"There are no cells to encode: `indices` is {indices!r}. Give at least one cell."
        raise ValueError(msg)
    order = np.argsort(wanted, kind="stable")
    cells = _cells(encoder, matrix, codes, wanted[order], block_size)
    in_order = encode_cells(cells, encoder, batch_stats, batch_names)
    latent = np.empty_like(in_order)
    latent[:, order] = in_order
    return latent


def encode_loader(
    encoder: Encoder,
    make_loader: Callable[[], Iterable[dict[str, Tensor]]],
    *,
    batch_names: list[str],
    batch_stats: BatchStats,
) -> np.ndarray:
    """Do the same with the minibatches of a data loader, in its order.

    Parameters
    ----------
    encoder, batch_names, batch_stats
        See :func:`encode`.
    make_loader
        Returns a fresh loader at each call.
    """

    def read() -> Iterator[tuple[Block, np.ndarray]]:
        for tensors in make_loader():
            codes = tensors[REGISTRY_KEYS.BATCH_KEY].reshape(-1).numpy()
            yield tensors[REGISTRY_KEYS.X_KEY].numpy(), codes

    cells = LocalCells(BlockEncoder(encoder), read)
    return encode_cells(cells, encoder, batch_stats, batch_names)


def _cells(
    encoder: Encoder, matrix: Any, codes: np.ndarray, rows: np.ndarray, size: int | None
) -> Cells:
    if is_lazy(matrix):
        if len(rows) != len(codes) or (np.diff(rows) != 1).any():
            matrix = matrix[rows]
        return DaskCells(encoder, matrix, codes[rows])
    matrix = by_rows(matrix)
    size = size or ROWS

    def read() -> Iterator[tuple[Block, np.ndarray]]:
        starts = range(0, len(rows), size)
        for start, block in zip(starts, row_blocks(matrix, rows, size), strict=True):
            yield block, codes[rows[start : start + size]]

    return LocalCells(BlockEncoder(encoder), read)


def draw(mean: np.ndarray, var: np.ndarray, minibatch: int, device: torch.device) -> np.ndarray:
    """One draw of the posterior for each cell, with torch's global generator.

    The numbers are those that scvi-tools' loader and the module would use: the loader takes a seed
    from the generator, then each minibatch its noise.
    """
    torch.empty((), dtype=torch.int64).random_()
    noise = [
        torch.normal(torch.zeros(rows, mean.shape[1], device=device), 1.0).cpu().numpy()
        for rows in _lengths(len(mean), minibatch)
    ]
    return mean + np.sqrt(var) * np.concatenate(noise)


def _lengths(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]
