"""Real PBMCs, turned into technologies."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from scipy import sparse

# Mean share of a molecule's copies that is captured, spread of the capture between genes
# (standard deviation of the logarithm), and reads per captured molecule (0: molecules are counted).
TECHNOLOGIES = {
    "droplet": (1.0, 0.0, 0.0),
    "plate": (0.9, 0.7, 4.0),
    "shallow": (0.45, 0.9, 0.0),
}


def pbmc_technologies(*, seed: int = 0) -> AnnData:
    """700 real PBMCs as if measured by three technologies: **semi-synthetic**, needs no download.

    Cells, cell types and counts are real: the 700 PBMCs of 10x Genomics that ship inside scanpy
    (:func:`scanpy.datasets.pbmc68k_reduced`; 765 genes; published labels), all measured by one
    technology. The technologies are made: the cells are dealt at random into three batches, and
    the molecules of each gene are captured with a probability of its own in each batch:

    - ``droplet``: counts as they are;
    - ``plate``: 90 % capture on average, log-normal between genes (SD 0.7); reads instead of
      molecules (4 per molecule on average, Poisson, log-normal between genes);
    - ``shallow``: 45 % capture on average, log-normal between genes (SD 0.9).

    The truth is known, then: cells of one type should meet, whatever their batch.

    Parameters
    ----------
    seed
        Seed of the deal and of the capture.

    Returns
    -------
    700 cells × 765 genes, ``X`` with counts (CSR, float32), ``obs["batch"]`` and
    ``obs["celltype"]``.

    References
    ----------
    Zheng et al., Nat Commun 8:14049, 2017.
    """
    source = sc.datasets.pbmc68k_reduced()
    molecules = _recover_counts(source.raw.X)
    rng = np.random.default_rng(seed)
    names = np.array(list(TECHNOLOGIES))
    batch = names[rng.permutation(np.arange(len(molecules)) % len(names))]
    counts = np.zeros_like(molecules)
    for name, technology in TECHNOLOGIES.items():
        counts[batch == name] = _measure(molecules[batch == name], *technology, rng=rng)
    adata = AnnData(
        X=sparse.csr_matrix(counts, dtype=np.float32),
        obs=pd.DataFrame(
            {
                "batch": pd.Categorical(batch, categories=names),
                "celltype": source.obs["bulk_labels"].astype(str).astype("category"),
            },
            index=source.obs_names,
        ),
        var=pd.DataFrame(index=source.raw.var_names),
    )
    adata.uns["source"] = "semi-synthetic: scanpy's pbmc68k_reduced, capture simulated per batch"
    return adata


def _recover_counts(log_normalized: sparse.spmatrix) -> np.ndarray:
    """Molecules from log1p of counts per cell times a factor: each cell's smallest value is one."""
    normalized = np.expm1(np.asarray(sparse.csr_matrix(log_normalized).toarray(), dtype=float))
    one = np.where(normalized > 0, normalized, np.inf).min(axis=1, keepdims=True)
    return np.rint(normalized / one).astype(np.int64)


def _measure(
    molecules: np.ndarray,
    capture: float,
    spread: float,
    reads: float,
    *,
    rng: np.random.Generator,
) -> np.ndarray:
    n_genes = molecules.shape[1]
    efficiency = np.minimum(capture * rng.lognormal(-(spread**2) / 2, spread, n_genes), 1.0)
    captured = rng.binomial(molecules, efficiency)
    if not reads:
        return captured
    return rng.poisson(captured * reads * rng.lognormal(-(spread**2) / 2, spread, n_genes))
