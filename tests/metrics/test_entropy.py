"""Mixing of batches against a plain loop and against the published function."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scalex_scvi.metrics import batch_entropy_mixing_score

MANY = {"n_pools": 1000, "n_samples_per_pool": 200}
"""So many draws that the mean over them is that over all cells to 2e-3."""


def plain_score(points: np.ndarray, batches: np.ndarray, k: int) -> float:
    """The documented algorithm for every cell instead of chosen ones."""
    names = sorted(set(batches))
    overall = {name: sum(b == name for b in batches) / len(batches) for name in names}
    entropies = []
    for i in range(len(points)):
        distance = np.linalg.norm(points - points[i], axis=1)
        distance[i] = np.inf
        region = [batches[j] for j in np.argsort(distance)[:k]]
        corrected = [region.count(name) / overall[name] for name in names]
        shares = [value / sum(corrected) for value in corrected]
        entropies.append(-sum(p * math.log(p) for p in shares if p > 0))
    return float(np.mean(entropies)) / math.log(len(names))


def example(n_batches: int = 3, n_cells: int = 90, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Batches of unequal sizes that overlap in part."""
    rng = np.random.default_rng(seed)
    shares = np.arange(1, n_batches + 1) / np.arange(1, n_batches + 1).sum()
    codes = rng.choice(n_batches, size=n_cells, p=shares)
    points = rng.normal(size=(n_cells, 4)) + 1.5 * codes[:, None]
    return points, np.array([f"batch{code}" for code in codes])


def named(obs: pd.DataFrame) -> pd.DataFrame:
    return obs.set_index(pd.Index([f"cell{i}" for i in range(len(obs))]))


@pytest.mark.parametrize("n_batches", [2, 3, 5])
@pytest.mark.parametrize("k", [1, 15, 1000], ids=["one", "some", "more than there are"])
def test_equals_a_plain_loop(n_batches: int, k: int) -> None:
    points, batches = example(n_batches)
    found = batch_entropy_mixing_score(points, batches, n_neighbors=k, **MANY)
    assert found == pytest.approx(plain_score(points, batches, k), abs=2e-3)


def test_extremes() -> None:
    rng = np.random.default_rng(0)
    batches = np.arange(2000) % 2
    mixed = rng.normal(size=(2000, 2))
    assert batch_entropy_mixing_score(mixed, batches) > 0.98
    assert batch_entropy_mixing_score(mixed + 100 * batches[:, None], batches) == 0


def test_a_large_batch_does_not_score_by_its_size() -> None:
    rng = np.random.default_rng(0)
    batches = rng.choice(["large", "small"], size=3000, p=[0.9, 0.1])
    assert batch_entropy_mixing_score(rng.normal(size=(3000, 2)), batches) > 0.9


def test_a_cell_is_not_its_own_neighbor_among_duplicates() -> None:
    # Places of an a and two b. Around the a are two b: entropy 0. Around a b are an a and a b; a is
    # half as frequent overall, so they count 2 : 1. With the cell itself the score would be 1.
    points = np.repeat(np.arange(30.0), 3)[:, None]
    batches = np.tile(["a", "b", "b"], 30)
    entropy = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))
    found = batch_entropy_mixing_score(points, batches, n_neighbors=2, **MANY)
    assert found == pytest.approx(2 / 3 * entropy, abs=3e-3)


def test_more_duplicates_than_neighbors() -> None:
    points, batches = np.zeros((50, 2)), np.tile(["a", "b"], 25)
    assert 0 < batch_entropy_mixing_score(points, batches, n_neighbors=10) <= 1


def test_published_scale_tops_at_ln_2() -> None:
    points, batches = example(4)
    unit = batch_entropy_mixing_score(points, batches)
    published = batch_entropy_mixing_score(points, batches, scale="published")
    assert published == pytest.approx(unit * math.log(2))


