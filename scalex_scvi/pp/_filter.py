"""Leaving out poor cells, for those who ask for it."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from anndata import AnnData

from scalex_scvi._core.blocks import blocks_of
from scalex_scvi._core.matrices import get_matrix, to_csr

from ._profiles import get_profile

logger = logging.getLogger(__name__)


def filter_cells(adata: AnnData, min_features: int, *, profile: str = "RNA") -> AnnData:
    """Keep cells with enough detected genes (peaks, proteins), and report how many.

    Parameters
    ----------
    adata
        Cells × genes. It is not changed.
    min_features
        Cells with fewer genes above zero are left out; 0 keeps all.
    profile
        ``"RNA"``, ``"ATAC"`` or ``"ADT"``: what the columns are called in messages.

    Returns
    -------
    A new AnnData, with the number of detected genes in ``obs["n_genes"]``.

    Raises
    ------
    ValueError
        If no cell is left, or ``profile`` is unknown.
    """
    features = get_profile(profile).features
    matrix, _ = get_matrix(adata, layer=None, features=features)
    detected = blocks_of(matrix, np.zeros(adata.n_obs, dtype=np.intp)).map(_detected)
    keep = rich_enough(detected, min_features, features)
    kept = adata[keep]
    kept = kept.to_memory() if adata.isbacked else kept.copy()
    kept.obs["n_genes"] = detected[keep]
    return kept


def rich_enough(detected: np.ndarray, min_features: int, features: str) -> np.ndarray:
    """Return the mask of cells with enough detected features, and report how many there are.

    Parameters
    ----------
    detected
        Number of detected features of each cell.
    min_features
        How many a cell must have.
    features
        What they are called in messages.

    Raises
    ------
    ValueError
        If no cell has as many.
    """
    keep = detected >= min_features
    if not keep.any():
        msg = (
            f"No cell has `min_features`={min_features!r} {features}: the median cell has "
            f"{np.median(detected):.0f}, the best {detected.max()}. Lower `min_features`."
        )
        raise ValueError(msg)
    logger.info("Kept %d of %d cells (min_features=%d).", keep.sum(), len(keep), min_features)
    return keep


def _detected(block: Any, codes: np.ndarray) -> np.ndarray:
    return to_csr(block, name="The matrix").getnnz(axis=1)
