"""The embedded data are real counts with made technologies."""

from __future__ import annotations

import numpy as np
import scanpy as sc

from scalex_scvi.datasets import pbmc_technologies


def test_real_cells_and_counts() -> None:
    adata = pbmc_technologies()
    assert adata.shape == (700, 765)
    assert adata.obs["celltype"].nunique() == 10
    assert adata.obs["batch"].value_counts().min() >= 233
    assert "semi-synthetic" in adata.uns["source"]
    # The batch without simulated capture holds the source's own molecules: their logarithm is
    # the source's matrix again, up to the source's rounding.
    rows = (adata.obs["batch"] == "droplet").to_numpy()
    source = sc.datasets.pbmc68k_reduced()
    counts = adata.X[rows].toarray()
    log = source.raw.X[rows].toarray()
    one = np.expm1(np.where(log > 0, log, np.inf).min(axis=1, keepdims=True))
    np.testing.assert_allclose(np.log1p(counts * one), log, atol=0.02)


def test_technologies_differ_and_repeat() -> None:
    adata, again = pbmc_technologies(), pbmc_technologies()
    assert (adata.X != again.X).nnz == 0
    depth = {
        batch: adata.X[(adata.obs["batch"] == batch).to_numpy()].sum(axis=1).mean()
        for batch in adata.obs["batch"].cat.categories
    }
    assert depth["shallow"] < 0.6 * depth["droplet"] < depth["plate"]
    assert (pbmc_technologies(seed=1).X != adata.X).nnz > 0
