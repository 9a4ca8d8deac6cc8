"""Cells of a reference that labels are learned from: all, or of many a sample, in memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scalex_scvi._core.keys import LATENT_KEY, own_keys
from scalex_scvi._core.matrices import is_lazy
from scalex_scvi._core.seeds import DEFAULT_SEED
from scalex_scvi.model import SCALEXModel

logger = logging.getLogger(__name__)

MOST_CELLS = 100_000
"""Cells of a reference whose labels are learned within a minute and two gigabytes."""

FEWEST_CELLS = 50
"""Cells of each label in each batch that a sample keeps, so that rare types do not vanish."""


def reference_cells(model: SCALEXModel, labels: str | Sequence[str]) -> AnnData:
    """Return prepared cells of a reference that labels are learned from, with their latent.

    They are in memory, wherever the reference is, and what ``ref`` of :func:`label_scores` and
    :func:`label_transfer` takes. :func:`map_query` and :func:`scalex_scvi.references.save` learn
    from them, too.

    Of more than 100 000 cells a sample of that many is taken, the same each time, and a message
    says so: of each label in each batch 50 cells at random, or all that there are, then others at
    random, and cells without a label last.

    Parameters
    ----------
    model
        Trained, with its cells and their counts.
    labels
        Column or columns of their ``obs``.

    Returns
    -------
    Cells × the model's genes, ``X`` in [0, 1], with ``obs`` and ``obsm["X_scalex"]``.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If the model has no cells, or they are minified to their latent.
    RuntimeError
        If the model is not trained.
    """
    obs = model.manager_of().annotated.obs
    wanted = [labels] if isinstance(labels, str) else list(labels)
    absent = [label for label in wanted if label not in obs]
    if absent:
        msg = f"`labels` {absent!r} are not columns of the reference's obs: {own_keys(obs)!r}."
        raise KeyError(msg)
    rows = None
    if len(obs) > MOST_CELLS:
        logger.info("Labels are learned from %d of %d reference cells.", MOST_CELLS, len(obs))
        keys = [*wanted, *([] if model.batch_key is None else [model.batch_key])]
        groups = pd.DataFrame({key: np.asarray(obs[key]) for key in keys})
        rows = some_of_each(groups, groups[wanted].notna().any(axis=1).to_numpy(), MOST_CELLS)
    cells = model.get_prepared(indices=rows)
    if is_lazy(cells.X):
        cells.X = sparse.csr_matrix(cells.X.compute())
    cells.obsm[LATENT_KEY] = model.get_latent_of_prepared(cells.X)
    return cells


def some_of_each(groups: pd.DataFrame, labeled: np.ndarray, most: int) -> np.ndarray:
    """Choose rows at random, of each group the first :data:`FEWEST_CELLS` before any others.

    Parameters
    ----------
    groups
        A row for each cell; those with equal values, missing ones among them, are a group.
    labeled
        Mask of the rows to choose before all others.
    most
        Rows to choose, fewer than all.

    Returns
    -------
    Rows, ascending.
    """
    group = groups.groupby(list(groups), dropna=False, observed=True).ngroup().to_numpy()
    order = np.random.default_rng(DEFAULT_SEED).permutation(len(groups))
    rank = pd.Series(group[order]).groupby(group[order]).cumcount().to_numpy()
    turn = np.where(labeled[order], rank >= FEWEST_CELLS, 2)
    return np.sort(order[np.argsort(turn, kind="stable")[:most]])
