"""What training leaves of the batches in the latent, and its removal from the encoder.

The loss pulls batches together by a weak term, so that a trained encoder still shifts the cells of
a batch a little against their neighbors of other batches. In the last hidden layer these offsets
are a few directions among many. The change of the last layer that hides them from the latent, and
otherwise changes it least, has a closed form. The encoder still does not see the batch.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

from scalex_scvi._core.blocks import Block, blocks_of

from ._inference import MIN_CELLS_FOR_BATCH_STATS, BlockEncoder, Statistics, batch_statistics
from ._training_sample import MOST_CELLS, TrainingSample

if TYPE_CHECKING:
    from ._model import SCALEXModel

logger = logging.getLogger(__name__)

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
def remove_remaining_offsets(model: SCALEXModel, sample: TrainingSample) -> bool:
    """Change the last layer of the encoder so that batches no longer differ among neighbors.

    Offsets are those of the cells that were trained on. Then the decoder's running means of each
    batch are moved as far as its cells have moved what is normalized. Nothing changes with one
    batch, or with more than :data:`MOST_BATCHES`.

    Parameters
    ----------
    model
        A model that has just been trained.
    sample
        Some of its cells.

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
    codes = sample.codes
    encoder, blocks = BlockEncoder(model.module.encoder), blocks_of(sample.values, codes)
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


def _hidden(block: Block, codes: np.ndarray, encoder: BlockEncoder) -> np.ndarray:
    return encoder.hidden(block, codes)


def _latent(
    block: Block, codes: np.ndarray, encoder: BlockEncoder, statistics: Statistics
) -> np.ndarray:
    return np.split(encoder.encode(block, codes, statistics), 2, axis=1)[0]
