"""Compiled loops over the values of a minibatch that are not zero. Imported only where one trains.

They go from gene to gene: a gene's row of the weight, or of its gradient, stays in the fastest
memory while the cells that have it are gone through.
"""

from __future__ import annotations

import numpy as np
from numba import float32, int32, int64, types, void

from scalex_scvi._core.compiled import compiled

_MATRIX = types.Array(float32, 2, "C", readonly=True)
_BY_GENE = types.Tuple((int64[::1], int32[::1], float32[::1]))
"""Where genes begin, and of each value its cell and the value itself: a matrix in CSC."""

ByGene = tuple[np.ndarray, np.ndarray, np.ndarray]


@compiled(void(_MATRIX, int64[::1]))
def count(x: np.ndarray, starts: np.ndarray) -> None:
    """Fill in where the values of each gene begin, and after the last gene where they end."""
    n_cells, n_genes = x.shape
    starts[:] = 0
    for cell in range(n_cells):
        for gene in range(n_genes):
            starts[gene + 1] += x[cell, gene] != 0
    for gene in range(n_genes):
        starts[gene + 1] += starts[gene]


@compiled(void(_MATRIX, _BY_GENE))
def collect(x: np.ndarray, by_gene: ByGene) -> None:
    """Fill in cells and values; ``starts`` are those of :func:`count`."""
    starts, cells, values = by_gene
    n_cells, n_genes = x.shape
    free = starts.copy()
    for cell in range(n_cells):
        for gene in range(n_genes):
            value = x[cell, gene]
            if value != 0:
                place = free[gene]
                cells[place] = cell
                values[place] = value
                free[gene] = place + 1


@compiled(void(_BY_GENE, _MATRIX, float32[:, ::1]), fastmath={"contract"})
def add_product(by_gene: ByGene, weight: np.ndarray, out: np.ndarray) -> None:
    """Add cells × genes times ``weight``, genes × units, to ``out``, cells × units."""
    starts, cells, values = by_gene
    n_genes, n_units = weight.shape
    for gene in range(n_genes):
        row = weight[gene]
        for place in range(starts[gene], starts[gene + 1]):
            value, of_cell = values[place], out[cells[place]]
            for unit in range(n_units):
                of_cell[unit] += value * row[unit]


@compiled(void(_BY_GENE, _MATRIX, float32[:, ::1]), fastmath={"contract"})
def gradient(by_gene: ByGene, of_out: np.ndarray, of_weight: np.ndarray) -> None:
    """Fill in the gradient of the weight, genes × units, from that of the product."""
    starts, cells, values = by_gene
    n_genes, n_units = of_weight.shape
    for gene in range(n_genes):
        row = of_weight[gene]
        row[:] = 0
        for place in range(starts[gene], starts[gene + 1]):
            value, of_cell = values[place], of_out[cells[place]]
            for unit in range(n_units):
                row[unit] += value * of_cell[unit]
