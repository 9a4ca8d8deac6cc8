"""pp.reindex, pp.batch_scale and pp.prepare_query."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from anndata import AnnData
from conftest import real_data, simulate_counts
from scipy import sparse

import scalex_scvi as sx
from scalex_scvi.pp import Preprocessing


@pytest.fixture
def record(prepared: AnnData) -> Preprocessing:
    return Preprocessing.from_adata(prepared)


@pytest.mark.parametrize("n_top_features", [-1, 7], ids=["all features", "some features"])
def test_reference_cells_come_out_as_they_went_in(case, dense, n_top_features: int) -> None:
    rng = np.random.default_rng(0)
    counts = dense(case.counts)
    counts[:, 5] *= rng.random(len(counts)) < 0.02  # in few cells
    case.counts.X = counts
    prepared = case(n_top_features=n_top_features, min_features=8, min_cells=10)
    record = Preprocessing.from_adata(prepared)
    again = case.counts[prepared.obs_names]
    query = sx.pp.prepare_query(again, record, batch_key="batch")
    np.testing.assert_array_equal(dense(query), dense(prepared))
    np.testing.assert_array_equal(query.obs["n_genes"], prepared.obs["n_genes"])
    assert Preprocessing.from_adata(query) == record
    some = sx.pp.prepare_query(again[10:20], record, batch_key="batch")
    np.testing.assert_array_equal(dense(some), dense(prepared)[10:20])


def test_shuffled_and_additional_features_change_nothing(case, dense) -> None:
    prepared = case(case.counts[:, :12], n_top_features=-1, min_cells=0)
    record = Preprocessing.from_adata(prepared)
    # RNA is normalized over all genes of the query, so that further ones would matter there
    columns = np.arange(12 if case.name == "RNA" else case.counts.n_vars)
    shuffled = case.counts[:, np.random.default_rng(0).permutation(columns)]
    query = sx.pp.prepare_query(shuffled, record, batch_key="batch")
    assert list(query.var_names) == list(prepared.var_names)
    np.testing.assert_allclose(dense(query), dense(prepared), rtol=1e-6)


def test_a_subset_of_the_reference_keeps_its_normalization(case, dense) -> None:
    prepared = case()
    subset = prepared[:, [6, 3, 4]].copy()
    record = Preprocessing.from_adata(subset)
    query = sx.pp.prepare_query(case.counts, record, batch_key="batch")
    np.testing.assert_array_equal(dense(query), dense(subset))


def test_the_query_s_matrix_may_be_of_any_kind_and_does_not_change(case, dense) -> None:
    prepared = case()
    record = Preprocessing.from_adata(prepared)
    for make in (sparse.csc_matrix, lambda x: x.toarray().astype(np.int64)):
        other = AnnData(make(case.counts.X), obs=case.counts.obs, var=case.counts.var)
        before = other.copy()
        query = sx.pp.prepare_query(other, record, batch_key="batch")
        np.testing.assert_array_equal(dense(query), dense(prepared))
        np.testing.assert_array_equal(dense(other), dense(before))
        assert list(other.obs) == list(before.obs)
        assert not other.uns


def test_few_shared_features_are_named_as_what_they_are(case, caplog) -> None:
    record = Preprocessing.from_adata(case(min_cells=0))
    n = len(record.genes)
    sx.pp.prepare_query(case.counts[:, :8], record, batch_key="batch", min_gene_share=0.1)
    assert f"Found 8 of {n} {case.features} of the reference" in caplog.text
    case.counts.var_names = [f"x{i}" for i in range(case.counts.n_vars)]
    with pytest.raises(ValueError, match=f"shares none of the {n} {case.features}.*x0"):
        sx.pp.prepare_query(case.counts, record, batch_key="batch")


def test_cells_without_any_of_the_reference_s_features(case, dense, caplog) -> None:
    record = Preprocessing.from_adata(case())
    counts = dense(case.counts)
    counts[2] = 0
    case.counts.X = counts
    query = sx.pp.prepare_query(case.counts, record, batch_key="batch")
    assert query.X[2].nnz == 0
    assert f"1 of 150 cells have none of the {query.n_vars} selected {case.features}" in caplog.text


def test_counts_cannot_follow_a_reference_that_came_normalized(case, dense, caplog) -> None:
    log = case.counts.copy()
    log.X = log.X.log1p()
    record = Preprocessing.from_adata(case(log, log_normalized=True))
    query = sx.pp.prepare_query(log, record, batch_key="batch", log_normalized=True)
    np.testing.assert_array_equal(dense(query), dense(case(log, log_normalized=True)))
    if case.name == "RNA":
        sx.pp.prepare_query(case.counts, record, batch_key="batch")
        assert "normalized to a total of 10000" in caplog.text
        return
    with pytest.raises(ValueError, match=f"reference's {case.features} came normalized"):
        sx.pp.prepare_query(case.counts, record, batch_key="batch")


def test_records_of_earlier_versions_load(prepared: AnnData) -> None:
    old = {
        "profile": "RNA",
        "target_sum": 1e4,
        "scale_by": "batch",
        "dropped_prefixes": ["ERCC", "MT-", "mt-"],
    }
    scale = prepared.varm["scalex_scale"]
    record = Preprocessing.from_dict(old, prepared.var_names, scale)
    assert record == replace(
        Preprocessing.from_adata(prepared),
        dropped_prefixes=("ERCC", "MT-", "mt-"),
        new_batches="own",
        normalized_over=(),
        shares=(),
    )


@pytest.mark.parametrize("log1p", [True, False])
def test_peaks_follow_the_reference_with_and_without_logarithms(peaks: AnnData, log1p) -> None:
    prepared = sx.pp.atac(peaks, batch_key="batch", min_features=0, log1p=log1p)
    record = Preprocessing.from_adata(prepared)
    assert record.log1p == log1p
    query = sx.pp.prepare_query(peaks, record, batch_key="batch")
    assert (query.X != prepared.X).nnz == 0


def test_peaks_of_earlier_versions_had_no_logarithms(peaks: AnnData) -> None:
    prepared = sx.pp.atac(peaks, batch_key="batch", min_features=0, log1p=False)
    del prepared.uns["scalex"]["log1p"]
    query = sx.pp.prepare_query(peaks, Preprocessing.from_adata(prepared), batch_key="batch")
    assert (query.X != prepared.X).nnz == 0


def test_records_of_later_versions_are_refused(counts: AnnData, record: Preprocessing) -> None:
    with pytest.raises(ValueError, match="'CyTOF' is unknown"):
        sx.pp.prepare_query(counts, replace(record, profile="CyTOF"), batch_key="batch")


@pytest.mark.real_data
def test_real_peaks_of_one_donor_projected_on_the_other() -> None:
    adata = real_data("granja_bmmc_atac_peaks")
    first = adata.obs["batch"] == "BMMC_D6T1"
    options = {"min_features": 20, "n_top_features": 2000}
    reference = sx.pp.atac(adata[first], batch_key="batch", **options)
    record = Preprocessing.from_adata(reference)
    query = sx.pp.prepare_query(adata[~first], record, batch_key="batch")
    assert query.shape == ((~first).sum(), reference.n_vars)
    again = sx.pp.prepare_query(adata[reference.obs_names], record, batch_key="batch")
    assert (again.X != reference.X).nnz == 0


def test_filtered_genes_count_in_the_totals_of_reference_and_query(counts: AnnData) -> None:
    values = counts.X.toarray()
    values[:, 0] = 0
    values[:2, 0] = 500  # in fewer than `min_cells` cells
    counts.X = values
    reference = sx.pp.rna(counts, batch_key="batch", min_features=0)
    assert "gene0" not in reference.var_names
    query = sx.pp.prepare_query(counts, Preprocessing.from_adata(reference), batch_key="batch")
    np.testing.assert_array_equal(query.X.toarray(), reference.X.toarray())


def test_new_batches_have_the_geometric_mean_of_the_reference_s_scales(
    record: Preprocessing,
) -> None:
    new = simulate_counts(seed=7)
    new.obs["batch"] = "new"
    query = sx.pp.prepare_query(new, record, batch_key="batch")
    scale = record.scale.where(record.scale > 0)
    expected = np.exp(np.log(scale).mean(axis=1, skipna=True)).fillna(0)
    np.testing.assert_allclose(query.varm["scalex_scale"]["new"], expected, rtol=1e-6)


def test_a_cell_of_a_new_batch_is_the_same_in_any_company(record: Preprocessing) -> None:
    new = simulate_counts(seed=7)
    new.obs["batch"] = "new"
    together = sx.pp.prepare_query(new, record, batch_key="batch")
    for cells in ([3], [3, 40], range(20)):
        part = sx.pp.prepare_query(new[list(cells)].copy(), record, batch_key="batch")
        assert (part.X != together.X[list(cells)]).nnz == 0


def test_new_batches_are_scaled_by_their_own_maxima_where_that_is_wanted(
    record: Preprocessing,
) -> None:
    record = replace(record, new_batches="own")
    new = simulate_counts(seed=7)
    new.obs["batch"] = new.obs["batch"].cat.rename_categories(lambda name: f"new {name}")
    query = sx.pp.prepare_query(new, record, batch_key="batch")
    for batch in new.obs["batch"].cat.categories:
        maxima = query.X[(new.obs["batch"] == batch).to_numpy()].max(axis=0).toarray()
        np.testing.assert_allclose(maxima, 1, rtol=1e-6)


@pytest.mark.parametrize("new_batches", ["reference", "own"])
@pytest.mark.parametrize("named", [False, True])
def test_a_reference_without_names_knows_no_batch(
    counts: AnnData, new_batches: str, named: bool
) -> None:
    """Its one batch is called 0 by us: cells of a batch 0, or of none, are not of that batch."""
    reference = sx.pp.rna(counts, min_features=0)
    record = replace(Preprocessing.from_adata(reference), new_batches=new_batches)
    new = simulate_counts(40, seed=7)
    new.obs["batch"] = "0"
    query = sx.pp.prepare_query(new, record, batch_key="batch" if named else None)
    if new_batches == "reference":  # of which there is one
        np.testing.assert_array_equal(query.varm["scalex_scale"]["0"], record.scale["0"])
        return
    maxima = query.X.max(axis=0).toarray().ravel()
    np.testing.assert_allclose(maxima[maxima > 0], 1, rtol=1e-6)
    sx.SCALEXModel.setup_anndata(counts, new_batches="own")
    model = sx.SCALEXModel(counts, n_hidden=8, n_latent=2)
    model.is_trained_ = True
    placed = sx.SCALEXModel.load_query_data(new, model)
    assert placed.get_prepared().X.max(axis=0).toarray().max() == 1
    assert (placed.get_prepared().X.max(axis=0).toarray() > 0.999).sum() == (maxima > 0).sum()


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


@pytest.mark.parametrize("name_panel", [True, False], ids=["panel", "all that a query has"])
def test_cells_that_lack_genes_are_brought_to_the_total_of_the_others(
    counts: AnnData, name_panel: bool
) -> None:
    """Else they would have more of each gene than cells of the reference, which have all."""
    own = sx.pp.Preparation(new_batches="own")  # no value is cut off at the reference's maximum
    record = Preprocessing.fit(counts, own, batch_key="batch", name_panel=name_panel)
    assert record.normalized_over == tuple(counts.var_names)
    shares = np.asarray(record.shares)
    totals = counts.X.sum(axis=1)
    np.testing.assert_allclose(shares, np.mean(counts.X / totals, axis=0).A1, rtol=1e-5)
    has = np.arange(counts.n_vars) % 3 > 0
    counts.obs["batch"] = "new " + counts.obs["batch"].astype(str)
    query = sx.pp.prepare_query(counts[:, has], record, batch_key="batch")
    back = np.expm1(sx.pp.unscale(query).toarray()).sum(axis=1)
    np.testing.assert_allclose(back, 1e4 * shares[has].sum(), rtol=1e-4)
    assert list(query.var["scalex_measured"]) == list(has)
    again = Preprocessing.from_adata(query)
    assert (again.normalized_over, again.shares) == (record.normalized_over, record.shares)
    whole = sx.pp.prepare_query(counts, record, batch_key="batch")
    np.testing.assert_allclose(np.expm1(sx.pp.unscale(whole).toarray()).sum(axis=1), 1e4, rtol=1e-4)
    assert "scalex_measured" not in whole.var


def test_totals_of_genes_that_both_have_are_compared(counts: AnnData) -> None:
    """A query that lacks some genes and has others is normalized over those of the reference."""
    known, new = counts[:, :40].copy(), counts[:, 10:].copy()
    record = Preprocessing.fit(known, batch_key="batch")
    assert not record.panel
    expected = sx.pp.prepare_query(counts[:, 10:40].copy(), record, batch_key="batch")
    found = sx.pp.prepare_query(new, record, batch_key="batch")
    np.testing.assert_allclose(found.X.toarray(), expected.X.toarray(), rtol=1e-5)


def test_repeated_genes_matter_only_if_the_reference_has_them(
    counts: AnnData, record: Preprocessing
) -> None:
    names = list(counts.var_names)
    counts.var_names = ["other", "other", *names[2:]]
    assert sx.pp.prepare_query(counts, record, batch_key="batch").n_vars == 60
    counts.var_names = ["gene2", *names[1:]]
    with pytest.raises(ValueError, match=r"more than once, for example \['gene2'\]"):
        sx.pp.prepare_query(counts, record, batch_key="batch")


def test_what_is_no_record(counts: AnnData, prepared: AnnData) -> None:
    with pytest.raises(TypeError, match="is a 'AnnData'; allowed is a record: `model.preproc"):
        sx.pp.prepare_query(counts, prepared, batch_key="batch")


def test_log_normalized_query(counts: AnnData, prepared: AnnData, record: Preprocessing) -> None:
    log = AnnData(prepared.raw.X, obs=prepared.obs, var=prepared.raw.var)
    with pytest.raises(ValueError, match="log_normalized=True"):
        sx.pp.prepare_query(log, record, batch_key="batch")
    query = sx.pp.prepare_query(log, record, batch_key="batch", log_normalized=True)
    np.testing.assert_array_equal(query.X.toarray(), prepared.X.toarray())


def log_normalized(counts: AnnData, total: float | None, over: AnnData | None = None) -> AnnData:
    """Return log1p of counts over the total of the genes of ``over``, or of these."""
    sums = np.asarray((counts if over is None else over).X.sum(axis=1))
    wanted = np.median(sums) if total is None else total
    values = sparse.csr_matrix(counts.X.multiply(wanted / sums), dtype=np.float32)
    return AnnData(values.log1p(), obs=counts.obs, var=counts.var)


@pytest.mark.parametrize("total", [1e4, 1e6, None], ids=["1e4", "1e6", "median"])
@pytest.mark.parametrize("new_batches", ["own", "reference"])
@pytest.mark.parametrize("genes", [slice(0, 20), slice(None)], ids=["panel", "all"])
def test_logarithms_of_the_query_s_own_total_are_undone(
    counts: AnnData,
    total: float | None,
    new_batches: str,
    genes: slice,
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = sx.pp.Preparation(new_batches=new_batches)
    record = Preprocessing.fit(counts, own, batch_key="batch")
    counts.obs["batch"] = "new " + counts.obs["batch"].astype(str)
    some = counts[:, genes].copy()
    expected = sx.pp.prepare_query(some, record, batch_key="batch")
    log = log_normalized(some, total)
    before = log.X.copy()
    found = sx.pp.prepare_query(log, record, batch_key="batch", log_normalized=True)
    np.testing.assert_allclose(found.X.toarray(), expected.X.toarray(), rtol=1e-4)
    assert (log.X != before).nnz == 0
    is_as_the_reference = total == 1e4 and genes == slice(None)
    assert ("logarithms are undone" in caplog.text) != is_as_the_reference


def test_logarithms_of_other_totals_stay(counts: AnnData, record: Preprocessing) -> None:
    """Cells that were normalized over more genes than are here have totals that differ."""
    panel = counts[:, :20].copy()
    log = log_normalized(panel, 1e4, over=counts)
    found = sx.pp.prepare_query(log, record, batch_key="batch", log_normalized=True)
    whole = sx.pp.prepare_query(counts, record, batch_key="batch")
    has = whole.var_names.isin(panel.var_names)
    np.testing.assert_allclose(found.X[:, has].toarray(), whole.X[:, has].toarray(), rtol=1e-4)


def test_logarithms_of_a_few_cells_stay(counts: AnnData, record: Preprocessing) -> None:
    few = log_normalized(counts[:5, :20].copy(), 1e4)
    found = sx.pp.prepare_query(few, record, batch_key="batch", log_normalized=True)
    scale = record.scale.loc[few.var_names, list(few.obs["batch"])].to_numpy().T
    expected = np.minimum(few.X.toarray() / scale, 1)
    np.testing.assert_allclose(found[:, few.var_names].X.toarray(), expected, rtol=1e-5)


def test_logarithms_for_a_reference_of_logarithms_stay(counts: AnnData) -> None:
    """Of such a reference nobody knows the total."""
    reference = log_normalized(counts, 1e4)
    record = Preprocessing.fit(reference, sx.pp.Preparation(log_normalized=True), batch_key="batch")
    query = log_normalized(counts[:, :20].copy(), 1e3)
    found = sx.pp.prepare_query(query, record, batch_key="batch", log_normalized=True)
    scale = record.scale.loc[query.var_names, list(query.obs["batch"])].to_numpy().T
    expected = np.minimum(query.X.toarray() / scale, 1)
    np.testing.assert_allclose(found[:, query.var_names].X.toarray(), expected, rtol=1e-5)


def test_reindex_to_one_gene(counts: AnnData) -> None:
    name = counts.var_names[3]
    found = sx.pp.reindex(counts, name)
    assert list(found.var_names) == [name]
    np.testing.assert_array_equal(found.X.toarray(), counts.X[:, [3]].toarray())


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


def test_unscale_gives_back_what_was_scaled(counts: AnnData) -> None:
    prepared = sx.pp.rna(counts, batch_key="batch", n_top_features=50)
    expected = prepared.raw[:, prepared.var_names].X.toarray()
    before = prepared.X.copy()
    np.testing.assert_allclose(sx.pp.unscale(prepared).toarray(), expected, rtol=1e-6)
    np.testing.assert_array_equal(prepared.X.toarray(), before.toarray())
    assert sx.pp.can_unscale(prepared)


@pytest.mark.parametrize("lacks", ["record", "batch column", "scale of a batch"])
def test_unscale_needs_the_scale_of_each_batch(counts: AnnData, lacks: str) -> None:
    prepared = sx.pp.rna(counts, batch_key="batch", n_top_features=50)
    if lacks == "record":
        prepared.uns.clear()
    elif lacks == "batch column":
        del prepared.obs["batch"]
    else:
        prepared.obs["batch"] = "another"
    assert not sx.pp.can_unscale(prepared)
    with pytest.raises(ValueError, match="no record of the scale of each of its batches"):
        sx.pp.unscale(prepared)
