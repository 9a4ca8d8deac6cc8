"""Sums over cells by which genes are selected and scaled, in one pass over blocks of cells.

:func:`scanpy.pp.highly_variable_genes` takes dask arrays, but reads all data twice for each batch.
Its selection needs no more than the mean and variance of each gene in each batch, which add up
over blocks; :func:`rank_genes` turns them into the same genes and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

N_BINS = 20
"""Bins of mean expression, scanpy's default."""


@dataclass(frozen=True)
class GeneSums:
    """Sums over the cells of one batch, for each gene."""

    n_cells: int
    n_detected: np.ndarray
    total: np.ndarray
    squares: np.ndarray
    maximum: np.ndarray

    def __add__(self, other: GeneSums) -> GeneSums:
        """Add up the sums over both sets of cells."""
        return GeneSums(
            self.n_cells + other.n_cells,
            self.n_detected + other.n_detected,
            self.total + other.total,
            self.squares + other.squares,
            np.maximum(self.maximum, other.maximum),
        )


@dataclass(frozen=True)
class BatchMoments:
    """Sums of each batch that has cells, by its code."""

    batches: dict[int, GeneSums]

    def maxima(self, scale_by: str) -> np.ndarray:
        """Return the maximum of each gene in each batch, or in all: batches × genes, float32."""
        maxima = np.stack([self.batches[code].maximum for code in sorted(self.batches)])
        if scale_by == "global":
            maxima = np.broadcast_to(maxima.max(axis=0), maxima.shape)
        return maxima

    def variance_within(self) -> np.ndarray:
        """Return the variance of each gene within batches, each counting by its cells."""
        n_cells = sum(sums.n_cells for sums in self.batches.values())
        return (
            np.sum(
                [sums.squares - sums.total**2 / sums.n_cells for sums in self.batches.values()],
                axis=0,
            )
            / n_cells
        )

    def subset(self, genes: np.ndarray) -> BatchMoments:
        """Only some genes."""
        return BatchMoments(
            {
                code: GeneSums(
                    sums.n_cells,
                    sums.n_detected[genes],
                    sums.total[genes],
                    sums.squares[genes],
                    sums.maximum[genes],
                )
                for code, sums in self.batches.items()
            }
        )


def block_moments(block: sparse.csr_matrix, codes: np.ndarray, *, logarithms: bool) -> BatchMoments:
    """Sum over the cells of a block of normalized values, for each batch in it.

    Parameters
    ----------
    block
        Cells × genes.
    codes
        Batch of each cell.
    logarithms
        Whether the values are logarithms, and sums are taken of what they are the logarithms of.
    """
    present = np.unique(codes)
    return BatchMoments(
        {
            int(code): _sums(block if len(present) == 1 else block[codes == code], logarithms)
            for code in present
        }
    )


def _sums(csr: sparse.csr_matrix, logarithms: bool) -> GeneSums:
    n_genes = csr.shape[1]
    genes = csr.indices.astype(np.intp, copy=False)  # what numpy would copy them to, each time
    # As scanpy: exponentiated and squared in float32, summed in float64.
    values = np.expm1(csr.data) if logarithms else csr.data
    # Values are not negative. SciPy's maximum sorts them by genes, in four times the time.
    maximum = np.zeros(n_genes, dtype=csr.dtype)
    np.maximum.at(maximum, genes, csr.data)
    return GeneSums(
        csr.shape[0],
        np.bincount(genes, minlength=n_genes),
        np.bincount(genes, weights=values, minlength=n_genes),
        np.bincount(genes, weights=values * values, minlength=n_genes),
        maximum,
    )


def merge_moments(parts: Sequence[BatchMoments]) -> BatchMoments:
    """Add up the sums of several blocks."""
    merged: dict[int, GeneSums] = {}
    for part in parts:
        for code, sums in part.batches.items():
            merged[code] = merged[code] + sums if code in merged else sums
    return BatchMoments(merged)


def rank_genes(moments: BatchMoments, genes: pd.Index, n_top: int) -> pd.DataFrame:
    """Select highly variable genes over batches.

    A gene's dispersion (variance by mean, of normalized counts) is compared with that of genes of
    similar mean within each batch (Satija et al., Nat Biotechnol 33:495, 2015). Genes that are
    among the ``n_top`` best in most batches are taken, ties by their mean score.

    Parameters
    ----------
    moments
        Sums for ``genes`` in each batch.
    genes
        Names, unique.
    n_top
        How many to select.

    Returns
    -------
    The columns that ``scanpy.pp.highly_variable_genes(adata, n_top_genes=n_top, batch_key=...)``
    writes into ``adata.var``, for ``genes``.
    """
    in_order = [moments.batches[code] for code in sorted(moments.batches)]
    tables = [_rank_in_batch(sums, genes, n_top) for sums in in_order]
    table = pd.concat(tables)
    table = table.groupby(table.index).agg(
        {
            "means": "mean",
            "dispersions": "mean",
            "dispersions_norm": "mean",
            "highly_variable": "sum",
        }
    )
    table["highly_variable_nbatches"] = table.pop("highly_variable")
    table["highly_variable_intersection"] = table["highly_variable_nbatches"] == len(tables)
    table = table.sort_values(
        ["highly_variable_nbatches", "dispersions_norm"], ascending=False, na_position="last"
    )
    table.insert(0, "highly_variable", np.arange(len(table)) < n_top)
    return table.loc[genes].astype({"dispersions_norm": np.float32})


_RANKED = {
    "means": np.float64,
    "dispersions": np.float64,
    "dispersions_norm": np.float64,
    "highly_variable": np.int64,
}


def _rank_in_batch(sums: GeneSums, genes: pd.Index, n_top: int) -> pd.DataFrame:
    """Compute dispersions in one batch, normalized; genes without counts there are zero."""
    found = sums.n_detected > 0
    if not found.any():  # a batch without counts says nothing about genes
        return pd.DataFrame(0, index=genes, columns=_RANKED).astype(_RANKED)
    mean = sums.total[found] / sums.n_cells
    variance = sums.squares[found] / sums.n_cells - mean**2
    variance *= sums.n_cells / (sums.n_cells - 1)
    mean[mean == 0] = 1e-12
    with np.errstate(invalid="ignore", divide="ignore"):
        dispersion = variance / mean
        dispersion[dispersion == 0] = np.nan
        table = pd.DataFrame({"means": np.log1p(mean), "dispersions": np.log(dispersion)})
    table["dispersions_norm"] = _normalize_in_bins(table["means"], table["dispersions"])
    score = table["dispersions_norm"].to_numpy()
    n_scored = int((~np.isnan(score)).sum())
    cutoff = np.inf  # where no gene varies in the batch, it chooses none
    if n_scored:
        cutoff = np.sort(score[~np.isnan(score)])[::-1][min(n_top, n_scored) - 1]
    table["highly_variable"] = (np.nan_to_num(score, nan=-np.inf) >= cutoff).astype(int)
    return table.set_axis(genes[found]).reindex(genes, fill_value=0)


def _normalize_in_bins(means: pd.Series, dispersions: pd.Series) -> pd.Series:
    """Count the standard deviations above the mean dispersion of genes in the same bin."""
    by_bin = dispersions.groupby(pd.cut(means, bins=N_BINS), observed=True)
    average, deviation = by_bin.transform("mean"), by_bin.transform("std")
    lone = deviation.isna()  # one gene in its bin: a score of 1
    return (dispersions - average.mask(lone, 0)) / deviation.mask(lone, average)
