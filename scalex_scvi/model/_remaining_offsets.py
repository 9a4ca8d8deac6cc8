"""What training leaves of the batches in the latent, and its removal from the encoder.

The loss pulls batches together by a weak term, so that a trained encoder still shifts the cells of
a batch a little against their neighbors of other batches. In the last hidden layer these offsets
are a few directions among many. The change of the last layer that hides them from the latent, and
otherwise changes it least, has a closed form. The encoder still does not see the batch.
"""

from __future__ import annotations

import logging
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS
from sklearn.neighbors import NearestNeighbors

from scalex_scvi._core.blocks import Block, blocks_of, evenly_spread
from scalex_scvi.train import SCALEXDataManager, TransformedDataModule

from ._inference import MIN_CELLS_FOR_BATCH_STATS, BlockEncoder, Statistics, batch_statistics

if TYPE_CHECKING:
    from ._model import SCALEXModel

logger = logging.getLogger(__name__)

MOST_CELLS = 10_000
"""Cells that offsets are estimated from, about as many of each batch: an offset is a mean."""

MOST_BATCHES = MOST_CELLS // MIN_CELLS_FOR_BATCH_STATS
"""Of more batches there would be too few cells of each: their offsets remain."""

N_NEIGHBORS = 15
"""Neighbors of a cell among which its batch is compared with the others, as for graphs of cells."""

WEIGHT = 100.0
"""Weight of squared offsets against the squared change of the latent. Offsets that the hidden
layer tells from differences within batches are removed almost whole, others only in part."""

RIDGE = 1e-3
"""Share of the hidden units' mean variance that is added to each: they are highly correlated."""


@torch.no_grad()
def remove_remaining_offsets(
    model: SCALEXModel, module: TransformedDataModule | None = None
) -> bool:
    """Change the last layer of the encoder so that batches no longer differ among neighbors.

    Offsets are those of the cells that were trained on. Then the decoder's running means of each
    batch are moved as far as its cells have moved what is normalized. Nothing changes with one
    batch, or with more than :data:`MOST_BATCHES`.

    Parameters
    ----------
    model
        A model that has just been trained.
    module
        The data module of others that it was trained on, if its cells are there.

    Returns
    -------
    Whether anything changed.
    """
    names = model.batch_names
    if len(names) < 2:
        return False
    if len(names) > MOST_BATCHES:
        logger.info("Offsets of %d batches remain: there are too many to sample.", len(names))
        return False
    if module is None:
        values, codes = _sample(model.adata_manager, model.train_indices)
    else:
        values, codes = _sample_of_module(module, len(names), model.trainer.global_step)
    encoder, blocks = BlockEncoder(model.module.encoder), blocks_of(values, codes)
    hidden = blocks.map(_hidden, encoder)
    points = blocks.map(_latent, encoder, batch_statistics(blocks, encoder, names, report=False))
    offsets, shares = batch_offsets(hidden, points, codes)
    if not len(offsets):
        return False
    head = model.module.encoder.mean_head
    change = least_change(hidden, codes, offsets, shares, head.weight.double().cpu().numpy())
    units = torch.from_numpy(hidden).to(head.weight.device)
    before = head(units)
    head.weight += torch.from_numpy(change).to(head.weight)
    head.bias -= torch.from_numpy(change @ hidden.mean(axis=0, dtype=np.float64)).to(head.bias)
    model.module.decoder.follow(before, head(units), torch.from_numpy(codes).to(units.device))
    return True


