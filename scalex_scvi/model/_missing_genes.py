"""How the genes of a reference vary together, for queries that lack some of them.

Zeros in the place of missing genes move a cell in the latent, the more so the more genes are
missing. The encoder takes what is expected of them instead: by probabilistic PCA of the cells that
were trained on, given the genes that the cell has. It is linear, and of each cell by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse
from sklearn.decomposition import PCA

from scalex_scvi._core.blocks import evenly_spread
from scalex_scvi._core.modalities import Cells
from scalex_scvi.train import SCALEXDataManager

from ._completion import Completion
from ._training_sample import sample_of

if TYPE_CHECKING:
    from scvi.model.base import BaseModelClass as _Base
else:
    _Base = object

logger = logging.getLogger(__name__)

N_FACTORS = 30
"""Factors; 10 and 60 are as good (docs/history/decisions.md)."""

MOST_CELLS = 3_000
"""Cells that they are learned from: the time of many genes is long."""

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
    if values.shape[0] > MOST_CELLS:
        values = values[evenly_spread(values.shape[0], MOST_CELLS)]
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
    n_reference_batches_: int
    manager_of: Callable[..., SCALEXDataManager]

    def _learn_factors(self) -> None:
        """Learn of the model's cells what earlier versions did not note, if they are there."""
        is_reference = self.is_trained and self.n_reference_batches_ == 0
        has_cells = self.adata is not None and self.minified_data_type is None
        if self.gene_factors_ is not None or not is_reference:
            return
        if has_cells:
            self.gene_factors_ = gene_factors(sample_of(self.adata_manager, None).values)
        else:
            logger.warning(
                "Genes that the query lacks are taken for zero: an earlier version saved this "
                "model, without what is expected of them. Load it with its cells (`adata`), or "
                "save it anew."
            )

    def _completion_of(self, measured: np.ndarray | None) -> Completion | None:
        """Return what missing genes are expected to be; ``None``: they are zero, or none is."""
        if measured is None or measured.all():
            return None
        self._learn_factors()
        return None if self.gene_factors_ is None else completion(self.gene_factors_, measured)

    def _completed_loader(self, dataloader: Any) -> AbstractContextManager[None]:
        """Let the module complete minibatches of a loader as those of the model's own cells.

        Which genes the cells of a loader came with is not known otherwise.

        Parameters
        ----------
        dataloader
            ``None``: there is none, and nothing is done.
        """
        if dataloader is None or self.adata is None or self.adata_manager.measured.all():
            return nullcontext()
        logger.warning(
            "The minibatches given are taken to lack the %d genes that the model's own cells lack; "
            "cells with values of these stay as they are.",
            (~self.adata_manager.measured).sum(),
        )
        return self._completed_minibatches(None)

    @contextmanager
    def _completed_minibatches(
        self, adata: Cells | None, device: torch.device | None = None
    ) -> Iterator[None]:
        """Let the module complete minibatches of these cells, as the latent is of complete ones."""
        found, before = self._completion_of(self.manager_of(adata).measured), self.module.completion
        self.module.completion = None if found is None else found.to(device or self.device)
        try:
            yield
        finally:
            self.module.completion = before
