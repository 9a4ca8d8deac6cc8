"""The silhouette against its definition."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.spatial.distance import cdist

from scalex_scvi.metrics import silhouette_score


def plain_score(distance: np.ndarray, labels: np.ndarray) -> float:
    scores = []
    for i, own in enumerate(labels):
        others = [j for j in range(len(labels)) if j != i]
        means = {
            name: np.mean([distance[i, j] for j in others if labels[j] == name])
            for name in set(labels)
        }
        a, b = means.pop(own), min(means.values())
        scores.append((b - a) / max(a, b))
    return float(np.mean(scores))


@pytest.fixture
def example() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    codes = np.arange(60) % 3
    return rng.normal(size=(60, 2)) + 2 * codes[:, None], np.array(["a", "b", "c"])[codes]


@pytest.mark.parametrize("metric", ["euclidean", "cityblock", "cosine"])
def test_equals_its_definition(example: tuple, metric: str) -> None:
    points, labels = example
    distance = cdist(points, points, metric)
    expected = plain_score(distance, labels)
    assert silhouette_score(points, labels, metric=metric) == pytest.approx(expected)
    assert silhouette_score(distance, labels, metric="precomputed") == pytest.approx(expected)


def test_options_of_the_distance_are_passed_on(example: tuple) -> None:
    points, labels = example
    expected = silhouette_score(points, labels, metric="cityblock")
    assert silhouette_score(points, labels, metric="minkowski", p=1) == pytest.approx(expected)


def test_samples_are_seeded(example: tuple) -> None:
    scores = {
        seed: silhouette_score(*example, sample_size=30, random_state=seed)
        for seed in (None, 124, 1)
    }
    assert scores[None] == scores[124] != scores[1]
    state = np.random.RandomState(1)
    assert silhouette_score(*example, sample_size=30, random_state=state) == scores[1]


def test_anndata_and_arrays_agree(example: tuple) -> None:
    points, labels = example
    names = [f"cell{i}" for i in range(60)]
    obs = pd.DataFrame({"celltype": pd.Categorical(labels), "type": labels}, index=names)
    adata = AnnData(X=points + 1, obs=obs, obsm={"latent": points, "X_umap": points[:, :1]})
    expected = silhouette_score(points, labels)
    assert isinstance(expected, float)
    assert silhouette_score(adata) == expected
    assert silhouette_score(adata, "type") == expected
    assert silhouette_score(adata, labels_key="type", use_rep="X_umap") == pytest.approx(
        silhouette_score(points[:, :1], labels)
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"] * 60, "Number of labels is 1"),
        (["a", np.nan] * 30, "missing for 30 of 60 cells"),
        (["a", "b"], r"shape \(2,\); with 60 cells"),
        (None, "`labels` is None; with an array, give the label of each cell"),
    ],
    ids=["one label", "missing", "length", "none"],
)
def test_refuses(example: tuple, labels: list | None, message: str) -> None:
    if labels is not None:
        labels = np.array(labels, dtype=object)
    with pytest.raises(ValueError, match=message):
        silhouette_score(example[0], labels)


def test_absent_keys(example: tuple) -> None:
    obs = pd.DataFrame({"type": example[1]}, index=[f"cell{i}" for i in range(60)])
    adata = AnnData(obs=obs, obsm={"latent": example[0]})
    with pytest.raises(KeyError, match="`labels_key` 'celltype' is not a column"):
        silhouette_score(adata)
    with pytest.raises(KeyError, match="`use_rep` 'X_pca' is not in adata.obsm"):
        silhouette_score(adata, "type", use_rep="X_pca")
