"""Neighbor scores against a plain loop."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scalex_scvi.metrics import expected_same_batch_share, knn_purity, same_batch_share


def plain_share(points: np.ndarray, groups: np.ndarray, k: int) -> float:
    shares = []
    for i in range(len(points)):
        distance = np.linalg.norm(points - points[i], axis=1)
        distance[i] = np.inf
        nearest = np.argsort(distance)[:k]
        shares.append((groups[nearest] == groups[i]).mean())
    return float(np.mean(shares))


@pytest.mark.parametrize("score", [same_batch_share, knn_purity])
def test_equals_a_plain_loop(score: object) -> None:
    rng = np.random.default_rng(0)
    groups = rng.choice(["a", "b", "c"], size=80)
    points = rng.normal(size=(80, 3)) + (groups == "a")[:, None]
    assert score(points, groups, n_neighbors=9) == pytest.approx(plain_share(points, groups, 9))


def test_extremes() -> None:
    apart = np.repeat([0.0, 100.0], 40)[:, None] + np.arange(80)[:, None] * 1e-3
    batch = np.repeat(["a", "b"], 40)
    assert same_batch_share(apart, batch) == 1
    mixed = np.random.default_rng(0).normal(size=(400, 2))
    expected = expected_same_batch_share(np.arange(400) % 2)
    assert expected == 0.5
    assert same_batch_share(mixed, np.arange(400) % 2) == pytest.approx(expected, abs=0.03)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="3 cells and 2 labels"):
        knn_purity(np.zeros((3, 2)), ["a", "b"])


@pytest.mark.parametrize("score", [same_batch_share, knn_purity])
def test_missing_groups_are_not_one_group(score: object) -> None:
    with pytest.raises(ValueError, match="missing for 2 of 4 cells"):
        score(np.arange(4.0)[:, None], ["a", None, np.nan, "a"])


def test_groups_are_one_column() -> None:
    points, obs = np.arange(8.0).reshape(4, 2), pd.DataFrame({"batch": list("abab")})
    for score in (
        same_batch_share,
        knn_purity,
        lambda _, groups: expected_same_batch_share(groups),
    ):
        with pytest.raises(ValueError, match=r"must be one column, .* its shape is \(4, 1\)"):
            score(points, obs[["batch"]])
        with pytest.raises(ValueError, match=r"must be one column, .* its shape is \(\)"):
            score(points, "batch")


@pytest.mark.parametrize("score", [same_batch_share, knn_purity])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_values_are_finite(score: object, form: type) -> None:
    with pytest.raises(ValueError, match="representation (has|holds) values that are NaN"):
        score(form([[0.0, 1], [np.nan, 1], [2, 1]]), ["a", "b", "a"])


def test_missing_batches_are_not_expected() -> None:
    assert expected_same_batch_share(["a", None, "b", np.nan]) == 0.5
