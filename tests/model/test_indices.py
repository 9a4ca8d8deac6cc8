"""Methods of the model that take ``indices`` take the same ones, and refuse others in words."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from conftest import simulate_counts
from scipy import stats

import scalex_scvi as sx


@pytest.fixture(scope="module")
def of_counts() -> sx.SCALEXModel:
    """Of a training of two minibatches: what is decoded does not matter, only of which cells."""
    adata = simulate_counts()
    sx.SCALEXModel.setup_anndata(adata, batch_key="batch")
    model = sx.SCALEXModel(adata, n_hidden=8)
    model.train(max_steps=2, logger=False, enable_progress_bar=False)
    return model


@pytest.fixture(scope="module")
def minified(of_counts: sx.SCALEXModel) -> sx.SCALEXModel:
    return of_counts.without_counts()


def each_elbo(model: sx.SCALEXModel, indices: Any) -> Any:
    return model.get_elbo(indices=indices, return_mean=False)


def each_error(model: sx.SCALEXModel, indices: Any) -> Any:
    return model.get_reconstruction_error(indices=indices, return_mean=False)


def means_of_posterior(model: sx.SCALEXModel, indices: Any) -> Any:
    return model.get_aggregated_posterior(indices=indices).component_distribution.mean


def prepared(model: sx.SCALEXModel, indices: Any) -> Any:
    return model.get_prepared(indices=indices).X.toarray()


METHODS: dict[str, Callable[[sx.SCALEXModel, Any], Any]] = {
    "latent": lambda model, indices: model.get_latent_representation(indices=indices),
    "imputed": lambda model, indices: model.get_imputed_expression(indices=indices),
    "normalized": lambda model, indices: model.get_normalized_expression(indices=indices),
    "prepared": prepared,
    "elbo": each_elbo,
    "error": each_error,
    "aggregated": means_of_posterior,
}

WRONG: dict[str, Any] = {
    "beyond the end": [0, 10_000],
    "before the start": [-10_000],
    "floats": [0.0, 1.5],
    "names": ["cell0", "cell1"],
    "mask of another length": np.ones(7, dtype=bool),
    "two dimensions": [[0, 1], [2, 3]],
    "rows of different lengths": [[0], [1, 2]],
    "one number": 3,
    "mask with a missing value": pd.Series([True, None], dtype="boolean"),
}


@pytest.mark.parametrize("indices", WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_cells_that_do_not_exist_are_refused(
    of_counts: sx.SCALEXModel, method: Callable[..., Any], indices: Any
) -> None:
    with pytest.raises(IndexError, match=r"`indices` is .* whole numbers below 150"):
        method(of_counts, indices)


@pytest.mark.parametrize("indices", [[], np.zeros(150, dtype=bool)], ids=["list", "mask"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_no_cells_are_refused(
    of_counts: sx.SCALEXModel, method: Callable[..., Any], indices: Any
) -> None:
    with pytest.raises(ValueError, match=r"`indices` is .*: there are no cells"):
        method(of_counts, indices)


RIGHT: dict[str, Any] = {
    "in any order, again, from the end": [7, -1, 3, 7],
    "mask": np.arange(150) % 50 == 0,
    "pandas' mask": pd.Series(np.arange(150) % 50 == 0, dtype="boolean"),
    "pandas' numbers": pd.Series([5, 2], dtype="Int64"),
    "range": range(3, 9),
}


@pytest.mark.parametrize("indices", RIGHT.values(), ids=RIGHT.keys())
@pytest.mark.parametrize("name", ["latent", "imputed", "prepared", "aggregated"])
def test_cells_are_those_of_the_whole(of_counts: sx.SCALEXModel, name: str, indices: Any) -> None:
    whole = np.asarray(METHODS[name](of_counts, None))
    rows = np.arange(150)[np.asarray(list(indices))]
    found = np.asarray(METHODS[name](of_counts, indices))
    np.testing.assert_allclose(found, whole[rows], atol=1e-5)
    if name == "imputed":
        frame = of_counts.get_imputed_expression(indices=indices)
        assert list(frame.index) == list(of_counts.adata.obs_names[rows])


def test_a_model_without_counts_refuses_them_too(minified: sx.SCALEXModel) -> None:
    for name in ("latent", "imputed", "normalized"):
        with pytest.raises(IndexError, match="whole numbers below 150"):
            METHODS[name](minified, [150])
    np.testing.assert_allclose(
        minified.get_latent_representation(indices=[-1, 2]),
        minified.get_latent_representation()[[-1, 2]],
    )


@pytest.mark.parametrize("dof", [3.0, None])
def test_the_aggregated_posterior_is_a_mixture_of_those_of_the_cells(
    of_counts: sx.SCALEXModel, dof: float | None
) -> None:
    mean, var = of_counts.get_latent_representation(indices=[4, 9], return_dist=True)
    points = np.random.default_rng(0).normal(size=(5, mean.shape[1])).astype(np.float32)
    law = stats.norm if dof is None else partial(stats.t, dof)
    densities = [
        law(loc=m, scale=np.sqrt(v)).pdf(points).prod(axis=1)
        for m, v in zip(mean, var, strict=True)
    ]
    mixture = of_counts.get_aggregated_posterior(indices=[4, 9], dof=dof)
    found = mixture.log_prob(torch.as_tensor(points))
    np.testing.assert_allclose(found, np.log(np.mean(densities, axis=0)), rtol=1e-4)


def test_abundance_of_samples(of_counts: sx.SCALEXModel) -> None:
    adata = of_counts.adata.copy()
    of_counts.differential_abundance(adata, sample_key="batch", batch_size=50, dof=3.0)
    found = adata.obsm["da_log_probs"]
    latent = torch.as_tensor(of_counts.get_latent_representation(adata))
    of_one = of_counts.get_aggregated_posterior(adata, adata.obs["batch"] == "batch1")
    np.testing.assert_allclose(found["batch1"], of_one.log_prob(latent), rtol=1e-4)


@pytest.mark.parametrize("key", ["nope", None, ["batch"]])
def test_abundance_of_samples_that_are_not_there(of_counts: sx.SCALEXModel, key: Any) -> None:
    adata = of_counts.adata.copy()
    with pytest.raises(KeyError, match=r"`sample_key` .* not a column of adata.obs: \['batch'"):
        of_counts.differential_abundance(adata, sample_key=key)
    adata.obs["donor"] = [None, *["one", "two"] * 75][: adata.n_obs]
    with pytest.raises(ValueError, match=r"'donor'\] is missing .* for 1 of 150 cells"):
        of_counts.differential_abundance(adata, sample_key="donor")
    assert "da_log_probs" not in adata.obsm


# -- Groups that are compared


def compare(model: sx.SCALEXModel, **groups: Any) -> pd.DataFrame:
    return model.differential_expression(**groups, n_samples_overall=200, silent=True)


@pytest.mark.parametrize("indices", WRONG.values(), ids=WRONG.keys())
def test_groups_of_cells_that_do_not_exist(of_counts: sx.SCALEXModel, indices: Any) -> None:
    with pytest.raises(IndexError, match=r"`idx1` is .* whole numbers below 150"):
        compare(of_counts, idx1=indices)
    with pytest.raises(IndexError, match=r"`idx2` is .* whole numbers below 150"):
        compare(of_counts, idx1=[0, 1], idx2=indices)


def test_groups_without_cells(of_counts: sx.SCALEXModel) -> None:
    with pytest.raises(ValueError, match="`idx1` 'batch == \"none\"' is true of no cell"):
        compare(of_counts, idx1='batch == "none"')
    with pytest.raises(ValueError, match="there are no cells"):
        compare(of_counts, idx1=[0, 1], idx2=[])
    with pytest.raises(ValueError, match="All 2 cells of `idx1` are in `idx2`"):
        compare(of_counts, idx1=[0, 1], idx2=range(10))


def test_a_query_of_obs_takes_no_cell_beside_those_of_equal_name(
    of_counts: sx.SCALEXModel,
) -> None:
    adata: AnnData = of_counts.adata.copy()
    adata.obs_names = [f"cell{i % 100}" for i in range(adata.n_obs)]
    chosen = (adata.obs["batch"] == "batch0").to_numpy()
    by_query = compare(of_counts, adata=adata, idx1='batch == "batch0"', all_stats=True)
    by_mask = compare(of_counts, adata=adata, idx1=chosen, all_stats=True)
    pd.testing.assert_frame_equal(by_query, by_mask)
