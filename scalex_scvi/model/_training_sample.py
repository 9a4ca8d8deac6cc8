"""Some of the cells that a model was trained on, from which it learns more after the training."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np
import pandas as pd
from scipy import sparse
from scvi import REGISTRY_KEYS

from scalex_scvi._core.blocks import evenly_spread
from scalex_scvi.train import SCALEXDataManager, TransformedDataModule

MOST_CELLS = 10_000
"""Cells of a sample, about as many of each batch: means and variances need no more."""


@dataclass(frozen=True)
class TrainingSample:
    """Some of the cells that were trained on.

    Attributes
    ----------
    values
        Cells × genes, in [0, 1].
    codes
        Batch of each cell.
    """

    values: sparse.csr_matrix
    codes: np.ndarray


def sample_of(manager: SCALEXDataManager, cells: np.ndarray | None) -> TrainingSample:
    """Values and batches of some cells (``None``: all), at most as many of each batch.

    Those of a batch are spread evenly over it.
    """
    codes = manager.codes.astype(np.int64)
    rows = np.arange(len(codes)) if cells is None else np.sort(cells)
    if len(rows) > MOST_CELLS:
        present = np.unique(codes[rows])
        most = max(MOST_CELLS // len(present), 1)
        of_batches = [rows[codes[rows] == code] for code in present]
        chosen = [cells[evenly_spread(len(cells), most)] for cells in of_batches]
        rows = np.sort(np.concatenate(chosen))
    dataset = manager.create_torch_dataset(data_and_attributes=[REGISTRY_KEYS.X_KEY])
    parts = [
        sparse.csr_matrix(dataset[rows[start : start + 512]][REGISTRY_KEYS.X_KEY])
        for start in range(0, len(rows), 512)
    ]
    return TrainingSample(sparse.vstack(parts, format="csr"), codes[rows])


def sample_of_module(
    module: TransformedDataModule, n_batches: int, n_minibatches: int
) -> TrainingSample:
    """Values and batches of the first cells of each batch that a data module gives for training.

    Its minibatches may hold one batch after the other: they are read until no batch needs more,
    but not more of them than were trained on.
    """
    most, n_kept = max(MOST_CELLS // n_batches, 1), np.zeros(n_batches, dtype=np.int64)
    parts, of_parts = [], []
    module.setup("fit")  # the training has torn it down
    for tensors in islice(module.train_dataloader(), n_minibatches):
        codes = tensors[REGISTRY_KEYS.BATCH_KEY].numpy().reshape(-1).astype(np.int64)
        rank = pd.Series(codes).groupby(codes).cumcount().to_numpy()
        chosen = n_kept[codes] + rank < most
        parts.append(sparse.csr_matrix(tensors[REGISTRY_KEYS.X_KEY].numpy()[chosen]))
        of_parts.append(codes[chosen])
        n_kept += np.bincount(of_parts[-1], minlength=n_batches)
        if (n_kept == most).all():
            break
    module.teardown("fit")
    return TrainingSample(sparse.vstack(parts, format="csr"), np.concatenate(of_parts))
