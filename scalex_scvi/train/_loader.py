"""Minibatches of cells in memory or in a backed file, through scvi-tools' data splitter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.dataloaders import AnnDataLoader, DataSplitter
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, Subset

from scalex_scvi.pp import DeviceRows

from ._checkpoint import ResumableData

BLOCK_BYTES = 2**22
"""Expression, dense, that is taken from the data at once: 8 minibatches of 64 × 2 000 genes."""

DEVICE_BYTES = 2**26
"""The same on a GPU, where each call costs more than the values."""


class BlockLoader(AnnDataLoader):
    """scvi-tools' loader, but the cells of several minibatches are taken from the data at once.

    Most of the time that it takes to load a minibatch does not depend on the number of its cells
    (``docs/profile.md``). Cells, their order and what is drawn from torch's generator are those of
    scvi-tools' loader.

    Parameters
    ----------
    adata_manager
        A model's ``adata_manager``.
    batch_size
        Cells per minibatch.
    drop_last
        Whether to leave out the last minibatch, if it is incomplete.
    **kwargs
        See :class:`scvi.dataloaders.AnnDataLoader`. With a sampler of one's own, that of several
        processes, sparse tensors or numpy's arrays, each minibatch is taken by itself.
    """

    def __init__(
        self,
        adata_manager: AnnDataManager,
        *,
        batch_size: int = 128,
        drop_last: bool = False,
        **kwargs: Any,
    ) -> None:
        plain = ("sampler", "distributed_sampler", "load_sparse_tensor", "iter_ndarray")
        at_once = 1
        self._held: DeviceRows | None = None
        if not any(kwargs.get(name) for name in plain):
            self._held = getattr(adata_manager, "on_device", None)
            at_once = _minibatches_at_once(
                batch_size,
                adata_manager.summary_stats["n_vars"],
                BLOCK_BYTES if self._held is None else DEVICE_BYTES,
            )
        self._manager = adata_manager
        self._minibatch = batch_size if at_once > 1 else None
        self._complete_only = drop_last
        super().__init__(
            adata_manager,
            batch_size=at_once * batch_size,
            drop_last=drop_last and at_once == 1,
            **kwargs,
        )

    def __len__(self) -> int:
        """Count the minibatches."""
        if self._minibatch is None:
            return super().__len__()
        n_cells = len(self.dataset)
        return n_cells // self._minibatch if self._complete_only else -(-n_cells // self._minibatch)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Go through all minibatches once; nothing is drawn at random before the first one.

        Lightning may ask for the iterator before the noise of several processes is seeded.
        """
        blocks = super().__iter__() if self._held is None else self._on_device(self._held)
        for block in blocks:
            if self._minibatch is None:
                yield block
            else:
                yield from self._share_out(block)

    def _on_device(self, held: DeviceRows) -> Iterator[dict[str, Tensor]]:
        """Take blocks of cells from what a GPU holds; nothing but their numbers goes there."""
        chosen = torch.arange(len(held))
        if isinstance(self.dataset, Subset):
            chosen = chosen[torch.as_tensor(np.asarray(self.dataset.indices))]
        others = {
            key: torch.as_tensor(np.array(self._manager.get_from_registry(key)), device=held.device)
            for key in self._manager.data_registry
            if key != REGISTRY_KEYS.X_KEY
        }
        # torch's loader draws a number before the order: so cells come in the order of the CPU's.
        torch.empty((), dtype=torch.int64).random_()
        for places in self.sampler:
            cells = chosen[torch.as_tensor(places)]
            there = cells.to(held.device)
            of_cells = {key: values[there] for key, values in others.items()}
            yield {REGISTRY_KEYS.X_KEY: held.take(cells)} | of_cells

    def _share_out(self, block: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        parts = (tensor.split(self._minibatch) for tensor in block.values())
        for tensors in zip(*parts, strict=True):
            if len(tensors[0]) == self._minibatch or not self._complete_only:
                yield dict(zip(block, tensors, strict=True))


class SCALEXDataSplitter(ResumableData, DataSplitter):
    """scvi-tools' data splitter; the order of cells over several processes follows the seed.

    Parameters
    ----------
    *args, **kwargs
        See :class:`scvi.dataloaders.DataSplitter`.
    order_seed
        Seed of the order in several processes, which all have to shuffle alike to share the cells
        out. One process draws its order from torch's generator.
    resumable
        See :class:`ResumableData`.
    """

    data_loader_cls = BlockLoader

    def __init__(
        self, *args: Any, order_seed: int = 0, resumable: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.order_seed = order_seed
        self.resumable = resumable

    def train_dataloader(self) -> DataLoader:
        """Minibatches to train on."""
        loader = super().train_dataloader()
        if isinstance(loader.sampler, DistributedSampler):
            loader.sampler.seed = self.order_seed
        return self.in_order(loader)

    def val_dataloader(self) -> Any:
        """Minibatches to validate on; none where all cells are trained on.

        Lightning refuses the ``None`` that scvi-tools returns then.
        """
        loader = super().val_dataloader()
        return [] if loader is None else loader


def _minibatches_at_once(batch_size: int, n_genes: int, n_bytes: int) -> int:
    return max(1, n_bytes // (4 * batch_size * max(n_genes, 1)))
