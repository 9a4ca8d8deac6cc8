"""Where the encoder puts cells that lack genes of the reference."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import torch
from anndata import AnnData
from conftest import QUIET
from scipy import sparse
from sklearn.neighbors import KNeighborsClassifier

import scalex_scvi as sx
from scalex_scvi import SCALEXModel


@pytest.fixture(scope="module")
def cells() -> AnnData:
    """Real pancreas cells of five technologies."""
    return sx.datasets.pancreas()


@pytest.fixture(scope="module")
def model(cells: AnnData) -> SCALEXModel:
    own = cells[cells.obs["batch"] != "CEL-seq2"].copy()
    SCALEXModel.setup_anndata(own, batch_key="batch")
    model = SCALEXModel(own, n_hidden=128)
    model.train(max_steps=200, **QUIET)
    return model


@pytest.fixture(scope="module")
def whole(cells: AnnData) -> AnnData:
    """A fifth technology, with all genes."""
    return cells[cells.obs["batch"] == "CEL-seq2"].copy()


@pytest.fixture
def query(whole: AnnData) -> AnnData:
    """The same with 40 % of the genes."""
    has = np.random.default_rng(1).random(whole.n_vars) < 0.4
    return whole[:, has].copy()


def latent(query: AnnData, model: SCALEXModel, **how: str) -> np.ndarray:
    return SCALEXModel.load_query_data(query, model, **how).get_latent_representation()


def right_neighbors(model: SCALEXModel, points: np.ndarray, query: AnnData) -> float:
    """Share of cells most of whose neighbors among the reference's cells are of their type."""
    known = model.adata.obs["celltype"].astype(str)
    nearest = KNeighborsClassifier(15).fit(model.get_latent_representation(), known)
    return float((nearest.predict(points) == query.obs["celltype"].astype(str)).mean())


def test_most_genes_may_be_missing(model: SCALEXModel, whole: AnnData, query: AnnData) -> None:
    expected, zero = latent(query, model), latent(query, model, missing_genes="zero")
    of_whole = latent(whole, model)
    assert np.abs(expected - of_whole).mean() < 0.6 * np.abs(zero - of_whole).mean()
    assert right_neighbors(model, expected, query) > right_neighbors(model, of_whole, query) - 0.03
    assert right_neighbors(model, zero, query) < right_neighbors(model, of_whole, query) - 0.1


def test_missing_genes_are_what_a_normal_distribution_expects(
    model: SCALEXModel, query: AnnData
) -> None:
    """Filled in for dense cells, by the covariance of probabilistic PCA as a whole."""
    mapped = SCALEXModel.load_query_data(query, model)
    prepared, factors = mapped.get_prepared(), model.gene_factors_
    has = prepared.var["scalex_measured"].to_numpy()
    loadings = factors["loadings"].astype(float)
    covariance = loadings @ loadings.T + factors["noise"] * np.eye(len(has))
    mean, x = factors["mean"].astype(float), prepared.X.toarray().astype(float)
    fit = np.linalg.solve(covariance[np.ix_(has, has)], (x[:, has] - mean[has]).T)
    x[:, ~has] = mean[~has] + fit.T @ covariance[np.ix_(has, ~has)]
    with torch.inference_mode():
        right = model.module.encoder(torch.from_numpy(x.astype(np.float32)))[0].numpy()
    np.testing.assert_allclose(mapped.get_latent_representation(), right, atol=2e-4)


def test_the_factors_are_principal_components(model: SCALEXModel) -> None:
    x = model.get_prepared().X.toarray().astype(float)
    factors = model.gene_factors_
    np.testing.assert_allclose(factors["mean"], x.mean(axis=0), atol=1e-6)
    variances, axes = np.linalg.eigh(np.cov(x.T))
    n = factors["loadings"].shape[1]
    noise = variances[:-n].sum() / (len(variances) - n)
    assert factors["noise"] == pytest.approx(noise, rel=0.01)
    loadings = axes[:, -n:] * np.sqrt(variances[-n:] - noise)
    right, found = loadings @ loadings.T, factors["loadings"] @ factors["loadings"].T
    np.testing.assert_allclose(found, right, atol=1e-3 * np.abs(right).max())


def test_each_cell_is_by_itself_and_no_gene_is_needed_in_order(
    model: SCALEXModel, query: AnnData
) -> None:
    of_all = latent(query, model)
    one = query[3:4, ::-1].copy()
    np.testing.assert_allclose(latent(one, model), of_all[3:4], atol=1e-5)