def test_equals_the_published_function(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = pytest.importorskip("scalex.metrics", reason="needs the extra 'peers'")
    monkeypatch.setattr(np.random, "choice", np.random.default_rng(0).choice)
    points, batches = example(3, n_cells=600)
    found = batch_entropy_mixing_score(points, batches, scale="published")
    expected = peer.batch_entropy_mixing_score(points, batches, n_pools=20)
    # Means over 10 000 and over 2 000 draws.
    assert found == pytest.approx(expected, abs=0.01)


def test_seeds() -> None:
    points, batches = example(n_cells=300)

    def score(seed: int | None) -> float:
        few = {"n_neighbors": 10, "n_pools": 3, "n_samples_per_pool": 20}
        return batch_entropy_mixing_score(points, batches, seed=seed, **few)

    assert score(None) == pytest.approx(score(124), abs=1e-6)
    assert score(1) == pytest.approx(score(1), abs=1e-6)
    assert abs(score(1) - score(2)) > 1e-4


def test_anndata_and_arrays_agree_and_nothing_is_changed() -> None:
    points, batches = example()
    adata = AnnData(
        X=points + 1,
        obs=named(pd.DataFrame({"batch": pd.Categorical(batches), "donor": batches})),
        obsm={"latent": points, "X_umap": points[:, :2]},
    )
    before = adata.copy()
    expected = batch_entropy_mixing_score(points, batches)
    assert isinstance(expected, float)
    assert batch_entropy_mixing_score(adata) == pytest.approx(expected, abs=1e-6)
    assert batch_entropy_mixing_score(adata, "donor") == pytest.approx(expected, abs=1e-6)
    assert batch_entropy_mixing_score(adata, list(batches)) == pytest.approx(expected, abs=1e-6)
    umap = batch_entropy_mixing_score(adata, batch_key="donor", use_rep="X_umap")
    assert umap == pytest.approx(batch_entropy_mixing_score(points[:, :2], batches), abs=1e-6)
    assert list(adata.obs) == list(before.obs) and list(adata.obsm) == list(before.obsm)
    assert not adata.uns and not adata.obsp
    np.testing.assert_array_equal(adata.obsm["latent"], points)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"batches": ["a"] * 90}, ValueError, "All cells are of the batch 'a'"),
        ({"batches": ["a", None] * 45}, ValueError, "missing for 45 of 90 cells"),
        ({"batches": ["a", "b"]}, ValueError, r"shape \(2,\); with 90 cells it must be \(90,\)"),
        ({"batches": None}, ValueError, "`batches` is None; with an array"),
        ({"batches": "batch"}, ValueError, "`batches` is 'batch'; with an array"),
        ({"data": np.full((90, 2), np.nan)}, ValueError, "are NaN or infinite"),
        ({"data": np.zeros(90)}, ValueError, "Expected 2D array"),
        ({"n_neighbors": 0}, ValueError, "`n_neighbors` must be a whole number of at least 1"),
        ({"n_pools": 0}, ValueError, "`n_pools` must be .* at least 1, got 0"),
        ({"n_samples_per_pool": -1}, ValueError, "`n_samples_per_pool` must be .*, got -1"),
        ({"scale": "log2"}, ValueError, "`scale` is 'log2'; it must be one of"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_refuses(change: dict, error: type, message: str) -> None:
    points, batches = example()
    with pytest.raises(error, match=message):
        batch_entropy_mixing_score(**({"data": points, "batches": batches} | change))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_key": "donor"}, KeyError, "`batch_key` 'donor' is not a column of adata.obs"),
        ({"batches": "donor"}, KeyError, "`batches` 'donor' is not a column of adata.obs"),
        ({"use_rep": "X_tsne"}, KeyError, "`use_rep` 'X_tsne' is not in adata.obsm"),
        ({}, ValueError, r"adata.obs\['batch'\] is missing for 1 of 90 cells"),
    ],
)
def test_refuses_an_anndata(options: dict, error: type, message: str) -> None:
    points, batches = example()
    obs = named(pd.DataFrame({"batch": pd.Categorical([None, *batches[1:]])}))
    with pytest.raises(error, match=message):
        batch_entropy_mixing_score(AnnData(obs=obs, obsm={"latent": points}), **options)
