"""How the genes of a reference vary together, for queries that lack some of them.

Zeros in the place of missing genes move a cell in the latent, the more so the more genes are
missing. The encoder takes what is expected of them instead: by probabilistic PCA of the cells that
were trained on, given the genes that the cell has. It is linear, and of each cell by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse
from sklearn.decomposition import PCA

from scalex_scvi._core.modalities import Cells
from scalex_scvi.train import SCALEXDataManager

from ._completion import Completion
from ._training_sample import sample_of

if TYPE_CHECKING:
    from scvi.model.base import BaseModelClass as _Base
else:
    _Base = object

N_FACTORS = 30
"""Factors; 20 and 40 are as good (docs/label_transfer.md)."""

LEAST_NOISE = 1e-6
"""Of the mean variance of a gene: the least share that factors are taken not to explain."""


def gene_factors(values: sparse.csr_matrix) -> dict[str, Any] | None:
    """Fit probabilistic PCA (Tipping & Bishop, J R Stat Soc B 61:611, 1999) to cells.

    Parameters
    ----------
    values
        Cells × genes, in [0, 1].

    Returns
    -------
    Plain types that a model keeps: ``"mean"`` of each gene; ``"loadings"``, genes × factors; and
    ``"noise"``, the variance of each gene that they leave. ``None`` if no gene varies.
    """
    n_factors = min(N_FACTORS, *(n - 1 for n in values.shape))
    varies = values.nnz > 0 and (values.max(axis=0) != values.min(axis=0)).nnz > 0
    if n_factors < 1 or not varies:
        return None
    found = PCA(n_factors, svd_solver="arpack", random_state=0).fit(values.astype(np.float64))
    variance = found.explained_variance_
    # scikit-learn shares noise out between as many directions as there are cells, if they are few.
    total, n_genes = variance.sum() / found.explained_variance_ratio_.sum(), values.shape[1]
    noise = max((total - variance.sum()) / (n_genes - n_factors), LEAST_NOISE * total / n_genes)
    loadings = found.components_.T * np.sqrt(np.maximum(variance - noise, 0))
    return {
        "mean": found.mean_.astype(np.float32),
        "loadings": loadings.astype(np.float32),
        "noise": float(noise),
    }


def completion(factors: Mapping[str, Any], measured: np.ndarray) -> Completion:
    """Return what missing genes are expected to be.

    Parameters
    ----------
    factors
        See :func:`gene_factors`.
    measured
        Mask of the genes that cells have.
    """
    loadings = np.asarray(factors["loadings"], dtype=np.float64)
    mean = np.asarray(factors["mean"], dtype=np.float64)
    known = loadings * measured[:, None]
    inverse = known.T @ known + float(factors["noise"]) * np.eye(loadings.shape[1])
    read = np.linalg.solve(inverse, known.T).T
    write = (loadings * ~measured[:, None]).T
    offset = mean * ~measured - (mean @ read) @ write
    return Completion(
        *(torch.from_numpy(part.astype(np.float32)) for part in (read, write, offset))
    )


class MissingGenesMixin(_Base):
    """Adds to a model what its encoder takes in the place of genes that cells lack."""

    gene_factors_: dict[str, Any] | None
    manager_of: Callable[..., SCALEXDataManager]

    def _factors_for(self, query: SCALEXDataManager) -> dict[str, Any] | None:
        """Return how the genes of the model vary together, for the cells of a query.

        Models of earlier versions did not note it: it is learned from their cells, if these are
        there and the query lacks genes.
        """
        lacks = query.measured is not None and not query.measured.all()
        has_cells = self.adata is not None and self.minified_data_type is None
        if self.gene_factors_ is None and lacks and has_cells:
            return gene_factors(sample_of(self.adata_manager, None).values)
        return self.gene_factors_

    def _completion_of(self, measured: np.ndarray | None) -> Completion | None:
        """Return what missing genes are expected to be; ``None``: they are zero, or none is."""
        if measured is None or measured.all() or self.gene_factors_ is None:
            return None
        return completion(self.gene_factors_, measured)

    @contextmanager
    def _completed_minibatches(
        self, adata: Cells | None, device: torch.device | None = None
    ) -> Iterator[None]:
        """Let the module complete minibatches of these cells, as the latent is of complete ones."""
        found = self._completion_of(self.manager_of(adata).measured)
        if found is not None:
            self.module.completion = found.to(device or self.device)
        try:
            yield
        finally:
            self.module.completion = None
