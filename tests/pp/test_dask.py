"""Preprocessing of dask arrays: the same as in memory, and never all of it at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from conftest import real_data, simulate_counts, trained_model
from scipy import sparse

import scalex_scvi as sx
from scalex_scvi._core.dask_blocks import stack_rows
from scalex_scvi.pp import Preprocessing

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")


def lazily(adata: AnnData, n_rows: int = 40, as_block: Callable[..., Any] | None = None) -> AnnData:
    """The same data with ``X`` in blocks, which refuses to be evaluated whole in one piece."""
    as_block = as_block or sparse.csr_matrix
    x = as_block(adata.X)

    def read(block_info: Any = None) -> Any:
        (start, stop), _ = block_info[None]["array-location"]
        return x[start:stop].copy()

    sizes = [n_rows] * (adata.n_obs // n_rows)
    rest = adata.n_obs - sum(sizes)
    chunks = (tuple(sizes + [rest] * (rest > 0)), (adata.n_vars,))
    lazy = adata.copy()
    lazy.X = da.map_blocks(read, chunks=chunks, dtype=x.dtype, meta=x[:0])
    return lazy


def assert_same(lazy: AnnData, expected: AnnData) -> None:
    assert isinstance(lazy.X, da.Array)
    x = lazy.X.compute()
    assert x.format == "csr"
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x.toarray(), expected.X.toarray())
    pd.testing.assert_frame_equal(lazy.obs, expected.obs)
    pd.testing.assert_frame_equal(lazy.var, expected.var)
    pd.testing.assert_frame_equal(lazy.varm["scalex_scale"], expected.varm["scalex_scale"])
    assert lazy.uns["scalex"] == expected.uns["scalex"]


def with_poor_cells_and_names(counts: AnnData) -> AnnData:
    """Spike-ins, a gene in one cell, and a whole block of poor cells."""
    names = list(counts.var_names)
    names[:2] = ["ERCC-0001", "MT-CO1"]
    counts.var_names = names
    x = counts.X.tolil()
    x[:, 5] = 0
    x[100, 5] = 7
    x[40:80, 10:] = 0
    counts.X = sparse.csr_matrix(x, dtype=np.float32)
    return counts


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_top_features": 20},
        {"n_top_features": ["gene7", "gene3", "gene40"]},
        {"n_top_features": 20, "scale_by": "global"},
        {"n_top_features": 20, "min_features": 20, "min_cells": 30},
        {"n_top_features": 20, "target_sum": None},
        {"n_top_features": 20, "dropped_prefixes": ()},
        {"n_top_features": 20, "batch_key": None},
    ],
    ids=["all", "top", "listed", "global", "filters", "median", "keep-prefixes", "one-batch"],
)
def test_equals_the_result_in_memory(counts: AnnData, options: dict[str, Any]) -> None:
    counts = with_poor_cells_and_names(counts)
    options = {"batch_key": "batch", "min_features": 0} | options
    assert_same(sx.pp.rna(lazily(counts), **options), sx.pp.rna(counts, **options))


@pytest.mark.parametrize(
    "as_block",
    [sparse.csr_matrix, sparse.csc_matrix, lambda x: x.toarray(), lambda x: x.astype(np.int64)],
    ids=["csr", "csc", "dense", "integers"],
)
def test_blocks_of_any_kind(counts: AnnData, as_block: Callable[..., Any]) -> None:
    options = {"batch_key": "batch", "min_features": 0, "n_top_features": 20}
    lazy = sx.pp.rna(lazily(counts, as_block=as_block), **options)
    assert_same(lazy, sx.pp.rna(counts, **options))


def test_layer_and_preprocess(counts: AnnData) -> None:
    lazy = lazily(counts)
    lazy.layers["counts"] = lazy.X
    lazy.X = None
    options = {"batch_key": "batch", "min_features": 0, "n_top_features": 20}
    prepared = sx.pp.preprocess(lazy, "RNA", layer="counts", **options)
    assert_same(prepared, sx.pp.rna(counts, **options))


def test_log_values(counts: AnnData) -> None:
    log = counts.copy()
    sc.pp.normalize_total(log, target_sum=1e4)
    sc.pp.log1p(log)
    options = {"batch_key": "batch", "min_features": 0, "n_top_features": 20}
    with pytest.raises(ValueError, match=r"does not look like counts.*log_normalized=True"):
        sx.pp.rna(lazily(log), **options)
    options["log_normalized"] = True
    assert_same(sx.pp.rna(lazily(log), **options), sx.pp.rna(log, **options))


@pytest.mark.parametrize("n_batches", [2, 12])
def test_genes_and_columns_are_those_of_scanpy(n_batches: int) -> None:
    counts = simulate_counts(n_cells=400, n_genes=150, n_batches=n_batches, seed=3)
    counts.X[np.ix_(np.arange(400) % n_batches == 0, np.arange(10))] = 0  # not in one batch
    prepared = sx.pp.rna(
        lazily(counts), batch_key="batch", min_features=0, min_cells=0, n_top_features=50
    )
    sc.pp.normalize_total(counts, target_sum=1e4)
    sc.pp.log1p(counts)
    sc.pp.highly_variable_genes(counts, n_top_genes=50, batch_key="batch")
    expected = counts.var[counts.var["highly_variable"]]
    pd.testing.assert_frame_equal(prepared.var[expected.columns], expected, rtol=1e-6)


def test_the_input_is_not_changed(counts: AnnData) -> None:
    lazy = lazily(counts)
    lazy.uns["deep"] = {"kept": [1]}
    lazy.uns["log1p"] = {"base": None}
    x, obs, var, uns = lazy.X, lazy.obs.copy(), lazy.var.copy(), str(lazy.uns)
    sx.pp.rna(lazy, batch_key="batch", min_features=0).uns["deep"]["kept"].append(2)
    assert lazy.X is x
    pd.testing.assert_frame_equal(lazy.obs, obs)
    pd.testing.assert_frame_equal(lazy.var, var)
    assert str(lazy.uns) == uns


def test_data_is_read_once_to_fit_and_in_blocks(counts: AnnData) -> None:
    rows: list[int] = []

    def read(block: np.ndarray) -> sparse.csr_matrix:
        rows.append(len(block))
        return counts.X[block.ravel()]

    numbers = da.from_array(np.arange(counts.n_obs)[:, None], chunks=(30, 1))
    lazy = counts.copy()
    lazy.X = numbers.map_blocks(
        read, chunks=(numbers.chunks[0], (counts.n_vars,)), dtype=np.float32, meta=counts.X[:0]
    )
    prepared = sx.pp.rna(lazy, batch_key="batch", min_features=0, n_top_features=20)
    assert sum(rows) == counts.n_obs
    prepared.X.compute()
    assert sum(rows) == 2 * counts.n_obs
    assert max(rows) == 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.X.__setitem__((60, 3), -1), "negative values (minimum -1)"),
        (lambda a: a.X.__setitem__((60, 3), np.nan), "1 values that are NaN or infinite"),
        (lambda a: a.obs.__setitem__("batch", ["a"] + ["b"] * 149), "Batches with one cell: ['a']"),
        (lambda a: setattr(a, "var_names", ["g"] * a.n_vars), "occur more than once"),
    ],
    ids=["negative", "nan", "lone-cell", "repeated-gene"],
)
def test_errors_are_those_in_memory(
    counts: AnnData, change: Callable[[AnnData], None], message: str
) -> None:
    change(counts)
    for adata in (counts, lazily(counts)):
        with pytest.raises(ValueError) as caught:
            sx.pp.rna(adata, batch_key="batch", min_features=0)
        assert message in str(caught.value)


def test_blocks_of_genes_are_refused(counts: AnnData) -> None:
    counts.X = da.from_array(counts.X.toarray(), chunks=(50, 20))
    with pytest.raises(ValueError, match=r"chunks of whole cells.*read_lazy"):
        sx.pp.rna(counts, batch_key="batch", min_features=0)


@pytest.mark.parametrize("function", [sx.pp.atac, sx.pp.adt], ids=["ATAC", "ADT"])
@pytest.mark.parametrize("n_top_features", [-1, 20])
def test_all_profiles_work_in_blocks(
    counts: AnnData, function: Callable[..., AnnData], n_top_features: int
) -> None:
    options = {"batch_key": "batch", "n_top_features": n_top_features}
    assert_same(function(lazily(counts), **options), function(counts, **options))


def test_batch_scale_works_in_blocks(counts: AnnData) -> None:
    assert_same(sx.pp.batch_scale(lazily(counts), "batch"), sx.pp.batch_scale(counts, "batch"))


def test_reindex(counts: AnnData) -> None:
    genes = ["gene5", "absent", "gene1"]
    lazy = sx.pp.reindex(lazily(counts), genes)
    expected = sx.pp.reindex(counts, genes)
    np.testing.assert_array_equal(lazy.X.compute().toarray(), expected.X.toarray())
    assert list(lazy.var_names) == genes
    pd.testing.assert_frame_equal(lazy.obs, expected.obs)


def query_counts() -> AnnData:
    """A known and a new batch, with missing, additional and reordered genes."""
    query = simulate_counts(n_cells=90, n_genes=70, n_batches=2, seed=1)
    query.obs["batch"] = np.where(query.obs["batch"] == "batch0", "batch1", "new")
    return query[:, np.random.default_rng(0).permutation(70)[:60]].copy()


@pytest.mark.parametrize("scale_by", ["batch", "global"])
@pytest.mark.parametrize("batch_key", ["batch", None])
def test_query_equals_the_result_in_memory(
    counts: AnnData, scale_by: str, batch_key: str | None
) -> None:
    reference = sx.pp.rna(
        counts, batch_key="batch", min_features=0, n_top_features=40, scale_by=scale_by
    )
    record = Preprocessing.from_adata(reference)
    query = query_counts()
    lazy = sx.pp.prepare_query(lazily(query), record, batch_key=batch_key)
    assert_same(lazy, sx.pp.prepare_query(query, record, batch_key=batch_key))


@pytest.mark.parametrize("profile", ["ATAC", "ADT"])
def test_query_of_other_profiles(counts: AnnData, profile: str) -> None:
    reference = sx.pp.preprocess(
        counts, profile, batch_key="batch", min_features=0, n_top_features=30
    )
    record = Preprocessing.from_adata(reference)
    query = query_counts()
    lazy = sx.pp.prepare_query(lazily(query), record, batch_key="batch")
    assert_same(lazy, sx.pp.prepare_query(query, record, batch_key="batch"))


def test_cells_without_reference_genes_are_reported(
    prepared: AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    query = simulate_counts(seed=1)
    query.X[50] = 0
    sx.pp.prepare_query(lazily(query), Preprocessing.from_adata(prepared), batch_key="batch")
    assert "1 of 150 cells have none of the 60 selected genes" in caplog.text


def test_a_model_projects_lazy_counts(counts: AnnData, prepared: AnnData) -> None:
    model = trained_model(prepared)
    lazy = sx.SCALEXModel.load_query_data(lazily(counts), model).get_latent_representation()
    expected = sx.SCALEXModel.load_query_data(counts, model).get_latent_representation()
    np.testing.assert_allclose(lazy, expected, atol=1e-5)


@pytest.mark.real_data
def test_real_cells_from_disk_by_anndata() -> None:
    xarray = pytest.importorskip("xarray")
    assert xarray is not None
    adata = real_data("kang_pbmc_published_labels")
    options = {"batch_key": "donor", "min_features": 200}
    expected = sx.pp.rna(adata, **options)
    lazy = adata.copy()
    lazy.X = lazily(adata, n_rows=500).X
    assert_same(sx.pp.rna(lazy, **options), expected)


def test_annotations_of_read_lazy(counts: AnnData, tmp_path: Any) -> None:
    pytest.importorskip("xarray")
    counts.write_h5ad(tmp_path / "counts.h5ad")
    options = {"batch_key": "batch", "min_features": 0, "n_top_features": 20}
    lazy = sx.pp.rna(ad.experimental.read_lazy(tmp_path / "counts.h5ad"), **options)
    expected = sx.pp.rna(counts, **options)
    np.testing.assert_array_equal(lazy.X.compute().toarray(), expected.X.toarray())
    assert list(lazy.obs_names) == list(expected.obs_names)
    assert list(lazy.obs["batch"].astype(str)) == list(expected.obs["batch"].astype(str))


@pytest.mark.parametrize("scheduler", ["threads", "synchronous", "processes"])
def test_results_of_blocks_are_stacked_in_the_order_of_the_blocks(scheduler: str) -> None:
    lengths = [3, 1, 4]
    blocks = [np.full((n, 2), n, dtype=np.float32) for n in lengths]
    with dask.config.set(scheduler=scheduler):
        stacked = stack_rows([dask.delayed(block) for block in blocks], lengths)
    assert stacked.dtype == np.float32
    np.testing.assert_array_equal(stacked, np.concatenate(blocks))
