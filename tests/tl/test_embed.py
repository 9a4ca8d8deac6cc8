"""Neighbors, UMAP and clusters of a latent space."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsRegressor

import scalex_scvi as sx
from scalex_scvi._core.seeds import random_rows


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
    with pytest.raises(KeyError, match=r"`use_rep` 'z' is not .*integrate adds"):
        sx.tl.embed(blobs(10), use_rep="z")


@pytest.mark.parametrize("max_cells", [200, None])
def test_all_cells_are_on_the_map_by_themselves(
    max_cells: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    adata, default = blobs(200), blobs(200)
    sx.tl.embed(adata, max_cells=max_cells)
    sx.tl.embed(default)
    np.testing.assert_array_equal(adata.obsm["X_umap"], default.obsm["X_umap"])
    assert "neighbors" in adata.uns
    assert not caplog.records


def test_a_sample_is_embedded_as_if_it_were_alone() -> None:
    adata = blobs(600)
    sx.tl.embed(adata, seed=3, max_cells=150)
    rows = random_rows(600, 150, 3)
    sample = AnnData(obsm={"latent": adata.obsm["latent"][rows]})
    sx.tl.embed(sample, seed=3)
    np.testing.assert_array_equal(adata.obsm["X_umap"][rows], sample.obsm["X_umap"])
    clusters = adata.obs["leiden"]
    assert list(clusters.cat.categories) == list(sample.obs["leiden"].cat.categories)
    assert list(clusters.iloc[rows]) == list(sample.obs["leiden"])
    for key in ("umap", "leiden"):
        assert adata.uns[key] == sample.uns[key]


def test_cells_beside_the_sample_lie_in_their_group_and_have_its_cluster() -> None:
    adata = blobs(600)
    sx.tl.embed(adata, max_cells=150)
    points, clusters = adata.obsm["X_umap"], adata.obs["leiden"]
    assert points.shape == (600, 2) and points.dtype == np.float32
    assert np.isfinite(points).all()
    assert clusters.notna().all()
    assert ((pd.crosstab(clusters, adata.obs["group"]) > 0).sum(axis=1) == 1).all()
    group = adata.obs["group"].to_numpy()
    others = np.setdiff1d(np.arange(600), random_rows(600, 150, 124))
    centers = {g: points[group == g].mean(axis=0) for g in np.unique(group)}
    for own, center in centers.items():
        spread = np.linalg.norm(points[others][group[others] == own] - center, axis=1).max()
        assert all(np.linalg.norm(center - c) > spread for g, c in centers.items() if g != own)


def test_the_most_frequent_cluster_of_the_nearest_cells_and_of_these_the_nearest() -> None:
    """One cloud, whose clusters meet, so that nearest cells are of several."""
    latent = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    adata = AnnData(obsm={"latent": latent})
    sx.tl.embed(adata, max_cells=200)
    rows = random_rows(400, 200, 124)
    clusters = adata.obs["leiden"].to_numpy()
    n_ties = 0
    for cell in np.setdiff1d(np.arange(400), rows):
        nearest = rows[np.argsort(np.linalg.norm(latent[rows] - latent[cell], axis=1))[:15]]
        times = pd.Series(clusters[nearest]).value_counts()
        most = set(times.index[times == times.max()])
        n_ties += len(most) > 1
        assert clusters[cell] == next(c for c in clusters[nearest] if c in most)
    assert n_ties


def test_a_sample_repeats_and_another_seed_draws_another() -> None:
    first, second, other = blobs(300), blobs(300), blobs(300)
    for adata, seed in ((first, 3), (second, 3), (other, 4)):
        sx.tl.embed(adata, seed=seed, max_cells=100)
    np.testing.assert_array_equal(first.obsm["X_umap"], second.obsm["X_umap"])
    assert first.obs["leiden"].equals(second.obs["leiden"])
    assert not np.array_equal(first.obsm["X_umap"], other.obsm["X_umap"])


@pytest.mark.parametrize("has_graph", [False, True], ids=["none before", "one before"])
def test_a_sample_is_told_and_writes_no_graph(
    has_graph: bool, caplog: pytest.LogCaptureFixture
) -> None:
    adata = blobs(300)
    before = sparse.random(300, 300, 0.1, "csr", random_state=0)
    if has_graph:
        adata.uns["neighbors"] = {"distances_key": "distances"}
        adata.obsp["distances"] = before.copy()
    sx.tl.embed(adata, max_cells=100)
    (said,) = [each for each in caplog.records if each.levelname == "WARNING"]
    text = said.getMessage()
    assert "100 cells" in text and "300" in text and "max_cells=None" in text
    assert ("uns['neighbors'] is from before" in text) == has_graph
    assert set(adata.obsp) == ({"distances"} if has_graph else set())
    assert ("neighbors" in adata.uns) == has_graph
    assert not has_graph or (adata.obsp["distances"] != before).nnz == 0


@pytest.mark.parametrize("max_cells", [3, 0, -1, 1.5, True, "all"])
def test_a_size_of_the_sample_that_cannot_be(max_cells: Any) -> None:
    adata = blobs(10)
    with pytest.raises(ValueError, match="`max_cells` must be a whole number of at least 4"):
        sx.tl.embed(adata, max_cells=max_cells)
    assert "X_umap" not in adata.obsm


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_latent", [2, 10, 20])
def test_place_on_map_is_the_regression_of_scikit_learn(n_latent: int, dtype: type) -> None:
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(300, n_latent)).astype(dtype)
    own_map = rng.normal(size=(300, 2)).astype(np.float32)
    query = np.concatenate([rng.normal(size=(100, n_latent)).astype(dtype), latent[:5]])
    placed = sx.tl.place_on_map(latent, own_map, query)
    by_sklearn = KNeighborsRegressor(15, weights="distance").fit(latent, own_map).predict(query)
    np.testing.assert_array_equal(placed, by_sklearn.astype(np.float32))
    np.testing.assert_array_equal(placed[-5:], own_map[:5])


def test_place_on_map_refuses_what_does_not_fit() -> None:
    latent, own_map = np.eye(4), np.zeros((4, 2))
    with pytest.raises(ValueError, match=r"`ref_map` 3: both must be of the same cells"):
        sx.tl.place_on_map(latent, own_map[:3], latent)
    with pytest.raises(ValueError, match=r"`query_latent` 1: both must come from the same model"):
        sx.tl.place_on_map(latent, own_map, latent[:, :1])
    with pytest.raises(TypeError, match="query_latent holds no real numbers"):
        sx.tl.place_on_map(latent, own_map, latent.astype(str))


@pytest.mark.parametrize("which", ["ref_latent", "ref_map", "query_latent"])
def test_cells_without_a_place_are_counted(which: str) -> None:
    given = {"ref_latent": np.eye(4), "ref_map": np.zeros((4, 2)), "query_latent": np.eye(4)}
    given[which][1:3, 0] = np.nan, np.inf
    with pytest.raises(ValueError, match=f"{which} has values .* infinite, in 2 of 4 cells"):
        sx.tl.place_on_map(**given)


@pytest.mark.parametrize("max_cells", [None, 30])
def test_cells_without_a_latent_are_counted(max_cells: int | None) -> None:
    adata = blobs(60)
    adata.obsm["latent"][3:5] = np.nan
    with pytest.raises(ValueError, match=r"adata\.obsm\['latent'\] has .* in 2 of 60 cells. Leave"):
        sx.tl.embed(adata, max_cells=max_cells)
    assert not adata.uns


def test_map_of_a_single_gene_before_integration() -> None:
    adata = AnnData(np.random.default_rng(0).random((30, 1)).astype(np.float32))
    sx.tl.uncorrected_umap(adata)
    assert np.isfinite(adata.obsm["X_umap_uncorrected"]).all()


def test_expression_that_cannot_be_drawn_is_told() -> None:
    adata = AnnData(np.random.default_rng(0).random((30, 3)).astype(np.float32))
    adata.raw = AnnData(adata.X, var=pd.DataFrame(index=["0", "0", "1"]))
    with pytest.raises(ValueError, match=r"names of adata.raw repeat, such as \['0'\]"):
        sx.tl.uncorrected_umap(adata)
    with pytest.raises(ValueError, match="neither X nor `raw`"):
        sx.tl.uncorrected_umap(AnnData(obs=adata.obs))


def test_genes_that_raw_lacks_are_not_replaced_by_others() -> None:
    adata = AnnData(np.random.default_rng(0).random((30, 3)).astype(np.float32))
    adata.raw = adata[:, :2].copy()
    with pytest.raises(ValueError, match="lacks 1 of the 3 genes"):
        sx.tl.uncorrected_umap(adata)
