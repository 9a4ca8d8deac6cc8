"""What pp.rna, pp.atac and pp.adt have in common."""

from __future__ import annotations

import logging
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scalex_scvi as sx
from scalex_scvi.pp import Preprocessing

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
def test_every_matrix_gives_the_same_and_stays_as_it_was(case, make, dense) -> None:
    expected = case()
    other = AnnData(make(case.counts.X), obs=case.counts.obs, var=case.counts.var)
    before = other.copy()
    np.testing.assert_array_equal(dense(case(other)), dense(expected))
    np.testing.assert_array_equal(dense(other), dense(before))
    assert type(other.X) is type(before.X)
    pd.testing.assert_frame_equal(other.obs, before.obs)
    pd.testing.assert_frame_equal(other.var, before.var)
    assert not other.uns
    assert not other.varm


def test_view_layer_and_backed_give_the_same(case, dense, tmp_path: Path) -> None:
    expected = dense(case())
    counts = case.counts
    view = ad.concat([counts, counts], index_unique="-")[: counts.n_obs]
    np.testing.assert_array_equal(dense(case(view)), expected)
    assert view.is_view
    layered = AnnData(counts.X * 0, obs=counts.obs, var=counts.var, layers={"counts": counts.X})
    np.testing.assert_array_equal(dense(case(layered, layer="counts")), expected)
    counts.write_h5ad(tmp_path / "counts.h5ad")
    backed = ad.read_h5ad(tmp_path / "counts.h5ad", backed="r")
    np.testing.assert_array_equal(dense(case(backed)), expected)
    assert backed.isbacked


def test_values_are_sparse_and_fill_the_unit_interval_in_each_batch(case) -> None:
    prepared = case()
    assert isinstance(prepared.X, sparse.csr_matrix)
    assert prepared.X.dtype == np.float32
    assert prepared.X.data.min() > 0
    for batch in case.counts.obs["batch"].cat.categories:
        maxima = prepared.X[(prepared.obs["batch"] == batch).to_numpy()].max(axis=0).toarray()
        assert set(np.unique(np.round(maxima, 6))) <= {0, 1}


def test_documented_columns(case, dense) -> None:
    prepared = case(n_top_features=10)
    detected = dense(case.counts) > 0
    np.testing.assert_array_equal(prepared.obs["n_genes"], detected.sum(axis=1))
    n_cells = pd.Series(detected.sum(axis=0), index=case.counts.var_names)
    np.testing.assert_array_equal(prepared.var["n_cells"], n_cells[prepared.var_names])
    expected = {
        "RNA": {"highly_variable", "means", "dispersions", "dispersions_norm"},
        "ATAC": {"prop_shared_cells", "variability_score"},
        "ADT": {"variance_within_batches"},
    }[case.name]
    assert expected <= set(prepared.var)


def test_poor_cells_and_rare_features_are_removed(case, dense, caplog) -> None:
    caplog.set_level(logging.INFO, "scalex_scvi")
    detected = dense(case.counts) > 0
    min_features = int(np.median(detected.sum(axis=1)))
    kept = detected.sum(axis=1) >= min_features
    min_cells = int(np.median(detected[kept].sum(axis=0)))
    prepared = case(min_features=min_features, min_cells=min_cells, n_top_features=-1)
    assert 0 < kept.sum() < len(kept)
    assert list(prepared.obs_names) == list(case.counts.obs_names[kept])
    common = detected[kept].sum(axis=0) >= min_cells
    assert list(prepared.var_names) == list(case.counts.var_names[common])
    assert f"Kept {kept.sum()} of 150 cells" in caplog.text
    assert f"Kept {common.sum()} of {case.counts.n_vars} {case.features}" in caplog.text


def test_keeps_obs_obsm_uns_and_leaves_registration_out(case) -> None:
    counts = case.counts
    counts.obsm["spatial"] = np.arange(2 * counts.n_obs).reshape(-1, 2)
    counts.uns |= {"note": {"a": 1}, "_scvi_uuid": "x"}
    counts.X = sparse.vstack([0 * counts.X[:1], counts.X[1:]], format="csr")
    prepared = case(min_features=1)
    assert prepared.obs_names[0] == counts.obs_names[1]
    np.testing.assert_array_equal(prepared.obsm["spatial"], counts.obsm["spatial"][1:])
    assert prepared.uns["note"] == {"a": 1}
    assert "_scvi_uuid" not in prepared.uns


def test_a_cell_without_selected_features_stays_and_is_reported(case, dense, caplog) -> None:
    listed = list(case.counts.var_names[5:])
    counts = dense(case.counts)
    counts[3, 5:], counts[3, :5] = 0, 1
    case.counts.X = counts
    prepared = case(n_top_features=listed)
    assert prepared.n_obs == 150
    assert prepared.X[3].nnz == 0
    assert f"1 of 150 cells have none of the {prepared.n_vars} selected {case.features}" in (
        caplog.text
    )


def test_selections_of_every_kind(case, tmp_path: Path, caplog) -> None:
    names = [str(name) for name in case.counts.var_names[[4, 2, 7]]]
    (tmp_path / "names.txt").write_text("\ufeff" + "\n".join(names) + "\n\n", encoding="utf-8")
    for listed in (names, pd.Index(names), np.array(names), tmp_path / "names.txt"):
        assert list(case(n_top_features=listed).var_names) == names
    assert list(case(n_top_features=[*names, "nowhere"]).var_names) == names
    assert f"1 of 4 listed {case.features} are not in the data" in caplog.text
    n_all = case(n_top_features=-1).n_vars
    assert case(n_top_features=10_000).n_vars == case(n_top_features="10000").n_vars == n_all
    assert case(n_top_features=5).n_vars == case(n_top_features="5").n_vars < n_all


