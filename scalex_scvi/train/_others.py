"""Data modules of others: their minibatches of counts go through the transform."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from scipy import sparse
from scvi import REGISTRY_KEYS
from torch import Tensor

from scalex_scvi._core.blocks import evenly_spread
from scalex_scvi.pp import Transform

Result = TypeVar("Result")

_MERGED_AT_ONCE = 64
"""Results of minibatches that are merged together: few are held at any time."""


class MinibatchBlocks:
    """Minibatches of counts as the blocks of a matrix, to fit the transform to.

    They are read once in each fold, and cannot be asked for a second time in another order: what
    is needed of single cells is kept from the first reading.

    Parameters
    ----------
    minibatches
        Returns minibatches of all cells: dictionaries with counts, cells × features, and the
        number of each cell's batch.
    n_cells
        How many cells there should be.
    n_features, n_batches
        Columns of the counts, and batches.
    n_kept
        How many cells to keep, spread evenly over all.

    Attributes
    ----------
    n_seen
        Cells that were read, after the first fold.
    """

    is_lazy = False

    def __init__(
        self,
        minibatches: Callable[[], Iterable[Any]],
        n_cells: int,
        n_features: int,
        n_batches: int,
        *,
        n_kept: int,
    ) -> None:
        self.minibatches = minibatches
        self.n_batches = n_batches
        self.shape = (n_cells, n_features)
        self.n_seen = 0
        self._wanted = evenly_spread(n_cells, n_kept)
        self._kept: list[tuple[sparse.csr_matrix, np.ndarray]] = []

    def __iter__(self) -> Iterator[tuple[sparse.csr_matrix, np.ndarray]]:
        start = 0
        for tensors in self.minibatches():
            block, codes = counts_and_batches(tensors, self.shape[1], self.n_batches)
            if not self.n_seen:
                first, last = np.searchsorted(self._wanted, (start, start + len(codes)))
                rows = self._wanted[first:last] - start
                self._kept.append((block[rows], codes[rows]))
            start += len(codes)
            yield block, codes
        if not start:
            msg = "The data module gives no cells: its `inference_dataloader()` is empty."
            raise ValueError(msg)
        self.n_seen = start

    @property
    def kept(self) -> tuple[sparse.csr_matrix, np.ndarray]:
        """Counts and batches of the cells that were kept."""
        blocks, codes = zip(*self._kept, strict=True)
        return sparse.vstack(blocks, format="csr"), np.concatenate(codes)

    def fold(
        self,
        function: Callable[..., Result],
        merge: Callable[[Sequence[Result]], Result],
        *shared: Any,
    ) -> Result:
        """Return the results of all minibatches, merged in order."""
        merged: list[Result] = []
        for block, codes in self:
            merged.append(function(block, codes, *shared))
            if len(merged) == _MERGED_AT_ONCE:
                merged = [merge(merged)]
        return merge(merged) if len(merged) > 1 else merged[0]

    def map(self, function: Callable[..., np.ndarray], *shared: Any) -> np.ndarray:
        """Return the results of all minibatches, stacked in order."""
        return np.concatenate([function(block, codes, *shared) for block, codes in self])

    def collect(
        self,
        function: Callable[..., sparse.csr_matrix],
        *shared: Any,
        n_columns: int,
        keep: np.ndarray | None = None,
    ) -> sparse.csr_matrix:
        """Return the results, CSR, as one matrix."""
        whole = sparse.vstack([function(block, codes, *shared) for block, codes in self])
        return whole.tocsr() if keep is None else whole.tocsr()[keep]


class TransformedDataModule(LightningDataModule):
    """A data module of others, whose minibatches hold values in [0, 1] in place of counts.

    :meth:`scalex_scvi.SCALEXModel.train` makes it by itself, of a ``datamodule`` that was given to
    :meth:`scalex_scvi.SCALEXModel.setup_datamodule`. Cells, their order and minibatches are those
    of the module; minibatches of a single cell, which batch normalization cannot use, are left
    out. Its ``val_dataloader`` is not used.

    Parameters
    ----------
    module
        Gives ``train_dataloader()`` and, like :class:`scvi.dataloaders.AnnbatchDataModule`, may
        make dictionaries of its minibatches in ``on_before_batch_transfer``.
    values_of
        Returns what a model takes of a minibatch of the module.
    n_obs
        Cells that the module trains on.
    """

    n_val = 0

    def __init__(
        self, module: Any, values_of: Callable[[Any], dict[str, Tensor]], n_obs: int
    ) -> None:
        super().__init__()
        self.module = module
        self.values_of = values_of
        self.n_obs = self.n_train = n_obs

    def prepare_data(self) -> None:
        """Let the module do it."""
        self.module.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Let the module do it."""
        self.module.setup(stage)

    def teardown(self, stage: str | None = None) -> None:
        """Let the module do it."""
        self.module.teardown(stage)

    def __len__(self) -> int:
        """Minibatches of an epoch, on which the schedule of the training depends."""
        loader = self.module.train_dataloader()
        if not hasattr(loader, "__len__") or not len(loader):
            msg = (
                f"`train_dataloader()` of the data module gives a {type(loader).__name__!r} "
                "without minibatches, or without a length. The training needs to know how many "
                "there are in an epoch: `len(datamodule.train_dataloader())`."
            )
            raise ValueError(msg)
        return len(loader)

    def train_dataloader(self) -> TransformedMinibatches:
        """Minibatches of one epoch."""
        self.module.trainer = self.trainer

        def values_of(batch: Any) -> dict[str, Tensor]:
            return self.values_of(self.module.on_before_batch_transfer(batch, 0))

        return TransformedMinibatches(self.module.train_dataloader(), values_of, fewest=2)


