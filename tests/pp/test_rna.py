"""pp.rna: what it does beyond the other profiles."""

from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

import scalex_scvi as sx
from scalex_scvi._core.matrices import to_csr


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


def test_one_cell_has_no_variable_genes(counts: AnnData) -> None:
    one = counts[:1].copy()
    with pytest.raises(ValueError, match="there is one cell. Give -1"):
        sx.pp.rna(one, n_top_features=5, min_cells=0)
    assert sx.pp.rna(one, n_top_features=-1, min_cells=0).n_vars == one.n_vars


def test_a_batch_in_which_no_gene_varies_selects_none(counts: AnnData) -> None:
    counts.X = counts.X.toarray()
    uniform = (counts.obs["batch"] == "batch0").to_numpy()
    counts.X[uniform] = 1
    selected = sx.pp.rna(counts, batch_key="batch", n_top_features=20).var_names
    others = counts[~uniform].copy()
    assert set(selected) == set(sx.pp.rna(others, batch_key="batch", n_top_features=20).var_names)


def test_drops_spike_ins_and_mitochondrial_genes(counts: AnnData) -> None:
    names = list(counts.var_names)
    names[:3] = ["ERCC-0001", "MT-CO1", "mt-Co1"]
    counts.var_names = names
    assert not set(names[:3]) & set(sx.pp.rna(counts, min_features=0).var_names)
    kept = sx.pp.rna(counts, min_features=0, dropped_prefixes=())
    assert set(names[:3]) <= set(kept.var_names)


def test_median_target_sum(counts: AnnData) -> None:
    prepared = sx.pp.rna(counts, min_features=0, target_sum=None)
    totals = dense(counts).sum(axis=1)
    assert sx.pp.Preprocessing.from_adata(prepared).target_sum == np.median(totals)


def test_log_values_are_recognized(counts: AnnData) -> None:
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


def test_unsupported_matrix() -> None:
    with pytest.raises(TypeError, match="'list'; allowed are numpy arrays"):
        to_csr([[1]], name="adata.X")
