"""`SCALEX()`: the batches are those that were named, and a filter that takes many cells says so."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from anndata import AnnData
from conftest import simulate_counts
from forked import run_script

import scalex_scvi as sx

FAST = {
    "min_features": 0,
    "max_iteration": 8,
    "ignore_umap": True,
    "progress_bar": False,
    "show": False,
}


@pytest.fixture
def sampled(counts: AnnData) -> AnnData:
    """Counts with a column `sample` that differs from their column `batch`."""
    counts.obs["sample"] = np.where(np.arange(counts.n_obs) < 75, "s1", "s2")
    return counts


@pytest.mark.parametrize("named", [{"batch_key": "sample"}, {"batch_name": "sample"}], ids=str)
def test_the_column_named_is_the_batch(sampled: AnnData, tmp_path: Path, named: dict) -> None:
    adata = sx.SCALEX(sampled, outdir=tmp_path / "ref", **named, **FAST)
    assert adata.uns["scalex_batch_key"] == "sample"
    assert list(adata.obs["batch"]) == list(sampled.obs["batch"])
    assert list(adata.obs["sample"]) == list(sampled.obs["sample"])
    model = sx.SCALEXModel.load(tmp_path / "ref" / "checkpoint", adata)
    assert list(model.batch_names) == ["s1", "s2"]


def test_without_a_column_batch_the_result_has_one(sampled: AnnData) -> None:
    del sampled.obs["batch"]
    adata = sx.SCALEX(sampled, batch_key="sample", **FAST)
    assert list(adata.obs["batch"]) == list(sampled.obs["sample"])


def test_columns_that_are_absent_or_ambiguous_are_refused(sampled: AnnData) -> None:
    with pytest.raises(KeyError, match="`batch_key` 'nowhere'"):
        sx.SCALEX(sampled, batch_key="nowhere", **FAST)
    with pytest.raises(ValueError, match="Both `batch_name` 'celltype' and `batch_key` 'sample'"):
        sx.SCALEX(sampled, batch_key="sample", batch_name="celltype", **FAST)


def test_a_query_has_its_batches_where_the_reference_has_them(
    sampled: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ref = tmp_path / "ref"
    sx.SCALEX(sampled, outdir=ref, batch_name="sample", **FAST)
    query = simulate_counts(60, n_batches=2, seed=3)
    query.obs["sample"] = "s3"
    by_default = sx.SCALEX(query, projection=ref, repeat=True, **FAST)
    assert set(by_default.obs["sample"]) == {"s3"}
    query.obs["lane"] = np.where(np.arange(60) < 30, "l1", "l2")
    both = sx.SCALEX(query, projection=ref, batch_name="lane", label="celltype", **FAST)
    projected = both[(both.obs["projection"] == "query").to_numpy()]
    assert both.uns["scalex_batch_key"] == "sample"
    assert list(projected.obs["sample"]) == list(query.obs["lane"])
    assert set(projected.obs["own_sample"]) == {"s3"}
    assert "own_sample" in caplog.text


def test_a_filter_that_takes_many_cells_warns(
    counts: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    detected = np.asarray((counts.X > 0).sum(axis=1)).ravel()
    least = int(np.quantile(detected, 0.4))
    lost = int((detected < least).sum())
    assert lost > 0.1 * counts.n_obs
    sx.SCALEX(counts, **(FAST | {"min_features": least}))
    (warning,) = [r for r in caplog.records if "`min_features` removed" in r.getMessage()]
    text = warning.getMessage()
    assert warning.levelname == "WARNING"
    assert f"removed {lost} of 150 cells" in text
    assert "min_features=0" in text
    for column in ("batch", "celltype"):
        group = counts.obs[column].astype(str) == counts.obs[column].iloc[0]
        of_group = int((detected[group.to_numpy()] < least).sum())
        assert f"{counts.obs[column].iloc[0]} {of_group} of {group.sum()}" in text
    caplog.clear()
    sx.SCALEX(counts, **FAST)
    assert "`min_features` removed" not in caplog.text


IN_A_PROCESS = """
import os, runpy, sys

def enter(folder):
    os.makedirs(folder)
    os.chdir(folder)
    os.dup2(os.open("stderr.txt", os.O_CREAT | os.O_WRONLY), 2)

start, options = sys.argv[1], eval(sys.argv[2])
for name, flags in (("messages", []), ("quiet", ["-q"])):
    enter(os.path.join(start, name))
    sys.argv[1:] = ["integrate", "nowhere.h5ad", "-o", "out", *flags]
    try:
        runpy.run_module("scalex_scvi", run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        open("code.txt", "w").write(str(stop.code))

import scalex_scvi as sx
enter(os.path.join(start, "call"))
sx.SCALEX("../counts.h5ad", outdir="out", **options)
"""


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what a new process does and says."""
    folder = tmp_path_factory.mktemp("process")
    counts = simulate_counts()
    counts.write_h5ad(folder / "counts.h5ad")
    detected = np.asarray((counts.X > 0).sum(axis=1)).ravel()
    options = FAST | {"min_features": int(np.quantile(detected, 0.4))}
    (folder / "script.py").write_text(IN_A_PROCESS)
    code, errors = run_script(folder / "script.py", str(folder), repr(options), folder=folder)
    assert code == 0, errors[-4000:]
    return folder


def test_the_warning_is_seen_where_a_log_is_written(process: Path, counts: AnnData) -> None:
    run = process / "call"
    assert (run / "stderr.txt").read_text().count("`min_features` removed") == 1
    assert ad.read_h5ad(run / "out" / "adata.h5ad").n_obs < counts.n_obs


@pytest.mark.parametrize("name", ["messages", "quiet"])
def test_a_mistake_is_one_line_and_leaves_no_folder(process: Path, name: str) -> None:
    run = process / name
    assert (run / "code.txt").read_text() == "2"
    error = "scalex-scvi integrate: There is no file 'nowhere.h5ad'.\n"
    assert (run / "stderr.txt").read_text() == error
    assert not (run / "out").exists()
