"""Neighbors, UMAP and clusters of the latent space."""

from __future__ import annotations

import logging

import scanpy as sc
from anndata import AnnData

from scalex_scvi._core.compiled import keep_compiled
from scalex_scvi._core.seeds import resolve_seed

from ._neighbors import add_neighbors

logger = logging.getLogger(__name__)

FEWEST_CELLS = 4
"""The spectral start of UMAP fails with fewer."""


def embed(
    adata: AnnData, *, use_rep: str = "latent", n_neighbors: int = 15, seed: int | None = None
) -> bool:
    """Add neighbors, UMAP and Leiden clusters of a latent space, by scanpy.

    Nothing is added for fewer than four cells, which UMAP cannot place: a warning is logged.

    Parameters
    ----------
    adata
        Cells with ``obsm[use_rep]``. ``obsm["X_umap"]``, ``obs["leiden"]`` and the neighbor
        graph are written.
    use_rep
        Key in ``obsm``.
    n_neighbors
        Neighbors of the graph (scanpy's default); fewer if there are fewer cells.
    seed
        Seed; ``None``: ``scvi.settings.seed``, else 124.

    Returns
    -------
    Whether there were enough cells.

    Raises
    ------
    KeyError
        If there is no such key.
    """
    if use_rep not in adata.obsm:
        msg = f"`use_rep` {use_rep!r} is not in adata.obsm: {list(adata.obsm)!r}."
        raise KeyError(msg)
    if adata.n_obs < FEWEST_CELLS:
        logger.warning(
            "UMAP and clusters are left out: %d cells are too few for a map, which needs %d.",
            adata.n_obs,
            FEWEST_CELLS,
        )
        return False
    logger.info("Neighbors, UMAP and clusters of %d cells.", adata.n_obs)
    keep_compiled()
    random_state = resolve_seed(seed)
    n_neighbors = min(n_neighbors, adata.n_obs - 1)
    add_neighbors(adata, use_rep=use_rep, n_neighbors=n_neighbors, random_state=random_state)
    sc.tl.umap(adata, random_state=random_state)
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False, random_state=random_state)
    return True
