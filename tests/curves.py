"""Cells of which a map should show where they lie."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from sklearn.neighbors import NearestNeighbors


def cells_at(points: np.ndarray) -> AnnData:
    """Return cells whose latent is given."""
    return AnnData(obsm={"latent": points.astype(np.float32)})


def curve_of_cells(n_cells: int, n_dimensions: int = 6) -> np.ndarray:
    """Cells along a bent line, as of a differentiation, in many dimensions."""
    rng = np.random.default_rng(0)
    along = np.sort(rng.random(n_cells))
    bends = np.stack([np.cos(k * along) for k in range(1, n_dimensions + 1)], axis=1)
    return 20 * bends + rng.normal(scale=0.3, size=(n_cells, n_dimensions))


def near(points: np.ndarray) -> np.ndarray:
    """Return the 15 nearest of each cell, itself among them."""
    return NearestNeighbors(n_neighbors=15).fit(points).kneighbors(return_distance=False)


def share_kept(latent: np.ndarray, on_map: np.ndarray) -> float:
    """Share of the 15 nearest cells that are among the 15 nearest on the map."""
    return float((near(latent)[:, :, None] == near(on_map)[:, None, :]).any(axis=2).mean())
