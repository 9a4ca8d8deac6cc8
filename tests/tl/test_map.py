"""Neighbors and UMAP: what scanpy computes, in less time."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import NearestNeighbors

import scalex_scvi as sx
from scalex_scvi.tl import _layout, _map


@pytest.fixture
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that tests of many cells need 200."""
    for module in ("_neighbors", "_map"):
        monkeypatch.setattr(f"scalex_scvi.tl.{module}.MANY_CELLS", 200)


def cells_at(points: np.ndarray) -> AnnData:
    return AnnData(obsm={"latent": points.astype(np.float32)})


def curve_of_cells(n_cells: int, n_dimensions: int = 6) -> np.ndarray:
    """Cells along a bent line, as of a differentiation, in many dimensions."""
    rng = np.random.default_rng(0)
    along = np.sort(rng.random(n_cells))
    bends = np.stack([np.cos(k * along) for k in range(1, n_dimensions + 1)], axis=1)
    return 20 * bends + rng.normal(scale=0.3, size=(n_cells, n_dimensions))


def near(points: np.ndarray) -> np.ndarray:
    return NearestNeighbors(n_neighbors=15).fit(points).kneighbors(return_distance=False)


def share_kept(latent: np.ndarray, on_map: np.ndarray) -> float:
    """Share of the 15 nearest cells that are among the 15 nearest on the map."""
    return float((near(latent)[:, :, None] == near(on_map)[:, None, :]).any(axis=2).mean())


@pytest.mark.usefixtures("few_are_many")
@pytest.mark.parametrize("n_neighbors", [2, 15])
def test_the_graph_of_many_cells_is_that_of_few(n_neighbors: int) -> None:
    """All are compared with all, as scanpy compares few: the same graph."""
    points = curve_of_cells(400)

    adata, plain = cells_at(points), cells_at(points)
    sx.tl.embed(adata, n_neighbors=n_neighbors)
    sc.pp.neighbors(plain, use_rep="latent", n_neighbors=n_neighbors, random_state=124)
    for key in ("distances", "connectivities"):
        there = [each.obsp[key].toarray() for each in (adata, plain)]
        np.testing.assert_allclose(*there, atol=2e-3)
    assert adata.uns["neighbors"] == plain.uns["neighbors"]


@pytest.mark.usefixtures("few_are_many")
@pytest.mark.parametrize("n_cells", [150, 600], ids=["few cells", "many cells"])
def test_the_map_keeps_as_many_neighbors_as_umap(n_cells: int) -> None:
    points = curve_of_cells(n_cells)
    adata = cells_at(points)
    sx.tl.embed(adata, seed=3)
    plain = adata.copy()
    sc.tl.umap(plain, random_state=3)
    assert adata.uns["umap"] == plain.uns["umap"]
    ours, umaps = (each.obsm["X_umap"] for each in (adata, plain))
    assert ours.shape == umaps.shape and ours.dtype == umaps.dtype == np.float32
    assert share_kept(points, ours) > share_kept(points, umaps) - 0.03
    assert 0.5 < np.linalg.norm(ours.std(axis=0)) / np.linalg.norm(umaps.std(axis=0)) < 2


def test_no_further_step_of_a_map_is_taken_once_something_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Steps are taken while clusters are found: else an interrupt would wait for all of them."""
    adata = cells_at(curve_of_cells(300))
    sc.pp.neighbors(adata, use_rep="latent")
    told = []

    def lay_out(graph: sparse.csr_matrix, start: np.ndarray, stop: np.ndarray, **_: Any) -> None:
        for _ in range(1000):
            if not stop[0]:
                time.sleep(0.01)
        told.append(bool(stop[0]))

    def fail() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_layout, "lay_out", lay_out)
    with pytest.raises(KeyboardInterrupt):
        _map.add_map(adata, use_rep="latent", random_state=0, meanwhile=fail)
    assert told == [True]
    assert "X_umap" not in adata.obsm
    monkeypatch.undo()
    start = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    graph = adata.obsp["connectivities"]
    how: dict[str, Any] = {"curve": (0.6, 1.3), "epochs": 10, "seed": 0}
    stopped = _layout.lay_out(graph, start, stop=np.ones(1, dtype=bool), **how)
    np.testing.assert_array_equal(stopped, start)


@pytest.mark.usefixtures("few_are_many")
def test_a_map_of_many_cells_repeats_and_follows_the_seed() -> None:
    first, second, other = (cells_at(curve_of_cells(300)) for _ in range(3))
    for adata, seed in ((first, 0), (second, 0), (other, 1)):
        sx.tl.embed(adata, seed=seed)
    np.testing.assert_array_equal(first.obsm["X_umap"], second.obsm["X_umap"])
    assert first.obs["leiden"].equals(second.obs["leiden"])
    assert not np.array_equal(first.obsm["X_umap"], other.obsm["X_umap"])
    assert "random_state" not in first.uns["umap"]["params"]  # as scanpy leaves out 0


def test_the_start_of_a_map_is_the_spectral_one() -> None:
    from umap.spectral import spectral_layout  # slow to import

    points = curve_of_cells(500)
    adata = cells_at(points)
    sc.pp.neighbors(adata, use_rep="latent")
    graph = adata.obsp["connectivities"].tocsr()
    assert connected_components(graph)[0] == 1
    ours = _map._spectral(points, graph, 0)
    umaps = spectral_layout(points, graph, 2, np.random.RandomState(0))
    for own, expected in zip(ours.T, umaps.T, strict=True):
        assert abs(np.corrcoef(own, expected)[0, 1]) > 0.99


@pytest.mark.usefixtures("few_are_many")
@pytest.mark.parametrize("n_apart", [20, 150], ids=["a few", "a third"])
@pytest.mark.parametrize("n_dimensions", [2, 6])
def test_cells_that_nothing_connects_with_the_rest_lie_apart(
    n_apart: int, n_dimensions: int
) -> None:
    points = curve_of_cells(450, n_dimensions)
    group = np.arange(450) < n_apart
    points[group] = points[group].mean(axis=0) + 300 + (points[group] - points[group].mean(axis=0))
    adata = cells_at(points)
    sx.tl.embed(adata)
    assert connected_components(adata.obsp["connectivities"])[0] > 1
    on_map = adata.obsm["X_umap"]
    assert np.isfinite(on_map).all()
    assert (group[near(on_map)] == group[:, None]).mean() > 0.95


@pytest.mark.usefixtures("few_are_many")
def test_a_sparse_representation_has_a_map() -> None:
    points = curve_of_cells(250)
    adata = AnnData(obsm={"latent": sparse.csr_matrix(points.astype(np.float32))})
    sx.tl.embed(adata)
    assert share_kept(points, adata.obsm["X_umap"]) > 0.2


@pytest.mark.usefixtures("few_are_many")
@pytest.mark.parametrize("n_different", [1, 2])
def test_dimensions_that_say_the_same_are_no_obstacle(n_different: int) -> None:
    points = curve_of_cells(300, 3)[:, [0, n_different - 1, 0, 0]]
    adata = cells_at(np.column_stack([points, np.ones(300)]))
    sx.tl.embed(adata)
    assert np.isfinite(adata.obsm["X_umap"]).all()
    assert share_kept(points, adata.obsm["X_umap"]) > 0.2
