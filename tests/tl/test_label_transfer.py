"""label_transfer: the majority of the neighbours."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scalex_scvi as sx


def cells(points: list[float], labels: list[str] | None = None) -> AnnData:
    obs = pd.DataFrame(index=[f"c{i}" for i in range(len(points))])
    if labels is not None:
        obs["celltype"] = pd.Categorical(labels, categories=["a", "b", "unused"])
    return AnnData(obs=obs, obsm={"latent": np.array(points, dtype=float)[:, None]})


@pytest.fixture
def ref() -> AnnData:
    return cells([0, 0.1, 0.2, 5, 5.1, 5.2], ["a", "a", "a", "b", "b", "b"])


def test_majority_of_the_neighbours(ref: AnnData) -> None:
    query = cells([0.05, 5.05])
    labels, proba = sx.label_transfer(ref, query, n_neighbors=4, return_proba=True)
    assert list(labels) == ["a", "b"]
    assert list(labels.cat.categories) == ["a", "b"]
    np.testing.assert_allclose(proba, [[0.75, 0.25], [0.25, 0.75]])
    assert list(proba.columns) == ["a", "b"]
    query.obs["celltype_transfer"] = labels  # as in the published documentation
    assert query.obs["celltype_transfer"].notna().all()


def test_more_neighbours_than_reference_cells(ref: AnnData) -> None:
    assert len(sx.label_transfer(ref, cells([0.0]), n_neighbors=50)) == 1


def test_is_the_tool_of_the_same_name() -> None:
    assert sx.label_transfer is sx.tl.label_transfer


def _without_labels(ref: AnnData) -> None:
    ref.obs.loc["c0", "celltype"] = None


def _wider(ref: AnnData) -> None:
    ref.obsm["latent"] = np.zeros((6, 2))


BAD = {
    "missing labels": (_without_labels, {}, ValueError, "missing for 1 of 6 cells"),
    "no label": (lambda ref: None, {"label": "type"}, KeyError, "'type' is not a column"),
    "no representation": (lambda ref: None, {"rep": "X_pca"}, KeyError, "not in ref.obsm"),
    "other space": (_wider, {}, ValueError, "2 dimensions in `ref` and 1 in `query`"),
}


@pytest.mark.parametrize(("spoil", "kwargs", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(
    ref: AnnData,
    spoil: object,
    kwargs: dict[str, str],
    error: type[Exception],
    message: str,
) -> None:
    spoil(ref)
    with pytest.raises(error, match=message):
        sx.label_transfer(ref, cells([0.0]), **kwargs)
