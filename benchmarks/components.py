"""Uncorrected principal components, to compare with."""

from __future__ import annotations

import numpy as np
import scanpy as sc
from anndata import AnnData


def uncorrected_pca(prepared: AnnData, n_components: int = 50) -> np.ndarray:
    """Compute principal components of the same genes without any correction.

    scanpy's classic recipe: log-normalized expression, genes standardized and clipped at 10
    standard deviations, then PCA.

    Parameters
    ----------
    prepared
        Output of :func:`scalex_scvi.pp.rna`, with log-normalized expression in ``raw``.
    n_components
        Number of components; fewer if there are fewer cells or genes.

    Returns
    -------
    ``(n_cells, n_components)``.
    """
    expression = prepared.raw[:, prepared.var_names].X.toarray()
    standardized = sc.pp.scale(expression, max_value=10)
    n_components = min(n_components, min(expression.shape) - 1)
    return sc.pp.pca(standardized, n_comps=n_components, random_state=0)
