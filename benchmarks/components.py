"""Uncorrected principal components, to compare with."""

from __future__ import annotations

import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy import sparse
from sklearn.decomposition import TruncatedSVD

from benchmarks.cells import Cells


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


def components(cells: Cells, *, standardize: bool = False) -> np.ndarray:
    """50 uncorrected components: PCA of log-normalized genes; of peaks, latent semantic indexing.

    Genes are not standardized by default, since that costs the peers that start from here:
    it gives the noise of faint genes the weight of the signal.
    """
    if cells.about.profile != "ATAC":
        if standardize:
            return uncorrected_pca(cells.prepared)
        n_components = min(50, min(cells.log.shape) - 1)
        return sc.pp.pca(cells.log.toarray(), n_comps=n_components, random_state=0)
    peaks = cells.counts[:, cells.genes].X.astype(np.float64)
    share = peaks.multiply(1 / np.maximum(peaks.sum(axis=1), 1))
    weight = np.log1p(peaks.shape[0] / np.maximum(np.asarray((peaks > 0).sum(axis=0)), 1))
    tf_idf = sparse.csr_matrix(share.multiply(weight)).multiply(1e4).log1p()
    # The first component is the depth of the cell.
    return TruncatedSVD(51, algorithm="arpack", random_state=0).fit_transform(tf_idf)[:, 1:]