def test_all_ways_to_the_latent_are_one(model: SCALEXModel, query: AnnData, tmp_path: Path) -> None:
    expected = latent(query, model)
    mapped = SCALEXModel.load_query_data(query, model)
    prepared = mapped.get_prepared()
    ready = sx.pp.prepare_query(query, model.preprocessing, batch_key="batch")
    mapped.save(tmp_path / "query")
    again = SCALEXModel.load(tmp_path / "query", adata=query.copy())
    measured = prepared.var["scalex_measured"].to_numpy()
    ways = {
        "the reference's model": model.get_latent_representation(query.copy()),
        "prepared": mapped.get_latent_of_prepared(prepared.X, measured),
        "prepared by pp": latent(ready, model),
        "dense": mapped.get_latent_of_prepared(prepared.X.toarray(), measured),
        "saved": again.get_latent_representation(),
    }
    for way, found in ways.items():
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=way)


def test_padded_genes_are_missing_ones(model: SCALEXModel, query: AnnData) -> None:
    some = query[:, query.var_names.isin(model.get_var_names())].copy()
    padded = SCALEXModel.prepare_query_anndata(some, model, inplace=False)
    assert padded.n_vars > some.n_vars
    np.testing.assert_allclose(latent(padded, model), latent(some, model), atol=1e-5)
    twice = SCALEXModel.prepare_query_anndata(padded, model, inplace=False)
    np.testing.assert_allclose(latent(twice, model), latent(some, model), atol=1e-5)


def test_on_disk_and_by_batch_statistics(
    model: SCALEXModel, query: AnnData, tmp_path: Path
) -> None:
    pytest.importorskip("dask", reason="needs the extra 'scale'")
    query.write_h5ad(tmp_path / "query.h5ad")
    lazy = sx.io.read_lazy(tmp_path / "query.h5ad", cells_in_block=64)
    mapped = SCALEXModel.load_query_data(query, model)
    of_lazy = SCALEXModel.load_query_data(lazy, model)
    for statistics in ("running", "batch"):
        np.testing.assert_allclose(
            of_lazy.get_latent_representation(batch_stats=statistics),
            mapped.get_latent_representation(batch_stats=statistics),
            atol=1e-4,
        )


def test_the_decoder_is_fitted_to_the_same_latent(model: SCALEXModel, query: AnnData) -> None:
    """What scvi-tools computes from minibatches takes missing genes as the latent does."""
    mapped = SCALEXModel.load_query_data(query, model)
    before = mapped.get_latent_representation()
    mapped.train(max_epochs=2, **QUIET)
    np.testing.assert_array_equal(mapped.get_latent_representation(), before)
    x = torch.from_numpy(mapped.get_prepared().X.toarray())
    with mapped._completed_minibatches(None), torch.inference_mode():
        found = mapped.module.inference(x)["qz"].loc.numpy()
    np.testing.assert_allclose(found, before, atol=1e-4)
    zero = SCALEXModel.load_query_data(query, model, missing_genes="zero")
    zero.train(max_epochs=2, **QUIET)
    assert mapped.get_elbo() != zero.get_elbo()
    assert mapped.module.completion is None


def test_other_cells_of_a_query_s_model_may_have_all_genes(
    model: SCALEXModel, whole: AnnData, query: AnnData
) -> None:
    mapped = SCALEXModel.load_query_data(query, model)
    np.testing.assert_allclose(
        mapped.get_latent_representation(whole.copy()), latent(whole, model), atol=1e-5
    )
    onto_query = latent(whole.copy(), mapped)  # as a reference, too
    np.testing.assert_allclose(onto_query, latent(whole, model), atol=1e-5)


