"""Principal components of the expression that reference and query share."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from scipy import sparse
from scipy.sparse.linalg import eigsh
from sklearn.decomposition import PCA

from scalex_scvi._core.measured import measured_genes
from scalex_scvi.pp import can_unscale, unscale

N_COMPONENTS = 50

NO_VARIANCE = 1e-10
"""Share of the largest variance up to which that of a direction is rounding."""

RIDGE = 0.02
"""Added to the squared length, 1 with all genes, of each direction in the genes that are left. A
half of it is as good, five times as much is worse (docs/history/decisions.md)."""

ROWS = 1024
"""Cells that are dense at a time while the covariance is summed."""

MIN_CELLS_PER_COMPONENT = 2
"""Fewest cells for each component: with fewer, discriminants would separate any labels."""


def expression_components(ref: AnnData, query: AnnData) -> tuple[np.ndarray, np.ndarray] | None:
    """Components of the reference's normalized expression, and the query projected into them.

    The values are those before scaling: a new batch is scaled by maxima of its own, which move its
    cells.

    Parameters
    ----------
    ref, query
        Prepared cells × the same genes, with the records of their preparation. Where the query is
        marked to lack genes, its components are estimated.

    Returns
    -------
    Cells × components of reference and query, or ``None`` if they do not share prepared
    expression, or the reference has too few cells.
    """
    if not ref.var_names.equals(query.var_names):
        return None
    n_components = min(N_COMPONENTS, ref.n_obs // MIN_CELLS_PER_COMPONENT, ref.n_vars - 1)
    if n_components < 1 or not (can_unscale(ref) and can_unscale(query)):
        return None
    x = unscale(ref)
    mean, directions = principal_directions(x, n_components)
    in_ref = project(x, mean, directions)
    del x  # the copies of reference and query are not held at once
    measured = measured_genes(query.var)
    if measured is not None:
        directions = estimating(directions, measured)
    return in_ref, project(unscale(query), mean, directions)


def principal_directions(x: sparse.csr_matrix, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Directions of the largest variance.

    Parameters
    ----------
    x
        Cells × genes.
    n
        Number of directions, less than there are genes.

    Returns
    -------
    Mean of the genes, ``(n_genes,)``, and directions, ``(n_genes, n)``. One without variance is
    zero: any would do else, also that of a gene which is never expressed here, but is in a query.
    """
    if (x.max(axis=0) != x.min(axis=0)).nnz == 0:  # such as cells without counts
        return x[0].toarray()[0], np.zeros((x.shape[1], n), dtype=x.dtype)
    if not _covariance_pays(x):
        with np.errstate(divide="ignore", invalid="ignore"):  # shares of no variance at all
            pca = PCA(n, svd_solver="arpack", random_state=0).fit(x)
        return pca.mean_, _of_variance(pca.components_.T, pca.explained_variance_)
    mean, covariance = _moments(x)
    start = np.random.default_rng(0).uniform(-1, 1, len(mean))
    variances, directions = eigsh(covariance, n, v0=start)
    directions = _of_variance(directions, variances)
    return mean.astype(x.dtype), directions[:, ::-1].astype(x.dtype)


def _of_variance(directions: np.ndarray, variances: np.ndarray) -> np.ndarray:
    return np.where(variances > NO_VARIANCE * variances.max(), directions, 0)


def project(x: sparse.csr_matrix, mean: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Return the components of cells × genes, by :func:`principal_directions`: cells × n."""
    return np.asarray(x @ directions - mean @ directions)


def estimating(directions: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Return directions by which components are estimated from some genes: by least squares.

    Parameters
    ----------
    directions
        Genes × n, of all genes.
    measured
        Mask of the genes that cells have.

    Returns
    -------
    Genes × n; zero for the others.
    """
    left = np.where(measured[:, None], directions, 0).astype(np.float64)
    products = left.T @ left + RIDGE * np.eye(left.shape[1])
    return np.linalg.solve(products, left.T).T.astype(directions.dtype)


def _covariance_pays(x: sparse.csr_matrix) -> bool:
    """Whether the genes' covariance, and its directions, take less time than going over the cells.

    scikit-learn goes over all values some hundred times. The covariance is one product, once, but
    of all genes with all, so that it pays for many cells of few genes that are not too sparse: a
    quarter of the time for 11 000 cells × 1 300 genes (docs/projection.md).
    """
    n_cells, n_genes = x.shape
    return x.nnz > n_genes**2 and 25_000 * x.nnz > n_cells * n_genes**2


def _moments(x: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    n_cells, n_genes = x.shape
    total, products = np.zeros(n_genes), np.zeros((n_genes, n_genes))
    for start in range(0, n_cells, ROWS):
        block = x[start : start + ROWS].toarray()
        total += block.sum(axis=0)
        products += block.T @ block
    mean = total / n_cells
    return mean, products / n_cells - np.outer(mean, mean)
