"""The map before integration, to compare with."""

from __future__ import annotations

import logging

import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from scalex_scvi._core.compiled import keep_compiled
from scalex_scvi._core.keys import UNCORRECTED_UMAP_KEY
from scalex_scvi._core.seeds import resolve_seed

logger = logging.getLogger(__name__)

MAX_CELLS = 20_000
"""Cells of the map; with more it says no more and takes longer than the training."""

N_COMPONENTS = 30


def uncorrected_umap(adata: AnnData, *, seed: int | None = None) -> None:
    """Add a UMAP of the cells as they were before integration, by scanpy's usual steps.

    Principal components (30) of the log-normalized expression, neighbors (15) and UMAP, without
    anything that knows of batches.

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
        If there are fewer than 4 cells, which UMAP cannot place.
    """
    if adata.n_obs < 4:
        msg = f"A map takes 4 cells or more, there are {adata.n_obs}."
        raise ValueError(msg)
    random_state = resolve_seed(seed)
    chosen = np.arange(adata.n_obs)
    if adata.n_obs > MAX_CELLS:
        rng = np.random.default_rng(random_state)
        chosen = np.sort(rng.choice(adata.n_obs, MAX_CELLS, replace=False))
    logger.info("UMAP of %d cells as they were before the integration.", len(chosen))
    expression = _log_normalized(adata, chosen)
    n_components = min(N_COMPONENTS, min(expression.shape) - 1)
    bare = AnnData(
        obsm={"X_pca": sc.pp.pca(expression, n_comps=n_components, random_state=random_state)}
    )
    keep_compiled()
    n_neighbors = min(15, bare.n_obs - 1)
    sc.pp.neighbors(bare, n_neighbors=n_neighbors, use_rep="X_pca", random_state=random_state)
    sc.tl.umap(bare, random_state=random_state)
    points = np.full((adata.n_obs, 2), np.nan, dtype=np.float32)
    points[chosen] = bare.obsm["X_umap"]
    adata.obsm[UNCORRECTED_UMAP_KEY] = points


def _log_normalized(adata: AnnData, cells: np.ndarray) -> np.ndarray | sparse.csr_matrix:
    """Expression of the model's genes."""
    if adata.raw is None:
        values = adata.X[cells]
    else:
        values = adata.raw.X[cells][:, adata.raw.var_names.get_indexer(adata.var_names)]
    return sparse.csr_matrix(values) if sparse.issparse(values) else np.asarray(values)