def test_models_of_earlier_versions_learn_it_from_their_cells(
    model: SCALEXModel,
    query: AnnData,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = latent(query, model)
    monkeypatch.setattr(model, "gene_factors_", None)
    np.testing.assert_allclose(latent(query, model), expected, atol=1e-3)
    monkeypatch.setattr(model, "gene_factors_", None)
    np.testing.assert_allclose(model.get_latent_representation(query), expected, atol=1e-3)
    monkeypatch.setattr(model, "gene_factors_", None)
    model.save(tmp_path / "old")
    old = SCALEXModel.load(tmp_path / "old", adata=False)
    zero = latent(query, model, missing_genes="zero")
    assert "taken for zero" not in caplog.text
    np.testing.assert_allclose(latent(query, old), zero, atol=1e-5)
    assert "Genes that the query lacks are taken for zero" in caplog.text


def test_what_genes_are_missing_is_not_taken_from_counts(
    model: SCALEXModel, whole: AnnData
) -> None:
    """Genes that no cell of the query has counts of were measured all the same."""
    silent = whole.copy()
    x = silent.X.toarray()
    x[:, :50] = 0
    silent.X = sparse.csr_matrix(x)
    assert "scalex_measured" not in SCALEXModel.load_query_data(silent, model).get_prepared().var
    np.testing.assert_allclose(
        latent(silent, model), latent(silent, model, missing_genes="zero"), atol=1e-6
    )


def test_zeros_stay_zeros_for_the_query_of_a_query(model: SCALEXModel, query: AnnData) -> None:
    zero = SCALEXModel.load_query_data(query.copy(), model, missing_genes="zero")
    of_query = SCALEXModel.load_query_data(query.copy(), zero)
    np.testing.assert_allclose(
        of_query.get_latent_representation(), zero.get_latent_representation(), atol=1e-6
    )


def test_methods_called_while_training_leave_the_training_alone(
    model: SCALEXModel, query: AnnData
) -> None:
    mapped = SCALEXModel.load_query_data(query, model)
    mapped.train(max_epochs=1, **QUIET)
    with mapped._completed_minibatches(None):
        completion = mapped.module.completion
        mapped.get_elbo()
        assert mapped.module.completion is completion is not None
    assert mapped.module.completion is None


@pytest.mark.parametrize(
    "mask",
    [np.ones(3, bool), np.ones(5), ["yes"]],
    ids=["another length", "numbers", "text"],
)
def test_a_mask_of_genes_says_true_or_false_of_each(
    model: SCALEXModel, query: AnnData, mask: Any
) -> None:
    prepared = SCALEXModel.load_query_data(query, model).get_prepared()
    with pytest.raises(ValueError, match="`measured` is an array of"):
        model.get_latent_of_prepared(prepared.X, mask)
    found = model.get_latent_of_prepared(prepared.X, prepared.var["scalex_measured"])
    np.testing.assert_allclose(found, latent(query, model), atol=1e-5)


FEW_DRAWS = {"n_samples_overall": 500, "silent": True}


def missing_genes(query: AnnData, model: SCALEXModel) -> set[str]:
    return set(model.get_var_names()) - set(query.var_names)


@pytest.mark.parametrize("minified", [False, True], ids=["counts", "minified"])
def test_genes_that_cells_lack_are_not_compared(
    model: SCALEXModel, query: AnnData, minified: bool, caplog: pytest.LogCaptureFixture
) -> None:
    missing = missing_genes(query, model)
    mapped = SCALEXModel.load_query_data(query, model)
    if minified:
        mapped.adata.obsm["qzm"], mapped.adata.obsm["qzv"] = mapped.get_latent_representation(
            return_dist=True
        )
        mapped.minify_adata(use_latent_qzm_key="qzm", use_latent_qzv_key="qzv")
    groups = query.obs["celltype"].value_counts().index[:2]
    table = mapped.differential_expression(
        groupby="celltype", group1=[groups[0]], group2=groups[1], **FEW_DRAWS
    )
    assert set(table.index) == set(model.get_var_names()) - missing
    assert f"lack {len(missing)} of {len(model.get_var_names())} genes" in caplog.text
    if not minified:
        cells = query[query.obs["celltype"] == groups[0], table.index]
        np.testing.assert_allclose(
            table["raw_mean1"], np.asarray(cells.X.mean(axis=0)).ravel(), rtol=1e-5
        )
        ready = sx.pp.prepare_query(query, model.preprocessing, batch_key="batch")
        of_ready = SCALEXModel.load_query_data(ready, model)
        again = of_ready.differential_expression(
            groupby="celltype", group1=[groups[0]], group2=groups[1], **FEW_DRAWS
        )
        assert set(again.index) == set(table.index)
        np.testing.assert_allclose(
            again["bayes_factor"], table["bayes_factor"][again.index], atol=0.1
        )


def test_all_genes_of_complete_cells_are_compared(
    model: SCALEXModel, whole: AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    mapped = SCALEXModel.load_query_data(whole, model)
    groups = whole.obs["celltype"].value_counts().index[:2]
    table = mapped.differential_expression(
        groupby="celltype", group1=[groups[0]], group2=groups[1], **FEW_DRAWS
    )
    assert set(table.index) == set(model.get_var_names())
    assert "left out of the comparison" not in caplog.text


def test_decoded_expression_says_which_genes_were_measured(
    model: SCALEXModel, whole: AnnData, query: AnnData, tmp_path: Path
) -> None:
    missing = missing_genes(query, model)
    mapped = SCALEXModel.load_query_data(query, model)
    for decode in (mapped.get_imputed_expression, mapped.get_normalized_expression):
        assert set(decode().attrs["scalex_unmeasured"]) == missing
        some = [*sorted(missing)[:2], *sorted(set(model.get_var_names()) - missing)[:2]]
        assert decode(gene_list=some).attrs["scalex_unmeasured"] == some[:2]
        assert not decode(gene_list=some[2:]).attrs
        assert not decode(whole.copy()).attrs
    mapped.impute(path=tmp_path / "imputed.h5ad")
    var = ad.read_h5ad(tmp_path / "imputed.h5ad").var
    assert set(var.index[~var["scalex_measured"]]) == missing


def test_minibatches_lack_what_the_model_s_cells_lack(
    model: SCALEXModel, whole: AnnData, query: AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    mapped = SCALEXModel.load_query_data(query, model)
    minibatches = mapped._make_data_loader(mapped.adata)
    found = mapped.get_latent_representation(dataloader=minibatches)
    assert "are taken to lack" in caplog.text
    np.testing.assert_allclose(found, mapped.get_latent_representation(), atol=1e-4)
    np.testing.assert_allclose(
        mapped.get_normalized_expression(dataloader=minibatches, transform_batch="CEL-seq"),
        mapped.get_normalized_expression(return_numpy=True, transform_batch="CEL-seq"),
        atol=1e-5,
    )
    complete = SCALEXModel.load_query_data(whole, model)
    found = mapped.get_latent_representation(dataloader=complete._make_data_loader(complete.adata))
    np.testing.assert_allclose(found, complete.get_latent_representation(), atol=1e-4)
    caplog.clear()
    complete.get_latent_representation(dataloader=complete._make_data_loader(complete.adata))
    assert "are taken to lack" not in caplog.text


def test_models_without_counts_still_know_what_was_measured(
    model: SCALEXModel, query: AnnData
) -> None:
    mapped = SCALEXModel.load_query_data(query, model).without_counts()
    found = mapped.get_imputed_expression().attrs["scalex_unmeasured"]
    assert set(found) == missing_genes(query, model)


def test_a_log_normalized_panel_lies_where_its_counts_lie(
    model: SCALEXModel, query: AnnData, tmp_path: Path
) -> None:
    log = AnnData(query.X.copy(), obs=query.obs[["batch"]], var=query.var)
    sc.pp.normalize_total(log)
    sc.pp.log1p(log)
    log.write_h5ad(tmp_path / "log.h5ad")
    expected = latent(query, model)
    mapped = SCALEXModel.load_query_data(log, model, log_normalized=True)
    np.testing.assert_allclose(mapped.get_latent_representation(), expected, atol=1e-4)
    mapped.save(tmp_path / "query", save_anndata=True)
    again = SCALEXModel.load(tmp_path / "query")
    np.testing.assert_allclose(again.get_latent_representation(), expected, atol=1e-4)
    pytest.importorskip("dask", reason="needs the extra 'scale'")
    model.project_store(tmp_path / "log.h5ad", tmp_path / "out.h5ad", log_normalized=True)
    stored = ad.read_h5ad(tmp_path / "out.h5ad").obsm["latent"]
    np.testing.assert_allclose(stored, expected, atol=1e-4)


def test_only_two_ways_are_known(model: SCALEXModel, query: AnnData) -> None:
    message = "`missing_genes` must be 'expected' or 'zero', got 'mean'."
    with pytest.raises(ValueError, match=re.escape(message)):
        SCALEXModel.load_query_data(query, model, missing_genes="mean")


def test_the_same_seed_gives_the_same_factors(cells: AnnData) -> None:
    models = [sx.integrate(cells[::4].copy(), "batch", max_steps=5, **QUIET) for _ in range(2)]
    for name in ("mean", "loadings", "noise"):
        first, second = (each.gene_factors_[name] for each in models)
        np.testing.assert_array_equal(first, second)
