"""Counts beside normalized values, and values that are not what they are declared to be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from conftest import simulate_counts

import scalex_scvi as sx

pytestmark = pytest.mark.usefixtures("narrow")

FAST = {
    "min_features": 0,
    "max_iteration": 8,
    "ignore_umap": True,
    "progress_bar": False,
    "show": False,
}


def logarithms(adata: AnnData) -> AnnData:
    adata = adata.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    del adata.uns["log1p"]
    return adata


@pytest.fixture
def mixed(counts: AnnData) -> AnnData:
    """Counts in batches 0 and 2, logarithms in batch 1."""
    is_log = (counts.obs["batch"] == "batch1").to_numpy()
    both = counts.copy()
    both.X[is_log] = logarithms(counts[is_log]).X
    return both


def in_one_call(adata: AnnData) -> object:
    return sx.SCALEX(adata, **FAST)


def two_sources(adata: AnnData) -> object:
    is_log = (adata.obs["batch"] == "batch1").to_numpy()
    sources = [adata[~is_log].copy(), adata[is_log].copy()]
    return sx.SCALEX(sources, ["batch0", "batch1"], **FAST)


def set_up(adata: AnnData) -> object:
    return sx.SCALEXModel.setup_anndata(adata, batch_key="batch")


def prepare(adata: AnnData) -> object:
    return sx.pp.rna(adata, batch_key="batch")


def prepare_query(adata: AnnData) -> object:
    record = sx.pp.Preprocessing.fit(simulate_counts(), batch_key="batch")
    return sx.pp.prepare_query(adata, record, batch_key="batch")


@pytest.mark.parametrize("call", [in_one_call, two_sources, set_up, prepare, prepare_query])
def test_batches_of_two_kinds_are_refused_and_named(
    mixed: AnnData, call: Callable[[AnnData], object]
) -> None:
    with pytest.raises(ValueError, match=r"in the batches \['batch1'\], while it does in") as error:
        call(mixed)
    assert "'batch0'" in str(error.value)


def test_sources_of_two_kinds_are_named_when_they_are_put_together(
    counts: AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    sx.io.concat([counts, logarithms(counts)], ["plain", "logs"])
    assert "whole numbers in the sources ['plain'], and not in ['logs']" in caplog.text


def test_full_length_counts_beside_whole_ones_are_counts(counts: AnnData) -> None:
    rows = (counts.obs["batch"] == "batch1").to_numpy()
    counts.X[rows] = counts.X[rows] * 1.01
    prepared = sx.pp.rna(counts, batch_key="batch", n_top_features=-1)
    assert not sx.pp.Preprocessing.from_adata(prepared).log_normalized


DECLARED = {
    "SCALEX": lambda adata: sx.SCALEX(adata, processed=True, **FAST),
    "setup_anndata": lambda adata: sx.SCALEXModel.setup_anndata(
        adata, batch_key="batch", processed=True
    ),
    "load_data": lambda adata: sx.io.load_data(adata, processed=True),
    "prepare_query": lambda adata: sx.pp.prepare_query(
        adata,
        sx.pp.Preprocessing.fit(simulate_counts(), batch_key="batch"),
        batch_key="batch",
        log_normalized=True,
    ),
}


@pytest.mark.parametrize("call", DECLARED.values(), ids=DECLARED)
def test_counts_that_are_declared_to_be_processed_are_refused(
    counts: AnnData, call: Callable[[AnnData], object]
) -> None:
    with pytest.raises(ValueError, match=r"whole numbers|must lie in \[0, 1\]"):
        call(counts)


def test_a_projection_of_counts_as_processed_is_refused(counts: AnnData, tmp_path: object) -> None:
    sx.SCALEX(counts, outdir=tmp_path / "ref", **FAST)
    with pytest.raises(ValueError, match="are whole numbers"):
        sx.SCALEX(counts, projection=tmp_path / "ref", processed=True, **FAST)


def test_declared_logarithms_that_are_whole_numbers_are_reported(
    counts: AnnData, mixed: AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    scaled = sx.pp.batch_scale(counts, "batch")  # as they are: that is what it is for
    assert scaled.X.max() == 1
    assert "all values are whole numbers" in caplog.text
    with pytest.raises(ValueError, match=r"\['batch0', 'batch2'\] all values are whole numbers"):
        sx.pp.rna(mixed, batch_key="batch", log_normalized=True)
    zeros_and_ones = counts.copy()
    zeros_and_ones.X.data[:] = 1
    sx.SCALEXModel.setup_anndata(zeros_and_ones, batch_key="batch", processed=True)


MASKED = {
    "X": lambda adata: sx.SCALEXModel.setup_anndata(adata, batch_key="batch"),
    "layer": lambda adata: sx.SCALEXModel.setup_anndata(adata, layer="masked"),
    "rna": lambda adata: sx.pp.rna(adata, batch_key="batch"),
    "obsm": lambda adata: sx.SCALEX(adata, use_layer="masked", **FAST),
    "sources": lambda adata: sx.SCALEX([adata, adata.copy()], **FAST),
    "scores": lambda adata: sx.metrics.batch_entropy_mixing_score(
        adata.obsm["masked"], adata.obs["batch"].to_numpy()
    ),
    "labels": lambda adata: sx.label_transfer(adata, adata, "masked"),
}


@pytest.mark.parametrize("call", MASKED.values(), ids=MASKED)
def test_a_mask_is_not_lost(counts: AnnData, call: Callable[[AnnData], object]) -> None:
    values = np.ma.masked_greater(counts.X.toarray(), 100)
    adata = AnnData(values, obs=counts.obs, var=counts.var)
    adata.layers["masked"] = adata.obsm["masked"] = values
    with pytest.raises(TypeError, match=r"is a masked array \(\d+ of 9000 values are masked\)"):
        call(adata)
