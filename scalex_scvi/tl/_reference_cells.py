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
"""Cells of each label, and in each batch, that a sample takes first: rare types do not vanish."""


def reference_cells(model: SCALEXModel, labels: str | Sequence[str]) -> AnnData:
    """Return prepared cells of a reference that labels are learned from, with their latent.

    They are in memory, wherever the reference is, and what ``ref`` of :func:`label_scores` and
    :func:`label_transfer` takes. :func:`map_query` and :func:`scalex_scvi.references.save` learn
    from them, too.

    Of more than 100 000 cells a sample of that many is taken, the same each time, and a message
    says so: of each label 50 cells at random, or all that there are, then as many of each label in
    each batch (evenly fewer, where these are too many), then others at random, and cells without a
    label last. Of several columns, cells with the same labels in all of them count as one label.

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
        If no column is given, the model has no cells, or they are minified to their latent.
    RuntimeError
        If the model is not trained.
    """
    wanted = [labels] if isinstance(labels, str) else list(labels or [])
    if not wanted:
        msg = f"`labels` is {labels!r}: name a column of the reference's obs, or several."
        raise ValueError(msg)
    check_labels(model, wanted)
    cells = prepared_reference(model, wanted)
    cells.obsm[LATENT_KEY] = model.get_latent_of_prepared(cells.X)
    return cells


def prepared_reference(model: SCALEXModel, wanted: Sequence[str]) -> AnnData:
    """Return the same cells without their latent; the columns ``wanted`` are known to be there."""
    manager = model.manager_of()
    obs = manager.annotated.obs
    rows = None
    if len(obs) > MOST_CELLS:
        logger.warning("Labels are learned from %d of %d reference cells.", MOST_CELLS, len(obs))
        names = pd.DataFrame({label: np.asarray(obs[label]) for label in wanted})
        rows = some_of_each(names, manager.codes, MOST_CELLS)
    cells = model.get_prepared(indices=rows)
    if is_lazy(cells.X):
        cells.X = sparse.csr_matrix(cells.X.compute())
    return cells


def check_labels(model: SCALEXModel, wanted: Sequence[str]) -> None:
    """Raise unless the cells of a reference have these columns, and expression."""
    if model.adata is None:
        msg = (
            f"The reference has no cells to take {wanted!r} from: load it with them, "
            "`SCALEXModel.load(folder, adata)`, or save it by `save(folder, save_anndata=True)`. "
            "Labels of a run of the published package: `SCALEX(query, projection=run, label=...)`."
        )
        raise ValueError(msg)
    if model.minified_data_type is not None:
        msg = (
            f"The reference is minified: it has no expression to transfer {wanted!r} by. Load it "
            "with its counts, or make a reference of it by `scalex_scvi.references.save`, before "
            "they are left out."
        )
        raise ValueError(msg)
    for label in wanted:
        if label not in model.adata.obs:
            own = own_keys(model.adata.obs)
            msg = f"`labels` {label!r} is not a column of the reference's obs: {own!r}."
            raise KeyError(msg)


def some_of_each(labels: pd.DataFrame, batch: np.ndarray | None, most: int) -> np.ndarray:
    """Choose rows at random, :data:`FEWEST_CELLS` of each label before any others.

    Then come as many of each label in each batch. Both are taken one of each after the other: where
    these are too many, each has about as many. Rows without a label come last.

    Parameters
    ----------
    labels
        A row for each cell, a column for each kind of label; rows with equal values, missing ones
        among them, are a label.
    batch
        Batch of each cell; ``None``: all are of one.
    most
        Rows to choose, fewer than all.

    Returns
    -------
    Rows, ascending.
    """
    order = np.random.default_rng(DEFAULT_SEED).permutation(len(labels))
    label = labels.groupby(list(labels), dropna=False).ngroup().to_numpy()[order]
    code = np.zeros(len(labels), np.int64) if batch is None else pd.factorize(batch)[0][order]
    of_label = pd.Series(label).groupby(label).cumcount().to_numpy()
    in_batch = pd.Series(label).groupby([label, code]).cumcount().to_numpy()
    later = FEWEST_CELLS + np.minimum(in_batch, FEWEST_CELLS)
    turn = np.where(of_label < FEWEST_CELLS, of_label, later)
    labeled = labels.notna().any(axis=1).to_numpy()[order]
    turn[~labeled] = 2 * FEWEST_CELLS + 1
    return np.sort(order[np.argsort(turn, kind="stable")[:most]])
