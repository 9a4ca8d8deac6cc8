"""get_normalized_expression and differential_expression: as scVI's, on known truth."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
from anndata import AnnData
from conftest import QUIET, small_model
from scipy import sparse, stats
from scvi.dataloaders import AnnDataLoader

import scalex_scvi as sx

N_TYPES, N_GENES = 3, 300
N_MARKERS = 40


def counts_with_markers(n_cells: int = 600, seed: int = 0) -> AnnData:
    """Three types in two batches; 40 genes of each type differ by four times, up or down.

    Genes of the second batch differ by factors of their own, and its types are not as frequent.
    """
    rng = np.random.default_rng(seed)
    batch = rng.integers(2, size=n_cells)
    frequent = np.array([[0.4, 0.3, 0.3], [0.3, 0.3, 0.4]])
    celltype = (rng.random((n_cells, 1)) > frequent[batch].cumsum(axis=1)).sum(axis=1)
    base = rng.lognormal(1.5, 0.5, size=N_GENES)
    fold = np.ones((N_TYPES, N_GENES))
    for kind in range(N_TYPES):
        own = slice(kind * N_MARKERS, (kind + 1) * N_MARKERS)
        fold[kind, own] = np.where(np.arange(N_MARKERS) % 2, 4.0, 0.25)
    effect = np.stack([np.ones(N_GENES), rng.lognormal(0, 0.6, size=N_GENES)])
    rates = base * fold[celltype] * effect[batch] * rng.gamma(10, 0.1, size=(n_cells, 1))
    return AnnData(
        X=sparse.csr_matrix(rng.poisson(rates), dtype=np.float32),
        obs=pd.DataFrame(
            {
                "batch": pd.Categorical.from_codes(batch, ["first", "second"]),
                "celltype": pd.Categorical.from_codes(celltype, ["A", "B", "C"]),
            },
            index=[f"cell{i}" for i in range(n_cells)],
        ),
        var=pd.DataFrame(
            {"marker_of": np.repeat(["A", "B", "C", "nobody"], [40, 40, 40, N_GENES - 120])},
            index=[f"gene{i}" for i in range(N_GENES)],
        ),
    )


@pytest.fixture(scope="module")
def trained() -> sx.SCALEXModel:
    adata = counts_with_markers()
    sx.SCALEXModel.setup_anndata(adata, batch_key="batch")
    model = sx.SCALEXModel(adata, n_hidden=128)
    model.train(max_steps=600, **QUIET)
    return model


# -- Normalized expression


@pytest.mark.parametrize("name", ["get_normalized_expression", "differential_expression"])
def test_arguments_are_scvis(name: str) -> None:
    ours = inspect.signature(getattr(sx.SCALEXModel, name)).parameters
    scvis = inspect.signature(getattr(scvi.model.SCVI, name)).parameters
    # Of importance weights and data loaders, which SCALEX does not have.
    other = {"importance_weighting_kwargs", "data_loader_kwargs", "dataloader", "kwargs"}
    expected = [key for key in scvis if key not in other]
    assert [key for key in ours if key in expected] == expected
    assert {key: ours[key].default for key in expected} == {
        key: scvis[key].default for key in expected
    }


def test_it_inverts_the_preprocessing(model: sx.SCALEXModel, counts: AnnData) -> None:
    """Values that a perfect decoder would return come back as the normalized counts."""
    size = counts.X.sum(axis=1).A1
    codes = counts.obs["batch"].cat.codes.to_numpy()
    prepared = model.adata.X.toarray()
    to_counts = model._to_counts(np.arange(counts.n_vars), 1e4)
    expected = counts.X.toarray() / size[:, None] * 1e4
    np.testing.assert_allclose(to_counts(prepared, codes), expected, rtol=1e-4, atol=1e-3)


def test_the_mean_over_draws_is_that_of_the_module(trained: sx.SCALEXModel) -> None:
    """The module's own sampling, another path through encoder and decoder."""
    tensors = next(iter(AnnDataLoader(trained.adata_manager, batch_size=6)))
    draws = trained.module.sample(tensors, n_samples=500).numpy()
    codes = tensors["batch"].numpy().ravel()
    scale = trained.preprocessing.scale[["first", "second"]].to_numpy().T[codes]
    expected = np.expm1(draws * scale).mean(axis=0)
    found = trained.get_normalized_expression(indices=np.arange(6), library_size=1e4, n_samples=500)
    assert list(found.columns) == list(trained.get_var_names())
    assert list(found.index) == [f"cell{i}" for i in range(6)]
    np.testing.assert_allclose(found, expected, rtol=0.25)
    assert np.abs(found / expected - 1).mean().mean() < 0.02


