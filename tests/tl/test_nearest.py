"""The nearest cells of many are those that comparing all with all finds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.neighbors import NearestNeighbors

import scalex_scvi as sx
from scalex_scvi.tl._nearest import nearest_among, nearest_in_blocks
from scalex_scvi.tl._nearest_of_many import NearestOfMany


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of cells is many."""
    monkeypatch.setattr("scalex_scvi.tl._nearest.FEW_PAIRS", 0)


def groups(n_cells: int, n_dimensions: int, seed: int) -> np.ndarray:
    """Clouds of different widths, far from zero, one of them of equal cells."""
    rng = np.random.default_rng(seed)
    group = rng.integers(4, size=n_cells)
    centers = 5 * np.random.default_rng(0).normal(size=(4, n_dimensions))
    noise = rng.normal(size=(n_cells, n_dimensions)) * np.array([0.1, 1, 3, 0])[group, None]
    return 1000 + centers[group] + noise


@pytest.mark.parametrize(
    ("n_reference", "n_cells", "n_dimensions", "n_neighbors"),
    [
        (3000, 500, 10, 15),
        (256, 65, 5, 1),
        (257, 64, 4, 3),  # one cell in the second box
        (700, 200, 23, 40),
        (600, 300, 1, 7),
        (20, 1, 10, 20),  # all of them
        (1, 3, 2, 1),
    ],
)
def test_all_nearest_cells_are_found(
    n_reference: int, n_cells: int, n_dimensions: int, n_neighbors: int
) -> None:
    reference = groups(n_reference, n_dimensions, 1)
    cells = np.concatenate([groups(n_cells, n_dimensions, 2)[1:], reference[:1]])
    exact = NearestNeighbors(n_neighbors=n_neighbors, algorithm="kd_tree").fit(reference)
    wanted = exact.kneighbors(cells)[0]
    distances, nearest = NearestOfMany(reference, n_neighbors).find(cells)
    assert_allclose(distances, wanted, rtol=1e-4, atol=1e-4)
    assert_array_equal(distances, np.sort(distances, axis=1))
    # Of equally near ones either may be found: what is found is as near, and found once.
    own = np.linalg.norm(reference[nearest] - cells[:, None], axis=2)
    assert_allclose(own, distances, rtol=1e-4, atol=1e-4)
    assert all(len(set(row)) == n_neighbors for row in nearest)


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalex_scvi.tl._nearest_of_many.ROWS", 64)
    cells = groups(1000, 10, 1)
    found = {}
    for n_threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n_threads: n)
        found[n_threads] = NearestOfMany(cells, 15).find(cells)
    for one, three in zip(found[1], found[3], strict=True):
        assert_array_equal(one, three)


def test_few_and_many_cells_have_the_same_neighbors(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = np.random.default_rng(0).normal(size=(500, 10))
    by_scikit_learn = nearest_among(cells, 15)
    monkeypatch.setattr("scalex_scvi.tl._nearest.FEW_PAIRS", 500 * 500 - 1)
    monkeypatch.setattr("scalex_scvi.tl._nearest.BLOCK", 128)
    by_boxes = nearest_among(cells, 15)
    assert_allclose(by_boxes[0], by_scikit_learn[0], atol=1e-5)
    assert_array_equal(by_boxes[1], by_scikit_learn[1])


@pytest.mark.parametrize("is_many", [False, True])
def test_what_cannot_be_compared_is_refused(is_many: bool, request: pytest.FixtureRequest) -> None:
    if is_many:
        request.getfixturevalue("many")
    cells = np.zeros((20, 10))
    with pytest.raises(ValueError, match="9 dimensions, those of the reference 10"):
        next(nearest_in_blocks(cells, cells[:, :9], 3))
    with pytest.raises(ValueError, match="contains NaN"):
        next(nearest_in_blocks(cells, np.full_like(cells, np.nan), 3))


@pytest.mark.usefixtures("many")
def test_many_cells_are_clustered_and_placed_by_their_groups() -> None:
    rng = np.random.default_rng(0)
    group = rng.integers(3, size=900)
    latent = (rng.normal(size=(900, 10)) + 30 * np.eye(10)[group]).astype(np.float32)
    adata = AnnData(obsm={"latent": latent})
    sx.tl.embed(adata, max_cells=400)
    of_group = pd.crosstab(adata.obs["leiden"], group)
    assert ((of_group > 0).sum(axis=1) == 1).all()
    own_map = 100 * np.eye(3)[group][:, :2] + latent[:, :2]
    placed = sx.tl.place_on_map(latent, own_map, latent + np.float32(1e-3))
    assert np.linalg.norm(placed - own_map, axis=1).max() < 1
    assert_allclose(sx.tl.place_on_map(latent, own_map, latent[:5]), own_map[:5], atol=1e-4)
