"""Simulated chromatin accessibility of real PBMCs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from scipy import sparse
from scipy.special import expit

PEAKS_PER_GENE = 4

# Shift of a peak's log-odds to be seen, mean and spread between peaks, in each batch.
PLATFORMS = {"platform1": (0.0, 0.0), "platform2": (-0.7, 0.8)}


def pbmc_chromatin(*, seed: int = 0) -> AnnData:
    """Peaks of 700 PBMCs on two platforms: **simulated** from real expression, needs no download.

    Cells, cell types and expression are those of :func:`pbmc_technologies`. Each gene gets four
    peaks, seen open in a cell with a probability that rises with the gene's expression in the
    cell and its neighbors; each peak has a log-odds of its own (mean -2.5, SD 1.2). Cells are
    dealt at random to two platforms; in the second each peak is seen less, to a degree of its own.

    Parameters
    ----------
    seed
        Seed of everything.

    Returns
    -------
    700 cells × 3060 peaks, ``X`` with zeros and ones (CSR, float32), ``obs["batch"]``,
    ``obs["celltype"]`` and ``var["gene"]``.
    """
    source = sc.datasets.pbmc68k_reduced()
    rng = np.random.default_rng(seed)
    gene = np.repeat(np.arange(source.raw.n_vars), PEAKS_PER_GENE)
    log_odds = _activity(source)[:, gene] + rng.normal(-2.5, 1.2, len(gene))
    names = np.array(list(PLATFORMS))
    batch = names[rng.permutation(np.arange(source.n_obs) % len(names))]
    for name, (mean, spread) in PLATFORMS.items():
        log_odds[batch == name] += rng.normal(mean, spread, len(gene))
    open_peaks = rng.random(log_odds.shape) < expit(log_odds)
    genes = source.raw.var_names[gene]
    peaks = [f"{name}-peak{i % PEAKS_PER_GENE + 1}" for i, name in enumerate(genes)]
    adata = AnnData(
        X=sparse.csr_matrix(open_peaks, dtype=np.float32),
        obs=pd.DataFrame(
            {
                "batch": pd.Categorical(batch, categories=names),
                "celltype": source.obs["bulk_labels"].astype(str).astype("category"),
            },
            index=source.obs_names,
        ),
        var=pd.DataFrame({"gene": genes.to_numpy()}, index=pd.Index(peaks)),
    )
    adata.uns["source"] = "simulated: peaks from the expression in scanpy's pbmc68k_reduced"
    return adata


def gene_activity(peaks: AnnData, gene_key: str = "gene") -> AnnData:
    """Sum the peaks of each gene.

    Parameters
    ----------
    peaks
        Cells × peaks. It is not changed.
    gene_key
        Column of ``peaks.var`` with the gene of each peak.

    Returns
    -------
    Cells × genes with the ``obs`` of ``peaks``; peaks without a gene (NaN) are left out.

    Raises
    ------
    KeyError
        If there is no such column.
    """
    if gene_key not in peaks.var:
        msg = f"`gene_key` {gene_key!r} is not a column of var: {list(peaks.var.columns)!r}."
        raise KeyError(msg)
    codes, genes = pd.factorize(peaks.var[gene_key])
    known = np.flatnonzero(codes >= 0)
    ones = np.ones(len(known), dtype=np.float32)
    of_gene = sparse.csr_matrix((ones, (known, codes[known])), shape=(peaks.n_vars, len(genes)))
    return AnnData(
        X=sparse.csr_matrix(peaks.X @ of_gene),
        obs=peaks.obs.copy(),
        var=pd.DataFrame(index=pd.Index(genes.astype(str))),
    )


def _activity(source: AnnData) -> np.ndarray:
    """Expression of each cell and its neighbors, standardized per gene: cells × genes."""
    graph = source.obsp["connectivities"] + sparse.identity(source.n_obs)
    weights = sparse.diags(1 / np.asarray(graph.sum(axis=1)).ravel())
    smooth = np.asarray((weights @ graph @ source.raw.X).todense())
    return (smooth - smooth.mean(axis=0)) / (smooth.std(axis=0) + 1e-9)