def test_it_is_near_the_counts_and_free_of_batches(trained: sx.SCALEXModel) -> None:
    adata = trained.adata
    obs = adata.obs
    measured = pd.DataFrame(adata.X.toarray(), index=obs.index, columns=adata.var_names)
    measured = measured.div(measured.sum(axis=1), axis=0)
    groups = [obs["batch"], obs["celltype"]]
    own = trained.get_normalized_expression()
    means = own.groupby(groups, observed=True).mean()
    truth = measured.groupby(groups, observed=True).mean()
    correlation = np.corrcoef(np.log(means.to_numpy().ravel()), np.log(truth.to_numpy().ravel()))
    assert correlation[0, 1] > 0.97, correlation
    one = trained.get_normalized_expression(transform_batch="first")
    one = np.log2(one.groupby(groups, observed=True).mean())
    own = np.log2(means)
    between = {
        name: (x.loc["first"] - x.loc["second"]).abs().mean().mean()
        for name, x in {"own": own, "one": one}.items()
    }
    assert between["one"] < 0.3 * between["own"]


def test_shapes_and_draws(trained: sx.SCALEXModel) -> None:
    some = {"indices": [3, 1], "gene_list": ["gene7", "gene2"]}
    draws = trained.get_normalized_expression(n_samples=4, return_mean=False, **some)
    assert draws.shape == (4, 2, 2)
    assert draws.std(axis=0).min() > 0
    mean = trained.get_normalized_expression(n_samples=4, **some)
    assert list(mean.columns) == ["gene7", "gene2"]
    assert list(mean.index) == ["cell3", "cell1"]
    np.testing.assert_allclose(mean, draws.mean(axis=0), rtol=1e-5)
    overall = trained.get_normalized_expression(n_samples_overall=7, **some)
    assert overall.shape == (7, 2)
    again = trained.get_normalized_expression(n_samples=4, return_numpy=True, **some)
    np.testing.assert_array_equal(again, mean)
    by_mask = trained.get_normalized_expression(
        indices=np.arange(600) == 3, gene_list=["gene7"], library_size=1e4, return_numpy=True
    )
    assert by_mask.shape == (1, 1)
    two = trained.get_normalized_expression(transform_batch=["first", "second"], **some)
    each = [trained.get_normalized_expression(transform_batch=b, **some)
            for b in ("first", "second")]  # fmt: skip
    np.testing.assert_allclose(two, (each[0] + each[1]) / 2, rtol=0.2)


def test_the_callers_generators_stay(trained: sx.SCALEXModel) -> None:
    np.random.seed(3)  # noqa: NPY002  scvi-tools' comparison uses it
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    trained.differential_expression(groupby="celltype", n_samples_overall=10, silent=True)
    assert np.random.random() == expected  # noqa: NPY002


def test_a_data_loader(trained: sx.SCALEXModel) -> None:
    loader = AnnDataLoader(trained.adata_manager, batch_size=200)
    found = trained.get_normalized_expression(dataloader=loader, n_samples=50)
    expected = trained.get_normalized_expression(n_samples=50, return_numpy=True)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


REFUSED = {
    "latent library": ({"library_size": "latent"}, NotImplementedError, "library size"),
    "importance": ({"weights": "importance"}, NotImplementedError, "importance weights"),
    "weights": ({"weights": "mine"}, ValueError, "'mine'"),
    "library": ({"library_size": 0}, ValueError, "positive number, got 0"),
    "batch": ({"transform_batch": "nowhere"}, ValueError, "'nowhere'.*'batch0'"),
    "gene": ({"gene_list": ["nowhere"]}, ValueError, "not genes of the model"),
    "samples": ({"n_samples": 0}, ValueError, "at least 1, got 0"),
    "both": ({"n_samples": 2, "n_samples_overall": 5}, ValueError, "not both"),
    "other": ({"truncation": True}, TypeError, "'truncation'"),
}


