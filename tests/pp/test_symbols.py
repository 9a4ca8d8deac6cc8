"""Which genes are mitochondrial or spike-ins: by symbol, whatever column holds it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scalex_scvi as sx


def with_names(counts: AnnData, *names: str) -> AnnData:
    counts.var_names = [*names, *counts.var_names[len(names) :]]
    return counts


@pytest.mark.parametrize(
    "name",
    ["MT-CO1", "mt-Co1", "Mt-co1", "ERCC-00002", "ERCC_00002", "GRCh38_MT-CO1", "mm10___mt-Co1"],
)
def test_mitochondrial_genes_and_spike_ins_are_left_out(counts: AnnData, name: str) -> None:
    prepared = sx.pp.rna(with_names(counts, name), batch_key="batch")
    assert name not in prepared.var_names
    assert prepared.n_vars == 59


@pytest.mark.parametrize("name", ["ERCC1", "ERCC6L2", "MTOR", "TMT-1", "mTOR", "M", "T"])
def test_other_genes_stay(counts: AnnData, name: str) -> None:
    assert name in sx.pp.rna(with_names(counts, name), batch_key="batch").var_names


@pytest.mark.parametrize("column", ["gene_symbols", "feature_name", "gene_name"])
def test_symbols_are_found_beside_ids(counts: AnnData, column: str) -> None:
    counts.var[column] = ["MT-ND1", "ERCC1", *counts.var_names[2:]]
    counts.var_names = [f"ENSG{i:011d}" for i in range(60)]
    prepared = sx.pp.rna(counts, batch_key="batch")
    assert list(prepared.var_names) == list(counts.var_names[1:])


def test_ids_without_symbols_are_said(counts: AnnData, caplog: pytest.LogCaptureFixture) -> None:
    counts.var_names = [f"ENSMUSG{i:011d}" for i in range(60)]
    assert sx.pp.rna(counts, batch_key="batch").n_vars == 60
    assert "named by Ensembl ids and var has no column of symbols" in caplog.text


def test_one_prefix_as_text_is_one_prefix(counts: AnnData) -> None:
    counts = with_names(counts, "MT-CO1", "MALAT1", "TTN")
    prepared = sx.pp.rna(counts, batch_key="batch", dropped_prefixes="MT-")
    assert list(prepared.var_names[:2]) == ["MALAT1", "TTN"]


def test_a_query_leaves_out_the_same(counts: AnnData) -> None:
    record = sx.pp.Preprocessing.fit(with_names(counts, "MT-CO1"), batch_key="batch")
    query = counts.copy()
    query.X[:, 0] = 0
    with_it, without = (
        sx.pp.prepare_query(cells, record, batch_key="batch").X.toarray()
        for cells in (counts, query)
    )
    np.testing.assert_array_equal(with_it, without)


def test_fit_and_apply_are_what_rna_does(counts: AnnData) -> None:
    prepared = sx.pp.rna(counts, batch_key="batch", n_top_features=20)
    options = sx.pp.Preparation(n_top_features=20)
    record = sx.pp.Preprocessing.fit(counts, options, batch_key="batch")
    assert record == sx.pp.Preprocessing.from_adata(prepared)
    rows = slice(30, 70)
    block = record.apply(counts.X[rows], counts.var_names, counts.obs["batch"][rows])
    assert (block != prepared.X[rows]).nnz == 0
    shuffled = np.random.default_rng(0).permutation(60)
    again = record.apply(
        counts.X[rows][:, shuffled].toarray(), counts.var_names[shuffled], counts.obs["batch"][rows]
    )
    np.testing.assert_allclose(again.toarray(), block.toarray(), rtol=1e-6)
    with pytest.raises(KeyError, match="No scale is known of .'new'."):
        record.apply(counts.X[:1], counts.var_names, pd.Series(["new"]))
