"""Where the decoder starts: at the mean expression of the cells."""

from __future__ import annotations

import numpy as np
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager

MOST_CELLS = 8192
"""Cells whose mean is taken: enough for a start, and soon read from any disk."""

_CELLS_AT_A_TIME = 512


def mean_expression(manager: AnnDataManager, n_cells: int = MOST_CELLS) -> np.ndarray:
    """Mean expression of the cells, over ``n_cells`` of them that are spread evenly.

    Parameters
    ----------
    manager
        A model's ``adata_manager``.
    n_cells
        Cells to look at, at most.

    Returns
    -------
    ``(n_genes,)``, in the units of the input, which are those of the decoder's output.
    """
    dataset = manager.create_torch_dataset(data_and_attributes=[REGISTRY_KEYS.X_KEY])
    n_all = manager.adata.n_obs
    cells = np.linspace(0, n_all - 1, min(n_cells, n_all)).round().astype(int)
    total = np.zeros(manager.summary_stats["n_vars"])
    for start in range(0, len(cells), _CELLS_AT_A_TIME):
        rows = dataset[cells[start : start + _CELLS_AT_A_TIME]][REGISTRY_KEYS.X_KEY]
        total += np.asarray(rows).sum(axis=0)
    return (total / len(cells)).astype(np.float32)