@pytest.mark.parametrize(("kwargs", "error", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_apply_is_refused(
    model: sx.SCALEXModel, kwargs: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        model.get_normalized_expression(**kwargs)


@pytest.mark.parametrize("kind", ["proteins", "logarithms", "unknown"])
def test_units_that_are_not_known(counts: AnnData, kind: str) -> None:
    setup: dict[str, Any] = {"profile": "ADT"} if kind == "proteins" else {}
    if kind == "logarithms":
        counts.X = counts.X.log1p()
        setup = {"log_normalized": True}
    elif kind == "unknown":
        counts.X = counts.X / np.float32(1000)
        setup = {"processed": True}
    sx.SCALEXModel.setup_anndata(counts, batch_key="batch", **setup)
    model = sx.SCALEXModel(counts, n_hidden=8, n_latent=2)
    model.is_trained_ = True
    for method in (model.get_normalized_expression, model.differential_expression):
        kwargs = {"groupby": "celltype"} if method == model.differential_expression else {}
        with pytest.raises(ValueError, match="get_imputed_expression"):
            method(**kwargs)


def test_a_query_is_decoded_in_the_reference(
    trained: sx.SCALEXModel, caplog: pytest.LogCaptureFixture
) -> None:
    query = counts_with_markers(80, seed=0)
    query.obs["batch"] = pd.Categorical(["new"] * 80)
    of_query = sx.SCALEXModel.load_query_data(query, trained)
    found = of_query.get_normalized_expression(transform_batch="first")
    assert found.shape == (80, N_GENES)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        of_query.get_normalized_expression()
    assert "The decoder of the batches ['new'] is not trained" in caplog.text
    kwargs = {"groupby": "celltype", "mode": "change", "silent": True, "n_samples_overall": 500}
    table = of_query.differential_expression(group1="B", batch_correction=True, **kwargs)
    assert (query.var["marker_of"][table.index[:20]] != "nobody").all()


REASONS = [
    "get_marginal_ll",
    "posterior_predictive_sample",
    "get_likelihood_parameters",
    "get_feature_correlation_matrix",
    "get_latent_library_size",
]


@pytest.mark.parametrize("name", REASONS)
def test_what_has_no_likelihood_says_so(model: sx.SCALEXModel, name: str) -> None:
    with pytest.raises(NotImplementedError, match="not by a likelihood of counts. Use"):
        getattr(model, name)()


# -- Differential expression


def table_of(model: sx.SCALEXModel, **kwargs: Any) -> pd.DataFrame:
    how = {"mode": "change", "batch_correction": True, "silent": True} | kwargs
    return model.differential_expression(**how).loc[list(model.get_var_names())]


def wilcoxon_within_batches(adata: AnnData) -> pd.Series:
    """The larger p-value of the two batches, of rank sums of normalized counts, B and the rest."""
    x = adata.X.toarray() / adata.X.sum(axis=1).A1[:, None]
    b, t = adata.obs["batch"].to_numpy(), adata.obs["celltype"].to_numpy()
    p = [
        stats.ranksums(x[(b == name) & (t == "B")], x[(b == name) & (t != "B")]).pvalue
        for name in ("first", "second")
    ]
    return pd.Series(np.max(p, axis=0), index=adata.var_names)


def test_markers_are_found_as_within_batches(trained: sx.SCALEXModel) -> None:
    adata = trained.adata
    table = table_of(trained, groupby="celltype", group1=["B"], delta=0.5)
    found = table["proba_de"] > 0.66  # scvi-tools' tutorials' bound
    marker, null = (adata.var["marker_of"] == name for name in ("B", "nobody"))
    assert found[marker].all()
    assert found[null].mean() < 0.02
    up = np.arange(N_MARKERS) % 2 == 1
    change = table["lfc_median"][marker]
    assert (np.sign(change) == np.where(up, 1, -1)).all()
    # 4 times is 2 in log2.
    assert change.abs().median() == pytest.approx(2, abs=0.5)
    within = wilcoxon_within_batches(adata) < 0.05 / adata.n_vars
    assert within[marker].all()
    either = marker | null
    assert (within == found)[either].mean() > 0.95


def test_replicate_batches_do_not_differ(trained: sx.SCALEXModel) -> None:
    """Cells of one type from two batches: differences are those of the batches."""
    groups = {
        "idx1": "celltype == 'A' and batch == 'first'",
        "idx2": "celltype == 'A' and batch == 'second'",
    }
    corrected = table_of(trained, delta=0.5, **groups)
    assert (corrected["proba_de"] > 0.66).mean() < 0.02
    assert not corrected["is_de_fdr_0.05"].any()
    uncorrected = table_of(trained, delta=0.5, batch_correction=False, **groups)
    assert (uncorrected["proba_de"] > 0.66).mean() > 0.2
    assert not [name for name in trained.adata.obs if name.startswith("_scvi_temp")]


def test_the_table_is_scvis(trained: sx.SCALEXModel) -> None:
    adata = trained.adata.copy()
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    peer = scvi.model.SCVI(adata, n_hidden=8)
    peer.train(max_epochs=1, **QUIET)
    columns = list(trained.adata.obs)
    for mode in ("vanilla", "change"):
        how = {"groupby": "celltype", "mode": mode, "silent": True, "n_samples_overall": 100}
        ours, scvis = trained.differential_expression(**how), peer.differential_expression(**how)
        assert list(ours.columns) == list(scvis.columns)
        assert len(ours) == N_TYPES * adata.n_vars
        keys = [key for key in scvis if key.startswith(("raw_", "non_zeros"))]
        assert len(keys) == 6
        for group in ("A", "B"):
            first, second = (x[x["group1"] == group][keys].sort_index() for x in (ours, scvis))
            pd.testing.assert_frame_equal(first, second, rtol=1e-4, check_dtype=False)
    assert list(trained.adata.obs) == columns


def test_it_repeats(trained: sx.SCALEXModel) -> None:
    tables = [
        table_of(trained, groupby="celltype", group1=["B"], n_samples_overall=50) for _ in range(2)
    ]
    pd.testing.assert_frame_equal(*tables)


def test_prepared_cells_have_the_same_statistics(counts: AnnData) -> None:
    """Means of normalized counts, whether counts came raw or prepared."""
    from_counts, from_prepared = (
        small_model(adata)
        for adata in (counts.copy(), sx.pp.rna(counts, batch_key="batch", min_features=0))
    )
    tables = []
    for model in (from_counts, from_prepared):
        model.is_trained_ = True
        tables.append(table_of(model, groupby="celltype", group1=["type1"], n_samples_overall=50))
    for key in ("raw_normalized_mean1", "raw_normalized_mean2", "non_zeros_proportion1"):
        np.testing.assert_allclose(tables[0][key], tables[1][key], rtol=1e-3)


def test_some_genes_of_the_object_in_another_order(counts: AnnData) -> None:
    """The counts beside each gene are its own."""
    genes = ["gene9", "gene3", "gene40"]
    sx.SCALEXModel.setup_anndata(counts, batch_key="batch", n_top_features=genes)
    model = sx.SCALEXModel(counts, n_hidden=8, n_latent=2)
    model.is_trained_ = True
    table = table_of(model, groupby="celltype", group1=["type1"], n_samples_overall=50)
    group = counts[counts.obs["celltype"] == "type1"]
    expected = group.to_df()[list(table.index)].mean()
    np.testing.assert_allclose(table["raw_mean1"], expected, rtol=1e-5)


def test_a_minified_model(trained: sx.SCALEXModel, tmp_path: Any) -> None:
    trained.save(tmp_path / "m", overwrite=True)
    minified = sx.SCALEXModel.load(tmp_path / "m", adata=trained.adata.copy())
    mean, var = minified.get_latent_representation(return_dist=True)
    minified.adata.obsm["mean"], minified.adata.obsm["var"] = mean, var
    minified.minify_adata(use_latent_qzm_key="mean", use_latent_qzv_key="var")
    np.testing.assert_allclose(
        minified.get_normalized_expression(), trained.get_normalized_expression(), rtol=1e-2
    )
    how = {"groupby": "celltype", "group1": ["B"], "n_samples_overall": 1000}
    with pytest.raises(ValueError, match="needs `pseudocounts`"):
        table_of(minified, **how)
    found = table_of(minified, pseudocounts=1e-5, **how)["lfc_mean"]
    expected = table_of(trained, pseudocounts=1e-5, **how)["lfc_mean"]
    np.testing.assert_allclose(found, expected, atol=0.1)


NUMBERS = {"A": 1, "B": 2, "C": 3}
COLUMNS_OF_GROUPS = {
    "numbers": lambda types: types.map(NUMBERS).astype(int),
    "numbers, one missing": lambda types: types.map(NUMBERS).astype("Int64").where(types != "C"),
    "text, one missing": lambda types: types.astype("string").where(types != "C"),
    "marks": lambda types: (types == "B").astype("boolean"),
    "categories without cells": lambda types: types.astype(
        pd.CategoricalDtype(["none", "C", "B", "A"])
    ),
}


@pytest.mark.parametrize("kind", COLUMNS_OF_GROUPS)
def test_groups_of_any_type(trained: sx.SCALEXModel, kind: str) -> None:
    adata = counts_with_markers()
    types = adata.obs["celltype"].astype(str)
    adata.obs["group"] = COLUMNS_OF_GROUPS[kind](types)
    adata.obs_names = ["cell"] * adata.n_obs  # repeat
    few = {"adata": adata, "n_samples_overall": 50, "silent": True}
    table = trained.differential_expression(groupby="group", **few)
    assert set(table["group1"]) == set(adata.obs["group"].dropna())
    b = adata.obs["group"].array[types.to_numpy() == "B"][0]
    expected = trained.differential_expression(groupby="celltype", group1="B", **few)
    for group in (b, str(b), [b]):
        found = trained.differential_expression(groupby="group", group1=group, **few)
        assert list(found["group1"].unique()) == [b]
        np.testing.assert_array_equal(found["bayes_factor"], expected["bayes_factor"])


@pytest.mark.parametrize("batch", ["second", ["second"]])
@pytest.mark.parametrize("name", ["batchid1", "batchid2"])
def test_a_batch_to_decode_in_holds_for_both_groups(
    trained: sx.SCALEXModel, name: str, batch: Any
) -> None:
    how = {"groupby": "celltype", "group1": "B", "n_samples_overall": 51}
    expected = table_of(trained, batchid1=["second"], batchid2=["second"], **how)
    pd.testing.assert_frame_equal(table_of(trained, **{name: batch}, **how), expected)


@pytest.mark.filterwarnings("ignore:Batchids of cells groups")
def test_groups_decoded_in_several_batches_each_are_compared(trained: sx.SCALEXModel) -> None:
    how = {"groupby": "celltype", "group1": "B", "batchid1": ["second"]}
    both = ["first", "second", "first"]  # two batches: 51 draws leave a rest
    found = table_of(trained, batchid2=both, n_samples_overall=51, **how)
    expected = table_of(trained, batchid2=["first", "second"], n_samples_overall=52, **how)
    pd.testing.assert_frame_equal(found, expected)


BAD = {
    "own batches": (
        {"groupby": "celltype", "batchid1": ["first"]},
        ValueError,
        "need `batch_correction=True`",
    ),
    "column": ({"groupby": "nowhere"}, KeyError, "'nowhere'.*'celltype'"),
    "nothing": ({}, KeyError, "Or give `idx1`"),
    "group": ({"groupby": "celltype", "group1": ["D"]}, ValueError, r"\['D'\].*'A', 'B'"),
    "second": (
        {"groupby": "celltype", "group1": "A", "group2": "D"},
        ValueError,
        r"\['D'\].*'A', 'B'",
    ),
    "two seconds": (
        {"groupby": "celltype", "group1": "A", "group2": ["B"]},
        ValueError,
        r"`group2` must be one group of \['A', 'B'",
    ),
    "no groups": ({"groupby": "celltype", "group1": []}, ValueError, "`group1` must be groups"),
    "batch": (
        {"groupby": "celltype", "batch_correction": True, "batchid1": ["nowhere"]},
        ValueError,
        r"`batchid1` \['nowhere'\].*'first', 'second'",
    ),
    "no batches": (
        {"groupby": "celltype", "batch_correction": True, "batchid2": []},
        ValueError,
        r"`batchid2` \[\] is not a batch of the model",
    ),
    "number": (
        {"groupby": "celltype", "batch_correction": True, "batchid2": 0},
        ValueError,
        r"`batchid2` \['0'\]",
    ),
    "weights": (
        {"groupby": "celltype", "weights": "importance"},
        NotImplementedError,
        "importance weights",
    ),
}


@pytest.mark.parametrize(("kwargs", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_comparisons(
    trained: sx.SCALEXModel, kwargs: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        trained.differential_expression(silent=True, **kwargs)


@pytest.mark.parametrize("backed", [False, True])
def test_filtered_outliers_and_backed_counts(
    trained: sx.SCALEXModel, backed: bool, tmp_path: Any
) -> None:
    adata = counts_with_markers()
    if backed:
        adata.write_h5ad(tmp_path / "cells.h5ad")
        adata = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    kwargs = {"groupby": "celltype", "group1": ["B"], "n_samples_overall": 500}
    table = table_of(trained, adata=adata, filter_outlier_cells=True, **kwargs)
    expected = table_of(trained, filter_outlier_cells=True, **kwargs)
    pd.testing.assert_frame_equal(table, expected, rtol=1e-3, atol=1e-4)
