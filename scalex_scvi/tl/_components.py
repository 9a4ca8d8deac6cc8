"""Principal components of the expression that reference and query share."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from sklearn.decomposition import PCA

from scalex_scvi.pp._scale import unscale

N_COMPONENTS = 50

MIN_CELLS_PER_COMPONENT = 2
"""With fewer cells, discriminants could tell any labels apart."""


def expression_components(ref: AnnData, query: AnnData) -> tuple[np.ndarray, np.ndarray] | None:
    """Components of the reference's normalised expression, and the query projected into them.

    The values are those before scaling: a new batch is scaled by maxima of its own, which move its
    cells.

    Parameters
    ----------
    ref, query
        Prepared cells × the same genes, with the records of their preparation.

    Returns
    -------
    Cells × components of reference and query, or ``None`` if they do not share prepared
    expression, or the reference has too few cells.
    """
    if not ref.var_names.equals(query.var_names):
        return None
    in_ref, in_query = unscale(ref), unscale(query)
    n_components = min(N_COMPONENTS, ref.n_obs // MIN_CELLS_PER_COMPONENT, ref.n_vars - 1)
    if in_ref is None or in_query is None or n_components < 1:
        return None
    pca = PCA(n_components, svd_solver="arpack", random_state=0).fit(in_ref)
    return pca.transform(in_ref), pca.transform(in_query)
