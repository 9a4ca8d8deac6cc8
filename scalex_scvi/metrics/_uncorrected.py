"""The embedding before integration."""

from __future__ import annotations

import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from scalex_scvi._core.matrices import expression_in_raw


def uncorrected_pca(adata: AnnData, *, n_components: int = 20) -> np.ndarray:
    """Principal components of the same genes without any correction, to compare with.

    scanpy's classic recipe: log-normalized expression, genes standardized and clipped at 10
    standard deviations, then PCA.

    Parameters
    ----------
    adata
        Output of :func:`scalex_scvi.pp.rna`, with log-normalized expression in ``raw``.
    n_components
        Number of components; fewer if there are fewer cells or genes.

    Returns
    -------
    ``(n_cells, n_components)``, float32.

    Raises
    ------
    ValueError
        If there is no ``raw``, or it lacks genes of ``adata``.
    """
    if adata.raw is None:
        msg = (
            "`adata` has no `raw` with log-normalized expression, of which the components are. "
            "Prepare counts by `scalex_scvi.pp.rna`."
        )
        raise ValueError(msg)
    found = expression_in_raw(adata, np.arange(adata.n_obs))
    expression = found.toarray() if sparse.issparse(found) else np.asarray(found)
    standardized = sc.pp.scale(expression, max_value=10)
    n_components = min(n_components, min(expression.shape) - 1)
    return sc.pp.pca(standardized, n_comps=n_components, random_state=0)
