"""Neighbors, UMAP and clusters beside scanpy's and umap's, for whose import numba compiles long."""

from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from curves import cells_at, curve_of_cells, share_kept
from numpy.testing import assert_allclose
from scipy import sparse
from scipy.sparse.csgraph import connected_components

import scalex_scvi as sx
from scalex_scvi.tl._map import CURVE
from scalex_scvi.tl._map_start import start_of_map
from scalex_scvi.tl._neighbor_graph import neighbor_weights


def neighbors_of(points: np.ndarray, n_neighbors: int) -> tuple[np.ndarray, np.ndarray]:
    """Return distances and rows, each cell itself first."""
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, -1)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :n_neighbors]
    np.fill_diagonal(distances, 0)
    return np.take_along_axis(distances, nearest, axis=1), nearest


@pytest.mark.parametrize("n_neighbors", [2, 3, 15, 40])
@pytest.mark.parametrize("n_equal", [1, 6, 60, 300], ids="{} equal cells".format)
def test_weights_are_those_of_umap(n_neighbors: int, n_equal: int) -> None:
    from umap.umap_ import fuzzy_simplicial_set

    points = curve_of_cells(300)
    points[:n_equal] = points[0]
    if n_equal == 6:
        points[-1] *= 1000  # far from all others
    distances, nearest = neighbors_of(points, n_neighbors)
    umaps, _, _ = fuzzy_simplicial_set(
        sparse.coo_matrix((300, 1)),
        n_neighbors,
        None,
        None,
        knn_indices=nearest,
        knn_dists=distances.astype(np.float32),
    )
    ours = neighbor_weights(distances, nearest)
    assert ours.dtype == umaps.dtype == np.float32
    assert (ours != ours.T).nnz == 0
    assert ours.nnz == umaps.nnz
    assert_allclose(ours.toarray(), umaps.toarray(), atol=2e-4)  # umap's sums are off by 1e-5


@pytest.mark.parametrize("n_neighbors", [2, 15])
@pytest.mark.parametrize("few_pairs", [0, 10**8], ids=["by boxes", "by scikit-learn"])
def test_graph_and_clusters_are_those_of_scanpy(
    n_neighbors: int, few_pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scalex_scvi.tl._nearest.FEW_PAIRS", few_pairs)
    adata, plain = (cells_at(curve_of_cells(400)) for _ in range(2))
    sx.tl.embed(adata, n_neighbors=n_neighbors)
    sc.pp.neighbors(plain, use_rep="latent", n_neighbors=n_neighbors, random_state=124)
    sc.tl.leiden(plain, flavor="igraph", n_iterations=2, directed=False, random_state=124)
    for key, atol in {"distances": 1e-3, "connectivities": 2e-3}.items():
        ours, scanpys = (each.obsp[key] for each in (adata, plain))
        assert type(ours) is type(scanpys)
        assert (np.diff(ours.indptr) == np.diff(scanpys.indptr)).all()
        assert_allclose(ours.toarray(), scanpys.toarray(), atol=atol)
    assert adata.uns["neighbors"] == plain.uns["neighbors"]
    assert adata.obs["leiden"].equals(plain.obs["leiden"])


@pytest.mark.parametrize("few_pairs", [0, 10**8], ids=["by boxes", "by scikit-learn"])
def test_of_more_equal_cells_than_neighbors_each_has_itself_and_equal_ones(
    few_pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scalex_scvi.tl._nearest.FEW_PAIRS", few_pairs)
    points = curve_of_cells(400)
    points[:30] = points[0]
    adata, plain = (cells_at(points) for _ in range(2))
    sx.tl.embed(adata)
    sc.pp.neighbors(plain, use_rep="latent", random_state=124)
    ours, scanpys = (np.sort(each.obsp["distances"].toarray(), axis=1) for each in (adata, plain))
    assert_allclose(ours, scanpys, atol=1e-3)
    assert adata.obsp["distances"].diagonal().max() == 0


@pytest.mark.parametrize("n_cells", [150, 1200], ids=["few cells", "many cells"])
def test_the_map_keeps_as_many_neighbors_as_umap(n_cells: int) -> None:
    points = curve_of_cells(n_cells)
    adata = cells_at(points)
    sx.tl.embed(adata, seed=3)
    plain = adata.copy()
    sc.tl.umap(plain, random_state=3)
    ours, umaps = (each.uns["umap"]["params"] for each in (adata, plain))
    assert ours == pytest.approx(umaps)
    ours, umaps = (each.obsm["X_umap"] for each in (adata, plain))
    assert ours.shape == umaps.shape and ours.dtype == umaps.dtype == np.float32
    assert share_kept(points, ours) > share_kept(points, umaps) - 0.03
    assert 0.5 < np.linalg.norm(ours.std(axis=0)) / np.linalg.norm(umaps.std(axis=0)) < 2


def test_the_curve_is_that_of_umap() -> None:
    from umap.umap_ import find_ab_params

    assert pytest.approx(find_ab_params(1.0, 0.5)) == CURVE


@pytest.mark.parametrize("n_cells", [500, 1200], ids=["few cells", "many cells"])
def test_a_map_starts_where_that_of_umap_does(n_cells: int) -> None:
    from umap.spectral import spectral_layout

    points = curve_of_cells(n_cells)
    adata = cells_at(points)
    sc.pp.neighbors(adata, use_rep="latent")
    graph = adata.obsp["connectivities"].tocsr()
    assert connected_components(graph)[0] == 1
    ours = start_of_map(points, graph, 0)
    umaps = spectral_layout(points, graph, 2, np.random.RandomState(0))
    for own, expected in zip(ours.T, umaps.T, strict=True):
        assert abs(np.corrcoef(own, expected)[0, 1]) > 0.99


def test_a_sparse_representation_has_a_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose neighbors scanpy finds."""
    monkeypatch.setattr("scalex_scvi.tl._map_start.FEW_CELLS", 200)
    points = curve_of_cells(250)
    adata = AnnData(obsm={"latent": sparse.csr_matrix(points.astype(np.float32))})
    sx.tl.embed(adata)
    assert share_kept(points, adata.obsm["X_umap"]) > 0.2
