"""Where the decoder starts: at the mean expression of the cells."""

from __future__ import annotations

import numpy as np
from scvi.data import AnnDataManager

from ._data import cells_all_over

MOST_CELLS = 8192
"""Most cells whose mean is taken: enough for initial values, and fast to read from any disk."""


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
    total = np.zeros(manager.summary_stats["n_vars"])
    n_seen = 0
    for block in cells_all_over(manager, n_cells):
        total += block.sum(axis=0)
        n_seen += len(block)
    return (total / n_seen).astype(np.float32)
