"""UMAP of the cells before integration, to compare with that of the latent."""

from __future__ import annotations

import logging

import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from scalex_scvi._core.keys import UNCORRECTED_UMAP_KEY
from scalex_scvi._core.matrices import expression_in_raw
from scalex_scvi._core.seeds import random_rows, resolve_seed

from ._map import add_map
from ._neighbors import add_neighbors

logger = logging.getLogger(__name__)

MAX_CELLS = 20_000
"""Most cells of the map: with more it shows nothing else, and takes longer than the training."""

N_COMPONENTS = 30


def uncorrected_umap(adata: AnnData, *, seed: int | None = None) -> None:
    """Add a UMAP of the cells before integration, by scanpy's usual steps.

    Principal components (30) of the log-normalized expression, neighbors (15) and UMAP; nothing is
    corrected for batches.

    Parameters
    ----------
    adata
        Cells as the functions of :mod:`scalex_scvi.pp` return them. The log-normalized expression
        in ``raw`` is used, else ``X``. Added is ``obsm["X_umap_uncorrected"]``, cells × 2,
        float32. Of more than 20 000 cells, 20 000 at random are on the map; the others are NaN.
    seed
        Seed; ``None``: ``scvi.settings.seed``, else 124.

    Raises
    ------
    ValueError
        If there are fewer than 4 cells, which UMAP cannot place, or no expression, or ``raw``
        lacks genes of ``adata``.
    """
    if adata.n_obs < 4:
        msg = f"A map takes 4 cells or more, there are {adata.n_obs}."
        raise ValueError(msg)
    if adata.X is None and adata.raw is None:
        msg = "`adata` has neither X nor `raw`: there is no expression to make a map of."
        raise ValueError(msg)
    random_state = resolve_seed(seed)
    chosen = random_rows(adata.n_obs, MAX_CELLS, random_state)
    logger.info("UMAP of %d cells as they were before the integration.", len(chosen))
    bare = AnnData(obsm={"X_pca": _components(_log_normalized(adata, chosen), random_state)})
    n_neighbors = min(15, bare.n_obs - 1)
    add_neighbors(bare, use_rep="X_pca", n_neighbors=n_neighbors, random_state=random_state)
    add_map(bare, use_rep="X_pca", random_state=random_state)
    points = np.full((adata.n_obs, 2), np.nan, dtype=np.float32)
    points[chosen] = bare.obsm["X_umap"]
    adata.obsm[UNCORRECTED_UMAP_KEY] = points


def _log_normalized(adata: AnnData, cells: np.ndarray) -> np.ndarray | sparse.csr_matrix:
    """Expression of the model's genes."""
    if adata.raw is None:
        values = adata.X[cells]
    else:
        values = expression_in_raw(adata, cells)
    return sparse.csr_matrix(values) if sparse.issparse(values) else np.asarray(values)


def _components(expression: np.ndarray | sparse.csr_matrix, random_state: int) -> np.ndarray:
    """Principal components of the expression; of a single gene, the expression itself."""
    n_components = min(N_COMPONENTS, min(expression.shape) - 1)
    if n_components < 1:
        return sparse.csr_matrix(expression).toarray()
    return sc.pp.pca(expression, n_comps=n_components, random_state=random_state)
