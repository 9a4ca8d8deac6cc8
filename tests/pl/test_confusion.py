"""The confusion heat map and its scores."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from sklearn import metrics

import scalex_scvi as sx


@pytest.fixture
def labels() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    true = rng.choice(["B", "NK", "T", "rare"], size=400, p=[0.4, 0.3, 0.28, 0.02])
    predicted = np.where(rng.random(400) < 0.3, rng.permutation(true), true)
    return true, predicted


def draw(*args: object) -> tuple[tuple[float, float, float], pd.DataFrame]:
    figure, axis = plt.subplots()
    scores = sx.pl.confusion(*args, ax=axis, show=False)
    mesh = axis.collections[0]
    n_rows, n_columns, _ = mesh.get_coordinates().shape
    plt.close(figure)
    return scores, pd.DataFrame(
        np.asarray(mesh.get_array()).reshape(n_rows - 1, n_columns - 1),
        index=[t.get_text() for t in axis.get_yticklabels()],
        columns=[t.get_text() for t in axis.get_xticklabels()],
    )


def test_scores_are_those_of_sklearn(labels: tuple) -> None:
    scores = sx.pl.confusion(*labels, show=False)
    assert scores == pytest.approx(
        (
            metrics.f1_score(*labels, average="macro"),
            metrics.normalized_mutual_info_score(*labels),
            metrics.adjusted_rand_score(*labels),
        )
    )


def test_values_are_shares_of_the_rows(labels: tuple) -> None:
    _, table = draw(*labels)
    np.testing.assert_allclose(table, metrics.confusion_matrix(*labels, normalize="true"))
    assert list(table.index) == list(table.columns) == ["B", "NK", "T", "rare"]


def test_clusters_are_matched_before_f1(labels: tuple) -> None:
    true, predicted = labels
    clusters = pd.Series(predicted).map({"B": "2", "NK": "0", "T": "3", "rare": "1"})
    scores, table = draw(true, clusters)
    assert scores == pytest.approx(sx.pl.confusion(true, predicted, show=False))
    assert list(table.columns) == ["2", "0", "3", "1"]


def test_clusters_left_over_come_last_and_are_wrong(labels: tuple) -> None:
    true, _ = labels
    clusters = pd.Series(true).map({"B": "0", "NK": "1", "T": "2", "rare": "3"})
    clusters[np.flatnonzero(true == "NK")[:10]] = "4"
    scores, table = draw(true, clusters)
    assert list(table.columns) == ["0", "1", "2", "3", "4"]
    n = (true == "NK").sum()
    f1 = 2 * (n - 10) / (2 * (n - 10) + 10)
    assert scores[0] == pytest.approx((3 + f1) / 4)


def test_true_labels_left_over_come_last_with_f1_of_zero(labels: tuple) -> None:
    true, _ = labels
    scores, table = draw(true, np.where(true == "B", "cluster", np.where(true == "T", "c2", "c3")))
    assert list(table.index)[-1] == "rare"
    assert list(table.columns) == ["cluster", "c3", "c2"]
    n_nk, n_rare = (true == "NK").sum(), (true == "rare").sum()
    assert scores[0] == pytest.approx((2 + 2 * n_nk / (2 * n_nk + n_rare)) / 4)


def test_predicted_names_that_are_no_true_labels(labels: tuple) -> None:
    true, predicted = labels
    predicted = np.where(predicted == "T", "unknown", predicted)
    scores, table = draw(true, predicted)
    assert list(table.columns) == ["B", "NK", "rare", "unknown"]
    assert list(table.index) == ["B", "NK", "rare", "T"]
    expected = metrics.f1_score(
        true, predicted, labels=np.unique(true), average="macro", zero_division=0
    )
    assert scores[0] == pytest.approx(expected)


def test_order_of_categories_is_kept(labels: tuple) -> None:
    true, predicted = labels
    order = ["rare", "T", "B", "NK"]
    _, table = draw(pd.Categorical(true, [*order, "unused"]), predicted)
    assert list(table.index) == list(table.columns) == order


def test_numbers_and_text_are_the_same_names() -> None:
    y = [0, 1, 2, 0, 10]
    assert sx.pl.confusion(y, ["0", "1", "2", "0", "10"], show=False) == (1, 1, 1)


@pytest.mark.parametrize(
    ("y", "y_pred", "match"),
    [
        (["a", None], ["a", "b"], "`y` is missing for 1 of 2"),
        (["a", "b"], [np.nan, "b"], "`y_pred` is missing for 1 of 2"),
        (["a", "b"], ["a"], "`y` has 2 cells and `y_pred` 1"),
        ([], [], "0 cells"),
        (pd.DataFrame({"a": ["x"]}), ["x"], "`y` must be one column of labels"),
        (
            pd.Series(["a", "b"], index=["c1", "c2"]),
            pd.Series(["a", "b"], index=["c2", "c1"]),
            "different order",
        ),
    ],
)
def test_mistakes(y: object, y_pred: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        sx.pl.confusion(y, y_pred, show=False)
