"""impute: decoded expression into a layer or a file, chunk by chunk."""

from __future__ import annotations

import logging
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from conftest import simulate_counts, small_model
from scipy import sparse

import scalex_scvi as sx

HOW = {
    "own batch": {},
    "one batch": {"transform_batch": "batch1"},
    "mean of batches": {"transform_batch": ["batch0", "batch2"]},
    "log-normalized": {"transform_batch": "batch1", "units": "log_normalized"},
}


@pytest.mark.parametrize("kwargs", HOW.values(), ids=HOW.keys())
def test_layer_holds_the_imputed_expression(model: sx.SCALEXModel, kwargs: dict[str, Any]) -> None:
    expected = model.get_imputed_expression(**kwargs)
    before = model.adata.X.copy()
    model.impute(chunk_size=40, **kwargs)
    layer = model.adata.layers["impute"]
    assert isinstance(layer, np.ndarray)
    assert layer.dtype == np.float32
    np.testing.assert_allclose(layer, expected, atol=1e-6)
    assert (model.adata.X != before).nnz == 0


def test_given_cells_and_layer(model: sx.SCALEXModel, prepared: AnnData) -> None:
    some = prepared[10:40].copy()
    model.impute(some, layer="batch1", transform_batch="batch1")
    expected = model.get_imputed_expression(transform_batch="batch1").iloc[10:40]
    np.testing.assert_allclose(some.layers["batch1"], expected, atol=1e-6)
    assert "batch1" not in model.adata.layers


def test_genes_of_a_layer_are_in_the_order_of_the_cells(
    model: sx.SCALEXModel, prepared: AnnData
) -> None:
    reversed_genes = prepared[:, ::-1].copy()
    model.impute(reversed_genes)
    expected = model.get_imputed_expression(gene_list=list(reversed_genes.var_names))
    np.testing.assert_allclose(reversed_genes.layers["impute"], expected, atol=1e-6)


GENES_OF_MODEL = ["gene7", "gene2", "gene30", "gene4"]


def test_file_of_a_model_of_some_genes_names_these(counts: AnnData, tmp_path: Path) -> None:
    counts = counts.copy()
    counts.var["number"] = np.arange(counts.n_vars)
    sx.SCALEXModel.setup_anndata(counts, batch_key="batch", n_top_features=GENES_OF_MODEL)
    model = sx.SCALEXModel(counts, n_hidden=8, n_latent=2)
    model.train(max_steps=2, enable_progress_bar=False)
    with pytest.raises(ValueError, match="not among the 4 of the model: .* by `path`"):
        model.impute()
    model.impute(path=tmp_path / "imputed.h5ad")
    found = ad.read_h5ad(tmp_path / "imputed.h5ad")
    assert list(found.var_names) == GENES_OF_MODEL
    assert list(found.var["number"]) == [7, 2, 30, 4]
    np.testing.assert_allclose(found.X, model.get_imputed_expression(), atol=1e-6)
    model.impute(path=tmp_path / "one.h5ad", gene_list="gene30")
    assert list(ad.read_h5ad(tmp_path / "one.h5ad").var_names) == ["gene30"]


@pytest.mark.parametrize("chunk_size", [1, 40, 10_000])
def test_threshold_makes_it_sparse(model: sx.SCALEXModel, chunk_size: int) -> None:
    expected = model.get_imputed_expression(return_numpy=True)
    threshold = float(np.median(expected))
    model.impute(threshold=threshold, chunk_size=chunk_size)
    layer = model.adata.layers["impute"]
    assert isinstance(layer, sparse.csr_matrix)
    assert layer.dtype == np.float32
    assert layer.nnz == pytest.approx(expected.size / 2, rel=0.01)
    expected[expected < threshold] = 0
    np.testing.assert_allclose(layer.toarray(), expected, atol=1e-6)


def test_an_earlier_layer_is_overwritten_and_reported(
    model: sx.SCALEXModel, caplog: pytest.LogCaptureFixture
) -> None:
    model.impute(threshold=0.2)
    with caplog.at_level(logging.INFO, "scalex_scvi"):
        model.impute(transform_batch="batch1")
    assert "'impute'] is overwritten" in caplog.text
    expected = model.get_imputed_expression(transform_batch="batch1")
    np.testing.assert_allclose(model.adata.layers["impute"], expected, atol=1e-6)


def read(path: Path) -> AnnData:
    return ad.read_h5ad(path) if path.suffix == ".h5ad" else ad.read_zarr(path)


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("threshold", [None, 0.2], ids=["dense", "sparse"])
def test_file_holds_the_imputed_expression(
    model: sx.SCALEXModel, tmp_path: Path, suffix: str, threshold: float | None
) -> None:
    path = tmp_path / f"imputed{suffix}"
    genes = ["gene7", "gene3", "gene40"]
    for kwargs in ({"transform_batch": "batch1"}, {"gene_list": genes}):  # the second replaces
        model.impute(path=path, threshold=threshold, chunk_size=40, **kwargs)
        expected = model.get_imputed_expression(**kwargs)
        if threshold is not None:
            expected = expected.where(expected >= threshold, 0)
        stored = read(path)
        assert sparse.issparse(stored.X) == (threshold is not None)
        assert stored.X.dtype == np.float32
        pd.testing.assert_frame_equal(
            stored.to_df(), expected, atol=1e-6, check_names=False, check_index_type=False
        )
        assert list(stored.obs) == ["batch", "celltype"] + ["n_genes"] * (
            "n_genes" in model.adata.obs
        )
        assert stored.obs["celltype"].equals(model.adata.obs["celltype"])
    assert list(tmp_path.iterdir()) == [path]
    assert "impute" not in model.adata.layers


