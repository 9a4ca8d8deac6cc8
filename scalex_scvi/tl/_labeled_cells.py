"""Reference cells, with sums from which label means follow, also those without any one batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse
from sklearn.utils.extmath import row_norms

from ._components import N_COMPONENTS, principal_directions, project


@dataclass(frozen=True, eq=False)
class LabeledCells:
    """Reference cells, and sums for each batch and label: leaving a batch out is a subtraction.

    Attributes
    ----------
    x
        Cells × genes, normalized.
    codes, batch
        Label and batch of each cell, from 0 on.
    mean, directions
        Principal components of all cells: mean of the genes, and genes × components.
    sums, counts
        Summed expression, batches × labels × genes, and number of cells, batches × labels.
    squares
        Summed mean square of a cell's expression over the genes: batches × labels.
    """

    x: sparse.csr_matrix
    codes: np.ndarray
    batch: np.ndarray
    mean: np.ndarray
    directions: np.ndarray
    sums: np.ndarray
    counts: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, x: sparse.csr_matrix, codes: np.ndarray, batch: np.ndarray) -> LabeledCells:
        """Find the components, and sum the cells of each batch and label."""
        n_cells, n_genes = x.shape
        n_labels, n_batches = int(codes.max()) + 1, int(batch.max()) + 1
        n_components = max(min(N_COMPONENTS, n_cells // 2, n_genes - 1), 1)
        mean, directions = principal_directions(x, n_components)
        groups = batch.astype(np.int64) * n_labels + codes
        shape = (n_batches * n_labels, n_cells)
        member = sparse.csr_matrix((np.ones(n_cells, x.dtype), (groups, np.arange(n_cells))), shape)
        sums = (member @ x).toarray().reshape(n_batches, n_labels, n_genes)
        counts = np.bincount(groups, minlength=shape[0]).reshape(n_batches, n_labels)
        squares = (member @ row_norms(x, squared=True)).reshape(n_batches, n_labels) / n_genes
        return cls(x, codes, batch, mean, directions, sums, counts, squares)

    @cached_property
    def points(self) -> np.ndarray:
        """Principal components of the cells: cells × components."""
        return project(self.x, self.mean, self.directions).astype(np.float64)

    @cached_property
    def in_several(self) -> np.ndarray:
        """Whether each label is in two batches or more."""
        return (self.counts > 0).sum(axis=0) > 1

    def label_means(self) -> np.ndarray:
        """Mean expression of all cells of each label: labels × genes."""
        return self.sums.sum(axis=0) / self.counts.sum(axis=0)[:, None]


def centered(rows: np.ndarray) -> np.ndarray:
    """Rows less their means."""
    return rows - rows.mean(axis=1, keepdims=True)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows divided by their lengths; rows of zeros stay."""
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)


def correlation(rows: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Pearson correlation of rows of expression with label means: rows × labels."""
    return unit(centered(rows)) @ unit(centered(means)).T
