"""pp.rna: filter, normalise, select, scale; nothing of the user's changes."""

from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

import scalex_scvi as sx


def dense(adata: AnnData) -> np.ndarray:
    return adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)


def test_equals_scanpy_then_division_by_the_batch_maximum(counts: AnnData) -> None:
    prepared = sx.pp.rna(counts, batch_key="batch", min_features=0, n_top_features=20)
    expected = counts.copy()
    sc.pp.normalize_total(expected, target_sum=1e4)
    sc.pp.log1p(expected)
    sc.pp.highly_variable_genes(expected, n_top_genes=20, batch_key="batch")
    np.testing.assert_allclose(prepared.raw.X.toarray(), expected.X.toarray(), rtol=1e-6)
    expected = expected[:, expected.var["highly_variable"]].copy()
    assert list(prepared.var_names) == list(expected.var_names)
    for batch in counts.obs["batch"].cat.categories:
        rows = (counts.obs["batch"] == batch).to_numpy()
        block = expected.X.toarray()[rows]
        np.testing.assert_allclose(
            dense(prepared)[rows], block / np.maximum(block.max(0), 1e-30), rtol=1e-5
        )


def test_global_scaling_is_an_option(counts: AnnData) -> None:
    prepared = sx.pp.rna(counts, batch_key="batch", min_features=0, scale_by="global")
    expression = prepared.raw[:, prepared.var_names].X.toarray()
    np.testing.assert_allclose(dense(prepared), expression / expression.max(0), rtol=1e-5)


FORMATS = {
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr array": sparse.csr_array,
    "dense float32": lambda x: np.asarray(x.todense(), dtype=np.float32),
    "dense float64": lambda x: np.asarray(x.todense(), dtype=np.float64),
    "dense Fortran": lambda x: np.asfortranarray(x.toarray()),
    "integers": lambda x: sparse.csr_matrix(x, dtype=np.int64),
}


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS.keys())
def test_every_matrix_gives_the_same(counts: AnnData, make: object) -> None:
    expected = sx.pp.rna(counts, batch_key="batch", min_features=0)
    other = AnnData(make(counts.X), obs=counts.obs, var=counts.var)
    before = other.copy()
    prepared = sx.pp.rna(other, batch_key="batch", min_features=0)
    np.testing.assert_array_equal(dense(prepared), dense(expected))
    np.testing.assert_array_equal(dense(other), dense(before))
    assert type(other.X) is type(before.X)
    pd.testing.assert_frame_equal(other.obs, before.obs)
    assert not other.uns


def test_view_and_backed_give_the_same(counts: AnnData, tmp_path: object) -> None:
    expected = sx.pp.rna(counts, batch_key="batch", min_features=0)
    view = ad.concat([counts, counts], index_unique="-")[: counts.n_obs]
    assert view.is_view
    np.testing.assert_array_equal(
        dense(sx.pp.rna(view, batch_key="batch", min_features=0)), dense(expected)
    )
    counts.write_h5ad(tmp_path / "counts.h5ad")
    backed = ad.read_h5ad(tmp_path / "counts.h5ad", backed="r")
    np.testing.assert_array_equal(
        dense(sx.pp.rna(backed, batch_key="batch", min_features=0)), dense(expected)
    )
    assert backed.isbacked


@pytest.mark.parametrize(
    "labels",
    [lambda i: i % 3, lambda i: i % 2 == 0, lambda i: (i % 3) * 0.5],
    ids=["integers", "booleans", "floats"],
)
def test_batch_labels_of_any_type(counts: AnnData, labels: object) -> None:
    counts.obs["batch"] = labels(np.arange(counts.n_obs))
    prepared = sx.pp.rna(counts, batch_key="batch", min_features=0, n_top_features=20)
    assert prepared.obs["batch"].dtype == counts.obs["batch"].dtype
    assert prepared.shape == (150, 20)


def test_a_batch_of_two_cells(counts: AnnData) -> None:
    counts.obs["batch"] = ["pair"] * 2 + ["others"] * (counts.n_obs - 2)
    assert sx.pp.rna(counts, batch_key="batch", min_features=0, n_top_features=20).n_vars == 20


def test_drops_spike_ins_and_mitochondrial_genes(counts: AnnData) -> None:
    names = list(counts.var_names)
    names[:3] = ["ERCC-0001", "MT-CO1", "mt-Co1"]
    counts.var_names = names
    assert not set(names[:3]) & set(sx.pp.rna(counts, min_features=0).var_names)
    kept = sx.pp.rna(counts, min_features=0, dropped_prefixes=())
    assert set(names[:3]) <= set(kept.var_names)


def test_keeps_obs_obsm_uns_and_leaves_registration_out(counts: AnnData) -> None:
    counts.obsm["spatial"] = np.arange(2 * counts.n_obs).reshape(-1, 2)
    counts.uns |= {"note": {"a": 1}, "_scvi_uuid": "x"}
    counts.X = sparse.csr_matrix(np.vstack([0 * dense(counts)[:1], dense(counts)[1:]]))
    prepared = sx.pp.rna(counts, min_features=1)
    assert prepared.obs_names[0] == counts.obs_names[1]
    np.testing.assert_array_equal(prepared.obsm["spatial"], counts.obsm["spatial"][1:])
    assert prepared.uns["note"] == {"a": 1}
    assert "_scvi_uuid" not in prepared.uns


