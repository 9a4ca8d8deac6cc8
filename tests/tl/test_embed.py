"""Neighbors, UMAP and clusters of a latent space."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from sklearn.metrics import adjusted_rand_score

import scalex_scvi as sx


def blobs(n_cells: int) -> AnnData:
    """Three well separated groups."""
    rng = np.random.default_rng(0)
    group = rng.integers(3, size=n_cells)
    points = rng.normal(size=(n_cells, 10)) + 30 * np.eye(10)[group]
    adata = AnnData(np.zeros((n_cells, 1), dtype=np.float32))
    adata.obsm["latent"] = points.astype(np.float32)
    adata.obs["group"] = pd.Categorical(group.astype(str))
    return adata


# Above some 8 000 cells scanpy searches neighbors by another library: test_neighbor_search.py.
@pytest.mark.parametrize("n_cells", [10, 300])
def test_clusters_keep_separated_groups_apart(n_cells: int) -> None:
    adata = blobs(n_cells)
    sx.tl.embed(adata)
    assert adata.obsm["X_umap"].shape == (n_cells, 2)
    if n_cells > 10:
        clusters = pd.crosstab(adata.obs["leiden"], adata.obs["group"])
        assert ((clusters > 0).sum(axis=1) == 1).all()


def test_repeats() -> None:
    first, second = blobs(200), blobs(200)
    for adata in (first, second):
        sx.tl.embed(adata, seed=3)
    np.testing.assert_array_equal(first.obsm["X_umap"], second.obsm["X_umap"])
    assert adjusted_rand_score(first.obs["leiden"], second.obs["leiden"]) == 1


def test_no_such_representation() -> None:
    with pytest.raises(KeyError, match="`use_rep` 'z'"):
        sx.tl.embed(blobs(10), use_rep="z")


def test_map_of_a_single_gene_before_integration() -> None:
    adata = AnnData(np.random.default_rng(0).random((30, 1)).astype(np.float32))
    sx.tl.uncorrected_umap(adata)
    assert np.isfinite(adata.obsm["X_umap_uncorrected"]).all()


def test_genes_that_raw_lacks_are_not_replaced_by_others() -> None:
    adata = AnnData(np.random.default_rng(0).random((30, 3)).astype(np.float32))
    adata.raw = adata[:, :2].copy()
    with pytest.raises(ValueError, match="lacks 1 of the 3 genes"):
        sx.tl.uncorrected_umap(adata)
