"""As many cells as wanted: real ones, drawn with replacement, block by block."""

from __future__ import annotations

import anndata as ad
import dask.array as da
import numpy as np

CELLS_IN_BLOCK = 4096


def draw_cells(source: ad.AnnData, n_cells: int, *keys: str) -> ad.AnnData:
    """Draw cells of a CSR matrix in memory as a dask array, so that few are held at a time."""
    rows = np.random.default_rng(0).integers(source.n_obs, size=n_cells)
    obs = source.obs[list(keys)].iloc[rows]
    obs.index = [f"cell{i}" for i in range(n_cells)]
    matrix = source.X.tocsr()
    drawn = da.from_array(rows[:, None], chunks=(CELLS_IN_BLOCK, 1)).map_blocks(
        lambda block: matrix[block.ravel()],
        chunks=(da.core.normalize_chunks(CELLS_IN_BLOCK, (n_cells,))[0], (source.n_vars,)),
        dtype=matrix.dtype,
        meta=matrix[:0],
    )
    return ad.AnnData(X=drawn, obs=obs, var=source.var[[]])