def batch_offsets(
    hidden: np.ndarray, points: np.ndarray, codes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean offsets of batches from the cells of other batches in their neighborhoods.

    Parameters
    ----------
    hidden
        Cells × units: where offsets are wanted.
    points
        Cells × dimensions: where neighbors are found. Each batch is normalized by itself there
        (``batch_stats="batch"``), since cells that an offset separates are not neighbors.
    codes
        Batch of each cell.

    Returns
    -------
    Offsets, batches × units, of batches with enough cells and with neighbors in others, and the
    shares of these batches in all cells.
    """
    n_cells, n_neighbors = len(codes), min(N_NEIGHBORS, len(codes) - 1)
    near = NearestNeighbors(n_neighbors=n_neighbors).fit(points).kneighbors(return_distance=False)
    own = codes[near] == codes[:, None]
    n_own = own.sum(axis=1)
    # As if each neighborhood had one more cell of the batch, at the mean of all of them.
    trust = n_own / (n_own + 1)
    # Mean of the neighbors of the same batch minus the mean of all, as weights of the neighbors.
    weights = (own / np.maximum(n_own, 1)[:, None] - 1 / n_neighbors) * trust[:, None]
    others = trust * (1 - n_own / n_neighbors)
    offsets, shares = [], []
    for code in np.unique(codes):
        cells = np.flatnonzero(codes == code)
        n_others = others[cells].sum()
        if len(cells) < MIN_CELLS_FOR_BATCH_STATS or n_others < 1:
            continue
        of_cells = np.bincount(near[cells].ravel(), weights[cells].ravel(), minlength=n_cells)
        offsets.append(of_cells @ hidden / n_others)
        shares.append(len(cells) / n_cells)
    return np.array(offsets), np.array(shares)


def least_change(
    hidden: np.ndarray,
    codes: np.ndarray,
    offsets: np.ndarray,
    shares: np.ndarray,
    weight: np.ndarray,
) -> np.ndarray:
    """Return the change ``C`` of a linear map that lowers the offsets and else changes little.

    It minimizes the mean of ``|C h|²`` over cells plus ``WEIGHT`` times the sum, by shares, of
    ``|(weight + C) offset|²``; the first has `RIDGE` added to the variances of ``h``.

    Parameters
    ----------
    hidden
        Cells × units; ``h`` is what a cell differs by from the mean of its batch.
    codes
        Batch of each cell.
    offsets, shares
        See :func:`batch_offsets`.
    weight
        Latent dimensions × units.

    Returns
    -------
    Latent dimensions × units; zero if the cells of a batch do not differ.
    """
    within = _covariance_within(hidden, codes)
    ridge = RIDGE * np.trace(within) / len(within)
    if ridge == 0:
        return np.zeros_like(weight)
    within.flat[:: len(within) + 1] += ridge
    scaled = np.linalg.solve(within, offsets.T)
    distances = offsets @ scaled + np.diag(1 / (WEIGHT * shares))
    return -weight @ offsets.T @ np.linalg.solve(distances, scaled.T)


def _covariance_within(hidden: np.ndarray, codes: np.ndarray) -> np.ndarray:
    squares = np.zeros((hidden.shape[1], hidden.shape[1]))
    for code in np.unique(codes):
        own = hidden[codes == code].astype(np.float64)
        own -= own.mean(axis=0)
        squares += own.T @ own
    return squares / len(hidden)


def _sample(
    manager: SCALEXDataManager, cells: np.ndarray | None
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Values and batches of some cells (``None``: all), at most as many of each batch.

    Those of a batch are spread evenly over it.
    """
    codes = manager.codes.astype(np.int64)
    rows = np.arange(len(codes)) if cells is None else np.sort(cells)
    if len(rows) > MOST_CELLS:
        present = np.unique(codes[rows])
        most = MOST_CELLS // len(present)
        of_batches = [rows[codes[rows] == code] for code in present]
        chosen = [cells[evenly_spread(len(cells), most)] for cells in of_batches]
        rows = np.sort(np.concatenate(chosen))
    dataset = manager.create_torch_dataset(data_and_attributes=[REGISTRY_KEYS.X_KEY])
    parts = [
        sparse.csr_matrix(dataset[rows[start : start + 512]][REGISTRY_KEYS.X_KEY])
        for start in range(0, len(rows), 512)
    ]
    return sparse.vstack(parts, format="csr"), codes[rows]


def _sample_of_module(
    module: TransformedDataModule, n_batches: int, n_minibatches: int
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Values and batches of the first cells of each batch that a data module gives for training.

    Its minibatches may hold one batch after the other: they are read until no batch needs more,
    but not more of them than were trained on.
    """
    most, n_kept = MOST_CELLS // n_batches, np.zeros(n_batches, dtype=np.int64)
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
    return sparse.vstack(parts, format="csr"), np.concatenate(of_parts)


def _hidden(block: Block, codes: np.ndarray, encoder: BlockEncoder) -> np.ndarray:
    return encoder.hidden(block, codes)


def _latent(
    block: Block, codes: np.ndarray, encoder: BlockEncoder, statistics: Statistics
) -> np.ndarray:
    return np.split(encoder.encode(block, codes, statistics), 2, axis=1)[0]
