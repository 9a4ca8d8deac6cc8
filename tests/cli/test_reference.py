"""A reference by name, made and used in the shell alone."""

from __future__ import annotations

import logging
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from conftest import simulate_counts

import scalex_scvi as sx
from scalex_scvi import cli

pytestmark = pytest.mark.usefixtures("narrow")

FAST = ["--min-features", "0", "--max-steps", "60", "--ignore-umap", "-q"]


def new_cells() -> AnnData:
    return simulate_counts(40, n_batches=1, seed=5)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with new cells, and the run ``run``, whose map is a line; two cells are of type3."""
    folder = tmp_path_factory.mktemp("shell")
    counts = simulate_counts()
    counts.obs["celltype"] = counts.obs["celltype"].cat.add_categories("type3")
    counts.obs.iloc[:2, counts.obs.columns.get_loc("celltype")] = "type3"
    counts.write_h5ad(folder / "counts.h5ad")
    new_cells().write_h5ad(folder / "new.h5ad")
    run = folder / "run"
    assert cli.main(["integrate", str(folder / "counts.h5ad"), "-o", str(run), *FAST]) == 0
    adata = ad.read_h5ad(run / "adata.h5ad")
    adata.obsm["X_umap"] = np.repeat(np.arange(adata.n_obs, dtype=float)[:, None], 2, axis=1)
    adata.write_h5ad(run / "adata.h5ad")
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


def test_from_a_run_to_labels_without_python(
    here: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "scalex_scvi"):
        argv = [
            "reference",
            "run",
            "-o",
            "blood",
            "--labels",
            "celltype",
            "--about",
            "organism=man",
        ]
        assert cli.main([*argv, "-q"]) == 0
    assert capsys.readouterr().out == ""
    assert "Labels of obs['celltype'] with fewer than 5 cells are left out" in caplog.text
    assert "{'type3': 2}" in caplog.text
    assert "No license is named" in caplog.text
    reference = sx.references.load("blood")
    assert (reference.labels, reference.about["license"]) == (["celltype"], "unknown")
    assert "| organism | man |" in reference.card
    run = sx.io.RunFolder("run")
    adata = run.read_adata()
    np.testing.assert_array_equal(reference.model.adata.obsm["X_umap"], adata.obsm["X_umap"])

    assert cli.main(["map", "new.h5ad", "--reference", "blood", "-o", "mapped", "-q"]) == 0
    mapped = pd.read_csv("mapped/mapped_labels.csv", index_col="cell")
    adata.obs["celltype"] = adata.obs["celltype"].cat.remove_categories("type3")
    query = new_cells()
    sx.map_query(query, sx.SCALEXModel.load(run.checkpoint, adata), labels="celltype")
    assert list(mapped["celltype_transfer"]) == list(query.obs["celltype_transfer"])
    assert list(mapped["celltype_unknown"]) == list(query.obs["celltype_unknown"])


def test_labels_name_and_license_are_as_said(
    here: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    argv = ["reference", "run", "-o", str(tmp_path / "r"), "--labels", "batch"]
    with caplog.at_level(logging.WARNING, "scalex_scvi"):
        for more in ([], ["--overwrite"]):
            assert cli.main([*argv, *more, "--name", "blood-1", "--license", "mit", "-q"]) == 0
    assert "license" not in caplog.text
    assert "left out" not in caplog.text
    reference = sx.references.load(tmp_path / "r")
    about = reference.about
    assert (reference.name, reference.labels, about["license"]) == ("blood-1", ["batch"], "mit")


MISTAKES = {
    "no run": (["reference", "counts"], "'counts' is no run folder of 'integrate'"),
    "no such label": (["reference", "run", "--labels", "x"], "'x' is not a column of adata.obs"),
    "about": (["reference", "run", "--about", "human"], "must be KEY=VALUE"),
    "about what": (["reference", "run", "--about", "a=b"], "--about holds ['a']; allowed are"),
    "a name": (["reference", "run", "--name", "a b"], "--name 'a b' must be 1 to 64 letters"),
    "there": (["reference", "run", "-o", "run"], "'run' exists. Choose another folder; --overwr"),
    "a run is none": (["map", "new.h5ad", "-r", "run"], "`scalex-scvi reference` (or"),
}


@pytest.mark.parametrize(("argv", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_in_one_line(
    here: Path, capsys: pytest.CaptureFixture, argv: list[str], said: str
) -> None:
    out = [] if "-o" in argv else ["-o", "out"]
    assert cli.main([*argv, *out, "-q"]) == 2
    assert said in capsys.readouterr().err
    assert not Path("out/reference.json").exists()


def test_of_a_projection_there_is_none(here: Path, capsys: pytest.CaptureFixture) -> None:
    argv = ["project", "new.h5ad", "-r", "run", "-o", "projected", "--ignore-umap", "-q"]
    assert cli.main(argv) == 0
    assert cli.main(["reference", "projected", "-o", "out", "-q"]) == 2
    assert "'projected' is the run folder of a projection." in capsys.readouterr().err
