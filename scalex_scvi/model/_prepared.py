"""The values that the encoder takes, of all cells or of some."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from scvi import REGISTRY_KEYS

from scalex_scvi._core.blocks import Block, blocks_of
from scalex_scvi._core.columns import as_text
from scalex_scvi._core.matrices import is_lazy, to_csr
from scalex_scvi.train import SCALEXDataManager

logger = logging.getLogger(__name__)


def prepared_values(
    manager: SCALEXDataManager, n_genes: int, rows: np.ndarray | None = None
) -> Any:
    """Return expression in [0, 1]: a CSR matrix of its own, or, of dask, another array.

    Parameters
    ----------
    manager
        Of the cells.
    n_genes
        Genes of the model.
    rows
        Cells to use, in any order; ``None``: all.
    """
    matrix, transform = manager.get_from_registry(REGISTRY_KEYS.X_KEY), manager.transform
    if rows is None and transform is None:
        return matrix if is_lazy(matrix) else to_csr(matrix, name="The expression")
    order = None if rows is None else np.argsort(rows, kind="stable")
    ascending = None if rows is None else rows[order]
    values = blocks_of(matrix, manager.codes, rows=ascending).collect(
        transform or _as_they_are, n_columns=n_genes
    )
    if order is None or (np.diff(order) == 1).all():
        return values
    return values[np.argsort(order)]


def _as_they_are(block: Block, codes: np.ndarray) -> sparse.csr_matrix:
    return to_csr(block, name="The expression")


def keep_registered_batches(
    obs: pd.DataFrame, key: str, codes: np.ndarray, names: Sequence[str]
) -> None:
    """Name the batches as they were when the cells were registered, by which they are scaled.

    Parameters
    ----------
    obs
        Of prepared cells, changed in place, with a warning, where it has other names since.
    key
        Column of the batches.
    codes
        Registered batch of each of the cells.
    names
        Names of these.
    """
    registered = np.asarray(names, dtype=object)[codes.astype(np.intp)]
    if key in obs and (as_text(obs[key]).astype(object) == registered).all():
        return
    logger.warning(
        "adata.obs[%r] was changed after these cells were registered: their batches are those of "
        "then, %r. Register the cells again for others: `SCALEXModel.setup_anndata(adata, …)`, "
        "and make a model anew.",
        key,
        list(dict.fromkeys(registered))[:5],
    )
    obs[key] = pd.Categorical(registered)
