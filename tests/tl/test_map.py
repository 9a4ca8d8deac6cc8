"""Neighbors and UMAP: what scanpy computes, in less time."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from curves import cells_at, curve_of_cells, near, share_kept
from scipy import sparse
from scipy.sparse.csgraph import connected_components

import scalex_scvi as sx
from scalex_scvi.tl import _layout, _map
from scalex_scvi.tl._neighbors import add_neighbors


@pytest.fixture
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that tests of many cells need 200."""
    monkeypatch.setattr("scalex_scvi.tl._map_start.FEW_CELLS", 200)


def test_no_further_step_of_a_map_is_taken_once_something_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Steps are taken while clusters are found: else an interrupt would wait for all of them."""
    adata = cells_at(curve_of_cells(300))
    add_neighbors(adata, use_rep="latent", n_neighbors=15, random_state=0)
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
@pytest.mark.parametrize("n_different", [1, 2])
def test_dimensions_that_say_the_same_are_no_obstacle(n_different: int) -> None:
    points = curve_of_cells(300, 3)[:, [0, n_different - 1, 0, 0]]
    adata = cells_at(np.column_stack([points, np.ones(300)]))
    sx.tl.embed(adata)
    assert np.isfinite(adata.obsm["X_umap"]).all()
    assert share_kept(points, adata.obsm["X_umap"]) > 0.2
