"""pp.reindex, pp.batch_scale and pp.prepare_query."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from anndata import AnnData
from conftest import simulate_counts

import scalex_scvi as sx
from scalex_scvi.pp import Preprocessing


@pytest.fixture
def record(prepared: AnnData) -> Preprocessing:
    return Preprocessing.from_adata(prepared)


def test_reference_cells_come_out_as_they_went_in(
    counts: AnnData, prepared: AnnData, record: Preprocessing
) -> None:
    query = sx.pp.prepare_query(counts, record, batch_key="batch")
    np.testing.assert_array_equal(query.X.toarray(), prepared.X.toarray())
    some = sx.pp.prepare_query(counts[10:20], record, batch_key="batch")
    np.testing.assert_array_equal(some.X.toarray(), prepared.X.toarray()[10:20])


def test_filtered_genes_count_in_the_totals_of_reference_and_query(counts: AnnData) -> None:
    values = counts.X.toarray()
    values[:, 0] = 0
    values[:2, 0] = 500  # in fewer than `min_cells` cells
    counts.X = values
    reference = sx.pp.rna(counts, batch_key="batch", min_features=0)
    assert "gene0" not in reference.var_names
    query = sx.pp.prepare_query(counts, Preprocessing.from_adata(reference), batch_key="batch")
    np.testing.assert_array_equal(query.X.toarray(), reference.X.toarray())


def test_new_batches_are_scaled_by_their_own_maxima(record: Preprocessing) -> None:
    new = simulate_counts(seed=7)
    new.obs["batch"] = new.obs["batch"].cat.rename_categories(lambda name: f"new {name}")
    query = sx.pp.prepare_query(new, record, batch_key="batch")
    for batch in new.obs["batch"].cat.categories:
        maxima = query.X[(new.obs["batch"] == batch).to_numpy()].max(axis=0).toarray()
        np.testing.assert_allclose(maxima, 1, rtol=1e-6)


def test_values_above_a_known_batch_s_maximum_become_one(
    counts: AnnData, record: Preprocessing
) -> None:
    counts.X = counts.X.toarray()
    counts.X[0, 0] = 10_000
    query = sx.pp.prepare_query(counts, record, batch_key="batch")
    assert query.X[0, 0] == 1
    assert query.X.max() <= 1


def test_order_missing_and_additional_genes(
    counts: AnnData, prepared: AnnData, record: Preprocessing, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "scalex_scvi")
    order = np.random.default_rng(0).permutation(counts.n_vars)
    shuffled = counts[:, order].copy()
    query = sx.pp.prepare_query(shuffled, record, batch_key="batch")
    np.testing.assert_allclose(query.X.toarray(), prepared.X.toarray(), rtol=1e-6)

    some = sx.pp.prepare_query(counts[:, :55], record, batch_key="batch")
    assert list(some.var_names) == list(prepared.var_names)
    assert some.X[:, 55:].nnz == 0
    assert "Found 55 of 60 genes of the reference (91.7 %)" in caplog.text
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]

    sx.pp.prepare_query(counts[:, :20], record, batch_key="batch")
    assert [r for r in caplog.records if r.levelno == logging.WARNING]


def test_no_shared_gene(counts: AnnData, record: Preprocessing) -> None:
    counts.var_names = [f"ENSG{i}" for i in range(counts.n_vars)]
    with pytest.raises(ValueError, match="shares none of the 60 genes.*ENSG0"):
        sx.pp.prepare_query(counts, record, batch_key="batch")


def test_repeated_genes_matter_only_if_the_reference_has_them(
    counts: AnnData, record: Preprocessing
) -> None:
    names = list(counts.var_names)
    counts.var_names = ["other", "other", *names[2:]]
    assert sx.pp.prepare_query(counts, record, batch_key="batch").n_vars == 60
    counts.var_names = ["gene2", *names[1:]]
    with pytest.raises(ValueError, match=r"more than once, for example \['gene2'\]"):
        sx.pp.prepare_query(counts, record, batch_key="batch")


def test_log_normalised_query(counts: AnnData, prepared: AnnData, record: Preprocessing) -> None:
    log = AnnData(prepared.raw.X, obs=prepared.obs, var=prepared.raw.var)
    with pytest.raises(ValueError, match="log_normalized=True"):
        sx.pp.prepare_query(log, record, batch_key="batch")
    query = sx.pp.prepare_query(log, record, batch_key="batch", log_normalized=True)
    np.testing.assert_array_equal(query.X.toarray(), prepared.X.toarray())


def test_reindex_keeps_values_and_cells(counts: AnnData) -> None:
    counts.obsm["spatial"] = np.ones((counts.n_obs, 2))
    genes = ["gene7", "nowhere", "gene0"]
    out = sx.pp.reindex(counts, genes)
    assert list(out.var_names) == genes
    np.testing.assert_array_equal(out.X[:, 0].toarray(), counts.X[:, 7].toarray())
    assert out.X[:, 1].nnz == 0
    assert "spatial" in out.obsm
    assert list(out.obs_names) == list(counts.obs_names)


def test_batch_scale(counts: AnnData) -> None:
    scaled = sx.pp.batch_scale(counts, "batch")
    assert scaled.X.max() == 1
    assert counts.X.max() > 1
    one = sx.pp.batch_scale(counts)
    np.testing.assert_allclose(
        one.X.toarray(), counts.X.toarray() / counts.X.max(0).toarray(), rtol=1e-6
    )
