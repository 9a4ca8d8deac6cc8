"""Neighbors, UMAP and clusters of the latent space."""

from __future__ import annotations

import logging
from functools import partial

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from scalex_scvi._core.keys import UMAP_KEY
from scalex_scvi._core.ranges import check_whole
from scalex_scvi._core.seeds import random_rows, resolve_seed

from ._map import add_map
from ._nearest import nearest_in_blocks
from ._neighbors import add_neighbors
from ._place_on_map import N_NEIGHBORS, mean_positions
from ._points import points_of

logger = logging.getLogger(__name__)

FEWEST_CELLS = 4
"""The spectral start of UMAP fails with fewer."""

MAX_CELLS = 100_000
"""Up to this many cells, neighbors, UMAP and clusters take some twenty seconds."""


def embed(
    adata: AnnData,
    *,
    use_rep: str = "latent",
    n_neighbors: int = 15,
    seed: int | None = None,
    max_cells: int | None = MAX_CELLS,
) -> bool:
    """Add neighbors, UMAP and Leiden clusters of a latent space, by scanpy.

    UMAP's steps, and of 8 192 cells or more the neighbors, are computed in less time than by scanpy
    (docs/speed.md); the map is another one than scanpy's, as by another seed.

    Nothing is added for fewer than four cells, which UMAP cannot place: a warning is logged.

    Of more than ``max_cells`` cells, neighbors, UMAP and clusters are those of ``max_cells`` at
    random, and a warning says so. Each other cell lies at the mean position of its 15 nearest cells
    of the sample (see :func:`place_on_map`), and has the most frequent of their clusters (of
    equally frequent ones that of the nearest). A group that the sample has only a few cells of may
    get no cluster of its own. No neighbor graph is written then, and one of before stays as it is.

    Parameters
    ----------
    adata
        Cells with ``obsm[use_rep]``. ``obsm["X_umap"]``, ``obs["leiden"]`` and the neighbor
        graph are written.
    use_rep
        Key in ``obsm``.
    n_neighbors
        Neighbors of the graph, the cell itself included, at least 2 (15: scanpy's default); fewer
        if there are fewer cells.
    seed
        Seed; ``None``: ``scvi.settings.seed``, else 124.
    max_cells
        Most cells to compute neighbors, UMAP and clusters of, at least 4; ``None``: all.

    Returns
    -------
    Whether there were enough cells.

    Raises
    ------
    KeyError
        If there is no such key.
    TypeError, ValueError
        If ``n_neighbors`` or ``max_cells`` is no whole number or too small; if the representation
        has values that are NaN or infinite; if a sample is taken of one that is sparse.
    """
    if use_rep not in adata.obsm:
        msg = (
            f"`use_rep` {use_rep!r} is not in adata.obsm: {list(adata.obsm)!r}. Name one that is "
            "there, or add it first (integrate adds 'X_scalex', SCALEX adds 'latent')."
        )
        raise KeyError(msg)
    check_whole(n_neighbors, 2, name="n_neighbors")
    if not sparse.issparse(adata.obsm[use_rep]):
        points_of(adata, use_rep, "adata")  # raises for values that are no numbers
    if max_cells is not None:
        check_whole(max_cells, FEWEST_CELLS, name="max_cells")
    if adata.n_obs < FEWEST_CELLS:
        logger.warning(
            "UMAP and clusters are left out: %d cells are too few for a map, which needs %d.",
            adata.n_obs,
            FEWEST_CELLS,
        )
        return False
    random_state = resolve_seed(seed)
    if max_cells is None or adata.n_obs <= max_cells:
        logger.info("Neighbors, UMAP and clusters of %d cells.", adata.n_obs)
        _embed_all(adata, use_rep, n_neighbors, random_state)
    else:
        _say_what_a_sample_means(adata, use_rep, max_cells)
        _embed_by_sample(adata, use_rep, n_neighbors, random_state, max_cells)
    return True


def _embed_all(adata: AnnData, use_rep: str, n_neighbors: int, random_state: int) -> None:
    n_neighbors = min(n_neighbors, adata.n_obs - 1)
    add_neighbors(adata, use_rep=use_rep, n_neighbors=n_neighbors, random_state=random_state)
    find_clusters = partial(
        sc.tl.leiden,
        adata,
        flavor="igraph",
        n_iterations=2,
        directed=False,
        random_state=random_state,
    )
    add_map(adata, use_rep=use_rep, random_state=random_state, meanwhile=find_clusters)


def _embed_by_sample(
    adata: AnnData, use_rep: str, n_neighbors: int, random_state: int, max_cells: int
) -> None:
    points = points_of(adata, use_rep, "adata")
    chosen = random_rows(adata.n_obs, max_cells, random_state)
    sample = AnnData(obsm={use_rep: points[chosen]})
    _embed_all(sample, use_rep, n_neighbors, random_state)
    own_map, clusters = sample.obsm[UMAP_KEY], sample.obs["leiden"].cat
    own_codes = clusters.codes.to_numpy()
    positions = np.empty((adata.n_obs, 2), dtype=np.float32)
    codes = np.empty(adata.n_obs, dtype=own_codes.dtype)
    positions[chosen], codes[chosen] = own_map, own_codes
    logger.info("Places %d further cells on the map.", adata.n_obs - max_cells)
    others = np.delete(np.arange(adata.n_obs), chosen)
    for rows, distances, nearest in nearest_in_blocks(
        points[chosen], points[others], min(N_NEIGHBORS, max_cells)
    ):
        positions[others[rows]] = mean_positions(own_map, distances, nearest)
        codes[others[rows]] = _most_frequent(own_codes[nearest])
    adata.obsm[UMAP_KEY] = positions
    adata.obs["leiden"] = pd.Categorical.from_codes(codes, clusters.categories)
    for key in ("umap", "leiden"):  # what they were computed by
        adata.uns[key] = sample.uns[key]


def _most_frequent(codes: np.ndarray) -> np.ndarray:
    """Most frequent code of each row; of equally frequent ones the first."""
    n_times = np.zeros(codes.shape, dtype=np.int64)
    for column in codes.T:
        n_times += codes == column[:, None]
    return codes[np.arange(len(codes)), n_times.argmax(axis=1)]


def _say_what_a_sample_means(adata: AnnData, use_rep: str, max_cells: int) -> None:
    graph = "No neighbor graph is written."
    if "neighbors" in adata.uns:
        graph = "No neighbor graph is written: that in uns['neighbors'] is from before, and stays."
    logger.warning(
        "Neighbors, UMAP and clusters are those of %d cells at random, of %d: each other cell is "
        "placed, and has its cluster, by the nearest of them. %s For all cells, which takes long: "
        "`tl.embed(adata, use_rep=%r, max_cells=None)`.",
        max_cells,
        adata.n_obs,
        graph,
        use_rep,
    )