def test_gene_list_and_all_genes(counts: AnnData, caplog: pytest.LogCaptureFixture) -> None:
    listed = sx.pp.rna(counts, min_features=0, n_top_features=["gene5", "gene3", "nowhere"])
    assert list(listed.var_names) == ["gene5", "gene3"]
    assert "1 of 3 listed genes are not in the data" in caplog.text
    assert sx.pp.rna(counts, min_features=0, n_top_features=-1).n_vars == counts.n_vars


def test_median_target_sum(counts: AnnData) -> None:
    prepared = sx.pp.rna(counts, min_features=0, target_sum=None)
    totals = dense(counts).sum(axis=1)
    assert sx.pp.Preprocessing.from_adata(prepared).target_sum == np.median(totals)


def test_record_survives_a_file(counts: AnnData, tmp_path: object) -> None:
    prepared = sx.pp.rna(counts, batch_key="batch", min_features=0)
    prepared.write_h5ad(tmp_path / "a.h5ad")
    record = sx.pp.Preprocessing.from_adata(prepared)
    restored = sx.pp.Preprocessing.from_adata(ad.read_h5ad(tmp_path / "a.h5ad"))
    assert restored == record
    np.testing.assert_array_equal(restored.scale, record.scale)
    assert list(restored.scale.columns) == ["batch0", "batch1", "batch2"]


def test_log_values_are_recognised(counts: AnnData) -> None:
    log = counts.copy()
    sc.pp.normalize_total(log, target_sum=1e4)
    sc.pp.log1p(log)
    with pytest.raises(ValueError, match=r"does not look like counts.*log_normalized=True"):
        sx.pp.rna(log, batch_key="batch", min_features=0)
    declared = sx.pp.rna(log, batch_key="batch", min_features=0, log_normalized=True)
    expected = sx.pp.rna(counts, batch_key="batch", min_features=0)
    np.testing.assert_allclose(dense(declared), dense(expected), rtol=1e-5)


def test_expected_counts_are_accepted_and_reported(
    counts: AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    counts.X = counts.X * 10.5
    sx.pp.rna(counts, min_features=0)
    assert "values that are not integers; treated as counts" in caplog.text


def test_steps_are_logged(counts: AnnData, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "scalex_scvi")
    sx.pp.rna(counts, min_features=0)
    assert "Kept 150 of 150 cells" in caplog.text


def _with(value: float) -> object:
    def spoil(adata: AnnData) -> None:
        adata.X[3, 5] = value

    return spoil


def _missing_batch(adata: AnnData) -> None:
    adata.obs["batch"] = adata.obs["batch"].astype(object)
    adata.obs.loc["cell0", "batch"] = None


def _lone_cell(adata: AnnData) -> None:
    adata.obs["batch"] = ["alone"] + ["others"] * (adata.n_obs - 1)


def _repeat_a_gene(adata: AnnData) -> None:
    adata.var_names = ["gene1", *adata.var_names[1:]]


BAD = {
    "negative": (_with(-1), ValueError, "negative values"),
    "NaN": (_with(np.nan), ValueError, "1 values that are NaN or infinite"),
    "infinite": (_with(np.inf), ValueError, "NaN or infinite"),
    "missing batch": (_missing_batch, ValueError, "missing .* for 1 of 150 cells"),
    "batch of one cell": (_lone_cell, ValueError, r"one cell: \['alone'\]"),
    "duplicate genes": (_repeat_a_gene, ValueError, r"more than once, for example \['gene1'\]"),
    "no batch column": (lambda a: a.obs.drop(columns="batch", inplace=True), KeyError, "'batch'"),
    "all zero": (lambda a: setattr(a, "X", a.X * 0), ValueError, "no value other than zero"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("spoil", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_gives_one_clear_error_and_changes_nothing(
    counts: AnnData, spoil: object, error: type[Exception], message: str
) -> None:
    spoil(counts)
    before = counts.copy()
    with pytest.raises(error, match=message):
        sx.pp.rna(counts, batch_key="batch", min_features=0)
    np.testing.assert_array_equal(dense(counts), dense(before))
    pd.testing.assert_frame_equal(counts.obs, before.obs)
    assert not counts.uns


BAD_ARGUMENTS = {
    "no cell left": ({"min_features": 600}, ValueError, "median cell has .*Lower"),
    "no gene left": ({"min_cells": 10_000, "min_features": 0}, ValueError, "Lower `min_cells`"),
    "no listed gene": ({"n_top_features": ["a"], "min_features": 0}, ValueError, "None of the 1"),
    "no genes": ({"n_top_features": 0, "min_features": 0}, ValueError, "must be positive"),
    "no layer": ({"layer": "counts"}, KeyError, "'counts' is not in adata.layers"),
    "scaling": ({"scale_by": "cell", "min_features": 0}, ValueError, "'batch' or 'global'"),
}


@pytest.mark.parametrize(
    ("arguments", "error", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS.keys()
)
def test_bad_arguments(
    counts: AnnData, arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        sx.pp.rna(counts, batch_key="batch", **arguments)


def test_empty_selection(counts: AnnData) -> None:
    with pytest.raises(ValueError, match="0 cells × 60 genes"):
        sx.pp.rna(counts[:0])


def test_unsupported_matrix() -> None:
    with pytest.raises(TypeError, match="'list'; allowed are numpy arrays"):
        sx.pp._checks.to_csr([[1]], name="adata.X")
