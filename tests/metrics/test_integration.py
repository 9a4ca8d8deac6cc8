"""The scores of an integration, together."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

import scalex_scvi as sx


@pytest.fixture
def integrated(counts: AnnData) -> AnnData:
    counts.obsm["latent"] = np.random.default_rng(0).normal(size=(150, 4))
    return counts


def test_each_is_the_function_of_its_name(integrated: AnnData) -> None:
    scores = sx.metrics.integration_scores(integrated, seed=1)
    points, batch = integrated.obsm["latent"], integrated.obs["batch"]
    labels = integrated.obs["celltype"]
    assert scores == pytest.approx(
        {
            "batch_entropy_mixing_score": sx.metrics.batch_entropy_mixing_score(
                points, batch, seed=1
            ),
            "same_batch_share": sx.metrics.same_batch_share(points, batch),
            "expected_same_batch_share": sx.metrics.expected_same_batch_share(batch),
            "silhouette_score": sx.metrics.silhouette_score(points, labels),
            "knn_purity": sx.metrics.knn_purity(points, labels),
        }
    )


def test_the_matrix_itself_may_be_sparse(integrated: AnnData) -> None:
    dense = integrated.copy()
    dense.X = dense.X.toarray()
    found = sx.metrics.integration_scores(integrated, "X", seed=1)
    assert found == pytest.approx(sx.metrics.integration_scores(dense, "X", seed=1), abs=1e-3)


def test_cells_without_a_type_count_for_mixing_only(integrated: AnnData) -> None:
    whole = sx.metrics.integration_scores(integrated)
    labeled = np.arange(150) < 100
    integrated.obs["celltype"] = integrated.obs["celltype"].where(labeled)
    scores = sx.metrics.integration_scores(integrated)
    assert scores["same_batch_share"] == whole["same_batch_share"]
    part = integrated[labeled]
    assert scores["knn_purity"] == sx.metrics.knn_purity(part.obsm["latent"], part.obs["celltype"])


def test_scores_that_are_not_defined_are_left_out(integrated: AnnData) -> None:
    integrated.obs["batch"] = "one"
    assert set(sx.metrics.integration_scores(integrated)) == {"silhouette_score", "knn_purity"}
    assert sx.metrics.integration_scores(integrated, labels_key=None) == {}


def test_types_of_one_cell_each_have_no_silhouette(integrated: AnnData) -> None:
    integrated.obs["celltype"] = integrated.obs_names
    scores = sx.metrics.integration_scores(integrated)
    assert "silhouette_score" not in scores
    assert scores["knn_purity"] == 0


@pytest.mark.parametrize(
    "wrong", [{"use_rep": "pca"}, {"batch_key": "donor"}, {"labels_key": "type"}], ids=str
)
def test_absent_keys(integrated: AnnData, wrong: dict[str, str]) -> None:
    with pytest.raises(KeyError, match=next(iter(wrong.values()))):
        sx.metrics.integration_scores(integrated, **wrong)