BAD_SELECTIONS = {
    "no file": ("names.txt", FileNotFoundError, "'names.txt' is neither a number nor a file"),
    "zero": (0, ValueError, "must be positive, -1"),
    "minus two": ("-2", ValueError, "must be positive, -1"),
    "none in the data": (["a"], ValueError, "None of the 1 listed"),
    "empty": ([], ValueError, "empty list"),
    "repeated": (["a", "a"], ValueError, "`n_top_features` occur more than once"),
    "set": ({"a"}, TypeError, "must be a whole number, -1"),
    "float": (10.0, TypeError, "must be a whole number, -1"),
    "boolean": (True, TypeError, "must be a whole number, -1"),
    "mask": (np.array([True, False]), TypeError, r"mask.*adata\.var_names\[mask\]"),
    "two columns": (np.array([["a", "b"]]), TypeError, "must be a whole number, -1"),
}


@pytest.mark.parametrize(
    ("selection", "error", "message"), BAD_SELECTIONS.values(), ids=BAD_SELECTIONS.keys()
)
def test_bad_selections(case, selection, error, message: str) -> None:
    with pytest.raises(error, match=message):
        case(n_top_features=selection)


def test_an_empty_file_of_names(case, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n")
    with pytest.raises(ValueError, match="holds no names"):
        case(n_top_features=tmp_path / "names.txt")


def test_normalized_values_are_recognized_or_declared(case, dense) -> None:
    values = case.counts.X.copy()
    values.data = np.log1p(values.data * 1.7)
    log = AnnData(values, obs=case.counts.obs, var=case.counts.var)
    message = f"does not look like counts of {case.features}.*log_normalized=True"
    with pytest.raises(ValueError, match=message):
        case(log)
    declared = case(log, log_normalized=True, min_cells=0, n_top_features=-1)
    expected = sx.pp.batch_scale(log, "batch")
    np.testing.assert_array_equal(dense(declared), dense(expected))
    assert Preprocessing.from_adata(declared).log_normalized


def _with(value: float) -> object:
    def spoil(adata: AnnData) -> None:
        adata.X[3, 5] = value

    return spoil


def _missing_batch(adata: AnnData) -> None:
    adata.obs["batch"] = adata.obs["batch"].astype(object)
    adata.obs.loc["cell0", "batch"] = None


def _lone_cell(adata: AnnData) -> None:
    adata.obs["batch"] = ["alone"] + ["others"] * (adata.n_obs - 1)


def _repeat_a_name(adata: AnnData) -> None:
    adata.var_names = [adata.var_names[1], *adata.var_names[1:]]


BAD = {
    "negative": (_with(-1), ValueError, "negative values .* Give those from before"),
    "NaN": (_with(np.nan), ValueError, "1 values that are NaN or infinite"),
    "infinite": (_with(np.inf), ValueError, "NaN or infinite"),
    "missing batch": (_missing_batch, ValueError, "missing .* for 1 of 150 cells"),
    "batch of one cell": (_lone_cell, ValueError, r"one cell: \['alone'\]"),
    "repeated name": (_repeat_a_name, ValueError, "names of `adata` occur more than once"),
    "no batch column": (lambda a: a.obs.drop(columns="batch", inplace=True), KeyError, "'batch'"),
    "all zero": (lambda a: setattr(a, "X", a.X * 0), ValueError, "no value other than zero"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("spoil", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_gives_one_clear_error_and_changes_nothing(
    case, dense, spoil, error, message: str
) -> None:
    spoil(case.counts)
    before = case.counts.copy()
    with pytest.raises(error, match=message):
        case()
    np.testing.assert_array_equal(dense(case.counts), dense(before))
    pd.testing.assert_frame_equal(case.counts.obs, before.obs)
    assert not case.counts.uns


BAD_ARGUMENTS = {
    "no cell left": ({"min_features": 600}, ValueError, "`min_features`=600 {0}: .*Lower"),
    "no feature left": ({"min_cells": 10_000}, ValueError, "Lower `min_cells`"),
    "no layer": ({"layer": "counts"}, KeyError, "'counts' is not in adata.layers"),
    "scaling": ({"scale_by": "cell"}, ValueError, "'batch' or 'global'"),
    "two batch keys": ({"batch_key": ["batch", "celltype"]}, TypeError, "one column .*Join"),
}


@pytest.mark.parametrize(
    ("arguments", "error", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS.keys()
)
def test_bad_arguments(case, arguments, error, message: str) -> None:
    with pytest.raises(error, match=message.format(case.features)):
        case(**arguments)


def test_empty_selection_of_cells(case) -> None:
    with pytest.raises(ValueError, match=f"0 cells × .* {case.features}"):
        case(case.counts[:0])


def test_record_survives_a_file(case, tmp_path: Path) -> None:
    prepared = case(n_top_features=8)
    prepared.write_h5ad(tmp_path / "a.h5ad")
    record = Preprocessing.from_adata(prepared)
    restored = Preprocessing.from_adata(ad.read_h5ad(tmp_path / "a.h5ad"))
    assert restored == record
    assert record.profile == case.name
    np.testing.assert_array_equal(restored.scale, record.scale)
    assert list(restored.scale.columns) == ["batch0", "batch1", "batch2"]


def test_model_keeps_the_record(case, tmp_path: Path) -> None:
    prepared = case(n_top_features=8)
    sx.SCALEXModel.setup_anndata(prepared, batch_key="batch")
    sx.SCALEXModel(prepared, n_hidden=8, n_latent=2).save(tmp_path / "model")
    loaded = sx.SCALEXModel.load(tmp_path / "model", adata=False)
    assert loaded.preprocessing == Preprocessing.from_adata(prepared)
