"""Training from a store on disk, in minibatches that annbatch puts together from many places."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from anndata.abc import CSRDataset
from scvi import REGISTRY_KEYS
from torch import Tensor

from scalex_scvi._core.csr_on_disk import fast_codecs
from scalex_scvi.pp import Transform

from ._checkpoint import ResumableData
from ._data import SCALEXDataManager
from ._recipe import DEFAULT

logger = logging.getLogger(__name__)

CELLS_IN_RUN = 64
"""Neighboring cells that are read together: about what is compressed together on disk."""

CELLS_IN_BUFFER = 8192
"""Cells that are held and shuffled together; runs of them come from all over the store."""


class StoreDataModule(ResumableData):
    """Minibatches of cells from a zarr store, in bounded memory.

    To read each cell of a minibatch from its own place on disk takes several times as long as the
    training. Instead runs of neighboring cells are read from random places into a buffer, which
    is shuffled and cut into minibatches: what annbatch does (https://annbatch.readthedocs.io).
    Every cell is seen once in an epoch; the incomplete last minibatch is dropped.

    Of several processes (DDP), each reads a part of the store of its own, neighboring cells, as
    long as all the others, so that none is read twice; up to a minibatch of cells for each process
    is left at the end of the store.

    :meth:`scalex_scvi.SCALEXModel.train` uses this for cells of :func:`scalex_scvi.io.open_store`
    by itself.

    Parameters
    ----------
    manager
        ``model.adata_manager``, of cells whose matrix is on disk.
    batch_size
        Cells per minibatch.
    seed
        Seed of the order.
    cells_in_buffer
        Cells that are held at once, rounded up to whole minibatches. Where cells of one batch lie
        together on disk, a minibatch is the more mixed the more there are.

    Raises
    ------
    ImportError
        Without annbatch, which needs Python 3.12.
    TypeError
        If the matrix is not the CSR matrix of a zarr store.
    """

    def __init__(
        self,
        manager: SCALEXDataManager,
        *,
        batch_size: int = DEFAULT.batch_size,
        seed: int = 124,
        cells_in_buffer: int = CELLS_IN_BUFFER,
    ) -> None:
        super().__init__()
        if not reads_from_store(manager):
            msg = (
                "The model's cells are not those of a zarr store with a CSR matrix: open them by "
                "`scalex_scvi.io.open_store`."
            )
            raise TypeError(msg)
        if not has_annbatch():
            msg = (
                "Training from a store in blocks needs annbatch, on Python 3.12 or later: "
                "`pip install scalex-scvi[scale]`."
            )
            raise ImportError(msg)
        self.manager = manager
        self.batch_size = batch_size
        self.n_obs = self.n_train = manager.adata.n_obs
        self.n_val = 0
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        # The buffer must hold whole runs and whole minibatches.
        step = batch_size // math.gcd(batch_size, CELLS_IN_RUN)
        self.runs_in_buffer = step * math.ceil(cells_in_buffer / CELLS_IN_RUN / step)

    def train_dataloader(self) -> Minibatches:
        """Minibatches of one epoch, in another order each time; of this process's part."""
        from annbatch import Loader
        from annbatch.samplers import RandomSampler

        rank, n_processes = self._place()
        if n_processes > 1:
            self.rng = np.random.default_rng([self.seed, rank])
        n_cells = self.n_obs // n_processes // self.batch_size * self.batch_size
        part = slice(rank * n_cells, (rank + 1) * n_cells) if n_processes > 1 else slice(0, None)
        sampler = RandomSampler(
            chunk_size=CELLS_IN_RUN,
            preload_nchunks=self.runs_in_buffer,
            batch_size=self.batch_size,
            mask=part,
            drop_last=True,
            rng=self.rng,
        )
        loader = Loader(batch_sampler=sampler, return_index=True, preload_to_gpu=False)
        loader.add_dataset(self.manager.get_from_registry(REGISTRY_KEYS.X_KEY))
        columns = {
            key: torch.from_numpy(np.array(self.manager.get_from_registry(key), dtype=np.int64))
            for key in (REGISTRY_KEYS.BATCH_KEY, REGISTRY_KEYS.LABELS_KEY)
        }
        return self.in_order(Minibatches(loader, columns, self.manager.transform), self.rng)

    def _place(self) -> tuple[int, int]:
        """Return which process this is, and of how many."""
        trainer = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)


class Minibatches:
    """What annbatch loads, as the tensors that scvi-tools' models take."""

    def __init__(
        self, loader: object, columns: dict[str, Tensor], transform: Transform | None
    ) -> None:
        self.loader = loader
        self.columns = columns
        self.transform = transform

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for loaded in self._loaded():
            rows = torch.from_numpy(np.asarray(loaded["index"], dtype=np.int64))
            tensors = {key: values[rows].reshape(-1, 1) for key, values in self.columns.items()}
            x = loaded["X"]
            if self.transform is not None:
                codes = self.columns[REGISTRY_KEYS.BATCH_KEY].reshape(-1)[rows].numpy()
                x = self.transform(x, codes)
            x = x.toarray().astype(np.float32, copy=False)
            yield {REGISTRY_KEYS.X_KEY: torch.from_numpy(x), **tensors}

    def _loaded(self) -> Iterator[dict[str, Any]]:
        blocks = iter(self.loader)  # type: ignore[call-overload]
        with fast_codecs():  # the first step opens the arrays
            first = list(islice(blocks, 1))
        yield from chain(first, blocks)


def reads_from_store(manager: SCALEXDataManager) -> bool:
    """Whether the registered expression is the CSR matrix of a zarr store."""
    matrix = manager.get_from_registry(REGISTRY_KEYS.X_KEY)
    return isinstance(matrix, CSRDataset) and matrix.backend == "zarr"


def has_annbatch() -> bool:
    """Whether annbatch is installed."""
    return find_spec("annbatch") is not None


def store_data_module(
    manager: SCALEXDataManager, *, batch_size: int, seed: int, train_size: float
) -> StoreDataModule | None:
    """Return the data module for cells of a store, ``None`` for others.

    ``None`` also without annbatch: scvi-tools' own loader reads the store too, row by row.

    Parameters
    ----------
    manager
        A model's ``adata_manager``.
    batch_size, seed
        See :class:`StoreDataModule`.
    train_size
        Share of the cells to train on, which must be 1.

    Raises
    ------
    ValueError
        For a share of the cells.
    """
    if not reads_from_store(manager):
        return None
    if not has_annbatch():
        logger.warning(
            "Cells are read from the store one by one, which takes several times as long as the "
            "training. Python 3.12 or later with `pip install scalex-scvi[scale]` (annbatch) reads "
            "them in blocks."
        )
        return None
    if train_size < 1:
        msg = f"From a store, all cells are trained on: `train_size` must be 1, got {train_size!r}."
        raise ValueError(msg)
    return StoreDataModule(manager, batch_size=batch_size, seed=seed)