class TransformedMinibatches:
    """Minibatches of a loader with values in [0, 1] in place of counts.

    Parameters
    ----------
    loader
        What to read.
    values_of
        Returns what a model takes of a minibatch of the loader.
    fewest
        Minibatches of fewer cells are left out.
    """

    def __init__(
        self, loader: Any, values_of: Callable[[Any], dict[str, Tensor]], fewest: int = 1
    ) -> None:
        self.loader = loader
        self.values_of = values_of
        self.fewest = fewest

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self.loader:
            values = self.values_of(batch)
            if len(values[REGISTRY_KEYS.X_KEY]) >= self.fewest:
                yield values


def values_of_minibatch(
    tensors: Any, transform: Transform | None, n_features: int, n_batches: int
) -> dict[str, Tensor]:
    """Return what a model takes of a minibatch of a data module.

    Parameters
    ----------
    tensors
        See :func:`counts_and_batches`.
    transform
        From its counts to values in [0, 1]; ``None``: they are already.
    n_features, n_batches
        See :func:`counts_and_batches`.
    """
    counts, codes = counts_and_batches(tensors, n_features, n_batches)
    values = counts if transform is None else transform(counts, codes)
    columns = torch.from_numpy(codes.reshape(-1, 1))
    return {
        REGISTRY_KEYS.X_KEY: torch.from_numpy(values.toarray().astype(np.float32, copy=False)),
        REGISTRY_KEYS.BATCH_KEY: columns,
        REGISTRY_KEYS.LABELS_KEY: torch.zeros_like(columns),
    }


def counts_and_batches(
    tensors: Any, n_features: int, n_batches: int
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Return counts and batches of a minibatch, checked.

    Parameters
    ----------
    tensors
        A dictionary, as scvi-tools' models take it: ``"X"``, cells × features, dense or sparse, and
        ``"batch"``, a number for each cell; without it, all cells are of batch 0.
    n_features, n_batches
        What there has to be.

    Raises
    ------
    TypeError
        For anything else.
    ValueError
        For another number of features, and for batches that there are not.
    """
    if not hasattr(tensors, "get") or tensors.get(REGISTRY_KEYS.X_KEY) is None:
        msg = (
            f"A minibatch is a {type(tensors).__name__!r} without {REGISTRY_KEYS.X_KEY!r}. It "
            "should be a dictionary as scvi-tools' models take it, with "
            f"{REGISTRY_KEYS.X_KEY!r} (cells × features) and {REGISTRY_KEYS.BATCH_KEY!r}."
        )
        raise TypeError(msg)
    counts = sparse.csr_matrix(_on_cpu(tensors[REGISTRY_KEYS.X_KEY]), dtype=np.float32)
    if counts.shape[1] != n_features:
        msg = (
            f"A minibatch has {counts.shape[1]} features, but the registry of the data module "
            f"names {n_features}."
        )
        raise ValueError(msg)
    given = tensors.get(REGISTRY_KEYS.BATCH_KEY)
    codes = np.zeros(counts.shape[0]) if given is None else np.asarray(_on_cpu(given)).reshape(-1)
    codes = codes.astype(np.int64)
    if len(codes) != counts.shape[0] or ((codes < 0) | (codes >= n_batches)).any():
        msg = (
            f"A minibatch of {counts.shape[0]} cells has the batches {np.unique(codes).tolist()!r} "
            f"({len(codes)} numbers). Each cell needs one, from 0 to {n_batches - 1}."
        )
        raise ValueError(msg)
    return counts, codes


def _on_cpu(values: Any) -> Any:
    if not isinstance(values, Tensor):
        return values
    values = values.detach().cpu()
    return (values if values.layout is torch.strided else values.to_dense()).numpy()
