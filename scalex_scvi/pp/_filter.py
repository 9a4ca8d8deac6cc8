"""Leaving out poor cells and rare features."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from anndata import AnnData

from scalex_scvi._core.matrices import get_matrix, to_csr

from ._profiles import Profile, get_profile

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
        If no cell is left.
    """
    matrix, name = get_matrix(adata, layer=None, features=get_profile(profile).features)
    detected = to_csr(matrix, name=name).getnnz(axis=1)
    keep = cells_to_keep(detected, min_features, get_profile(profile))
    kept = adata[keep]
    kept = kept.to_memory() if adata.isbacked else kept.copy()
    kept.obs["n_genes"] = detected[keep]
    return kept


def cells_to_keep(detected: np.ndarray, min_features: int, profile: Profile) -> np.ndarray:
    """Mask of the cells with enough detected features, reported."""
    keep = detected >= min_features
    if not keep.any():
        msg = (
            f"No cell has `min_features`={min_features!r} {profile.features}: the median cell has "
            f"{np.median(detected):.0f}, the best {detected.max()}. Lower `min_features`."
        )
        raise ValueError(msg)
    logger.info("Kept %d of %d cells (min_features=%d).", keep.sum(), len(keep), min_features)
    return keep


def filter_features(adata: AnnData, min_cells: int, profile: Profile) -> AnnData:
    """Keep features detected in enough cells, with their number in ``var["n_cells"]``."""
    adata.var["n_cells"] = adata.X.getnnz(axis=0)
    return adata[:, features_to_keep(adata, min_cells, profile)].copy()


def features_to_keep(adata: AnnData, min_cells: int, profile: Profile) -> np.ndarray:
    """Mask of the features whose ``var["n_cells"]`` is enough, reported."""
    keep = (adata.var["n_cells"] >= min_cells).to_numpy()
    if not keep.any():
        msg = (
            f"No {profile.feature} is detected in `min_cells`={min_cells!r} of {adata.n_obs} "
            "cells. Lower `min_cells`."
        )
        raise ValueError(msg)
    logger.info(
        "Kept %d of %d %s (min_cells=%d).", keep.sum(), len(keep), profile.features, min_cells
    )
    return keep


def drop_genes(adata: AnnData, prefixes: tuple[str, ...]) -> AnnData:
    """Leave out genes whose names start with one of ``prefixes``."""
    dropped = starts_with(adata.var_names, prefixes)
    if not dropped.any():
        return adata
    logger.info("Dropped %d genes named %s.", dropped.sum(), ", ".join(f"{p}*" for p in prefixes))
    return adata[:, ~dropped].copy()


def starts_with(names: pd.Index, prefixes: tuple[str, ...]) -> np.ndarray:
    """Tell for each name whether it starts with one of ``prefixes``."""
    return np.array([str(name).startswith(prefixes) for name in names], dtype=bool)