def test_annotations_that_no_file_can_hold_are_converted(
    model: sx.SCALEXModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    obs = model.adata.obs
    obs.index.name = "batch"  # as one of its columns, with other values
    obs[0] = 1
    obs["when"] = pd.Timestamp("2026-01-01")
    with caplog.at_level(logging.WARNING, "scalex_scvi"):
        model.impute(path=tmp_path / "imputed.h5ad")
    assert "obs['when'] (datetime64) is text" in caplog.text
    written = ad.read_h5ad(tmp_path / "imputed.h5ad")
    np.testing.assert_allclose(written.X, model.get_imputed_expression(), atol=1e-6)
    assert list(written.obs_names) == list(model.adata.obs_names)
    assert {"batch", "celltype", "0", "when"} <= set(written.obs)
    assert obs.index.name == "batch"
    assert 0 in obs


def test_a_large_result_stays_on_disk(tmp_path: Path) -> None:
    adata = sx.pp.rna(simulate_counts(4_000, 500), batch_key="batch", min_features=0)
    model = small_model(adata)
    model.is_trained_ = True
    dense = adata.n_obs * adata.n_vars * 4
    peaks = {}
    for name, how in {
        "h5ad": {"path": tmp_path / "imputed.h5ad"},
        "zarr": {"path": tmp_path / "imputed.zarr"},
        "sparse layer": {"threshold": 0.9},
        "dense layer": {},
    }.items():
        tracemalloc.start()
        model.impute(chunk_size=200, **how)
        peaks[name] = tracemalloc.get_traced_memory()[1] / dense
        tracemalloc.stop()
    assert peaks["dense layer"] > 1  # the measure sees a dense matrix
    assert max(peaks["h5ad"], peaks["zarr"], peaks["sparse layer"]) < 0.4, peaks


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_a_failure_leaves_the_earlier_file(
    model: sx.SCALEXModel, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"imputed{suffix}"
    model.impute(path=path)
    decode, calls = model._decode, []

    def fail_later(*args: Any) -> np.ndarray:
        calls.append(args)
        if len(calls) > 1:
            raise OSError("disk full")
        return decode(*args)

    monkeypatch.setattr(model, "_decode", fail_later)
    with pytest.raises(OSError, match="disk full"):
        model.impute(path=path, transform_batch="batch1", chunk_size=40)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [path]
    np.testing.assert_allclose(
        read(path).X, model.get_imputed_expression(return_numpy=True), atol=1e-6
    )


BAD = {
    "batch": ({"transform_batch": "nowhere"}, ValueError, "'nowhere'.*not a batch"),
    "gene": ({"gene_list": ["nowhere"], "path": "x.h5ad"}, ValueError, "not genes of the model"),
    "genes in a layer": ({"gene_list": ["gene3"]}, ValueError, "`gene_list` needs `path`"),
    "threshold": ({"threshold": 0}, ValueError, "`threshold` must be positive, got 0"),
    "chunk size": ({"chunk_size": 0}, ValueError, "`chunk_size` .* at least 1, got 0"),
    "suffix": ({"path": "x.csv"}, ValueError, "must end in one of"),
    "folder": ({"path": "nowhere/x.h5ad"}, FileNotFoundError, "does not exist"),
    "not a store": ({"path": "mine.zarr"}, ValueError, "holds no zarr store"),
}


@pytest.mark.parametrize(("kwargs", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(
    model: sx.SCALEXModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kwargs: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.zarr").mkdir()
    with pytest.raises(error, match=message):
        model.impute(**kwargs)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine.zarr"]
    assert "impute" not in model.adata.layers


def _of_layer(adata: AnnData) -> sx.SCALEXModel:
    adata.layers["scaled"] = adata.X
    sx.SCALEXModel.setup_anndata(adata, batch_key="batch", layer="scaled")
    model = sx.SCALEXModel(adata, n_hidden=8, n_latent=2)
    model.is_trained_ = True
    return model


def test_the_input_is_never_overwritten(
    prepared: AnnData, model: sx.SCALEXModel, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="'scaled' is the model's input"):
        _of_layer(prepared.copy()).impute(layer="scaled")
    path = tmp_path / "prepared.h5ad"
    prepared.copy().write_h5ad(path)
    backed = ad.read_h5ad(path, backed="r")
    with pytest.raises(ValueError, match="is what `adata` is read from"):
        model.impute(backed, path=path)
    backed.file.close()
    np.testing.assert_array_equal(ad.read_h5ad(path).X.toarray(), prepared.X.toarray())


def test_backed_cells(model: sx.SCALEXModel, prepared: AnnData, tmp_path: Path) -> None:
    path: Callable[[str], Path] = lambda name: tmp_path / f"{name}.h5ad"  # noqa: E731
    del prepared.raw
    prepared.write_h5ad(path("prepared"))
    backed = ad.read_h5ad(path("prepared"), backed="r")
    model.impute(backed, path=path("imputed"), chunk_size=40)
    backed.file.close()
    expected = model.get_imputed_expression(return_numpy=True)
    np.testing.assert_allclose(ad.read_h5ad(path("imputed")).X, expected, atol=1e-6)
