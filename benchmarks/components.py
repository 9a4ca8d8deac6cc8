"""Uncorrected principal components, to compare with."""

from __future__ import annotations

import numpy as np
import scanpy as sc
from scipy import sparse
from sklearn.decomposition import TruncatedSVD

import scalex_scvi as sx
from benchmarks.cells import Cells


def components(cells: Cells, *, standardize: bool = False) -> np.ndarray:
    """50 uncorrected components: PCA of log-normalized genes; of peaks, latent semantic indexing.

    Genes are not standardized by default, since that costs the peers that start from here:
    it gives the noise of faint genes the weight of the signal.
    """
    if cells.about.profile != "ATAC":
        if standardize:
            return sx.metrics.uncorrected_pca(cells.prepared, n_components=50)
        n_components = min(50, min(cells.log.shape) - 1)
        return sc.pp.pca(cells.log.toarray(), n_comps=n_components, random_state=0)
    peaks = cells.counts[:, cells.genes].X.astype(np.float64)
    share = peaks.multiply(1 / np.maximum(peaks.sum(axis=1), 1))
    weight = np.log1p(peaks.shape[0] / np.maximum(np.asarray((peaks > 0).sum(axis=0)), 1))
    tf_idf = sparse.csr_matrix(share.multiply(weight)).multiply(1e4).log1p()
    # The first component is the depth of the cell.
    return TruncatedSVD(51, algorithm="arpack", random_state=0).fit_transform(tf_idf)[:, 1:]
