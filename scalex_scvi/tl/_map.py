"""UMAP of cells whose neighbors are known, by a compiled loop of our own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from anndata import AnnData

from scalex_scvi._core.keys import UMAP_KEY

from ._map_start import start_of_map

EPOCHS, EPOCHS_OF_FEW, FEW_CELLS = 200, 500, 10_000
"""Scanpy's defaults, up to so many cells and of more."""

CURVE = (0.583030020, 1.334166993)
"""``a`` and ``b`` of UMAP's curve, 1 / (1 + a d^2b), for scanpy's spread (1) and distance (0.5)."""


def add_map(
    adata: AnnData,
    *,
    use_rep: str,
    random_state: int,
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    """Add ``obsm["X_umap"]``, and to ``uns`` what ``scanpy.tl.umap`` adds.

    UMAP's own steps are taken, with two shorter ways: the forces are looked up
    (:func:`scalex_scvi.tl._layout.lay_out`), and of more than 1 000 cells the spectral start is
    found from the cells' principal components, not from nothing, and without the last digits
    (:func:`scalex_scvi.tl._map_start.start_of_map`). Nothing of umap is imported, for which numba
    would compile half a minute. The map is another one than scanpy's, as by another seed.

    Parameters
    ----------
    adata
        Cells with ``obsm[use_rep]`` and their neighbors by it.
    use_rep
        Key in ``obsm``.
    random_state
        Seed.
    meanwhile
        What is done while the steps are taken, which one core does. It must leave the latent and
        the graph as they are.
    """
    from ._layout import lay_out

    epochs = EPOCHS_OF_FEW if adata.n_obs <= FEW_CELLS else EPOCHS
    graph = adata.obsp["connectivities"].tocsr(copy=True)
    graph.data[graph.data < graph.data.max() / epochs] = 0  # never taken
    graph.eliminate_zeros()
    start = start_of_map(adata.obsm[use_rep], graph, random_state)
    stop = np.zeros(1, dtype=bool)
    with ThreadPoolExecutor(1) as second:
        laid_out = second.submit(
            lay_out, graph, start, curve=CURVE, epochs=epochs, seed=random_state, stop=stop
        )
        try:
            meanwhile()
            adata.obsm[UMAP_KEY] = laid_out.result()
        finally:
            stop[0] = True  # where what is done meanwhile fails, or is interrupted
    params = dict(zip("ab", CURVE, strict=True))
    if random_state != 0:
        params["random_state"] = random_state
    adata.uns["umap"] = {"params": params}
