"""The whole job, by function and by command line."""

from __future__ import annotations

import logging
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from conftest import QUIET, simulate_counts

import scalex_scvi as sx
from scalex_scvi import cli, workflow

FAST = {"max_epochs": 4, "lr": 2e-3} | QUIET
FAST_FLAGS = ["--max-steps", "8", "--lr", "2e-3", "--quiet"]


@pytest.fixture
def reference(counts: AnnData, tmp_path: Path) -> Path:
    workflow.integrate(
        counts,
        tmp_path / "ref",
        label="celltype",
        preprocessing={"min_features": 0},
        training=FAST,
    )
    return tmp_path / "ref"


@pytest.fixture
def query() -> AnnData:
    adata = simulate_counts(80, n_batches=1, seed=5)
    adata.obs["batch"] = pd.Categorical(["new"] * 80)
    return adata


def test_integrate_leaves_a_run_folder(reference: Path) -> None:
    names = {"adata.h5ad", "checkpoint", "umap.png", "umap.pdf", "log.txt"}
    assert {path.name for path in reference.iterdir()} == names
    adata = ad.read_h5ad(reference / "adata.h5ad")
    assert {"latent", "X_umap"} <= set(adata.obsm)
    assert isinstance(adata.obs["leiden"].dtype, pd.CategoricalDtype)
    assert not [key for key in [*adata.obs, *adata.uns] if key.startswith("_scvi")]
    assert "Processed data: 150 cells × 60 genes" in (reference / "log.txt").read_text()
    loaded = sx.SCALEXModel.load(reference / "checkpoint", adata)
    np.testing.assert_array_equal(loaded.get_latent_representation(), adata.obsm["latent"])


def test_project_returns_reference_and_query(
    reference: Path, query: AnnData, tmp_path: Path
) -> None:
    adata = workflow.project(query, reference, tmp_path / "out", label="celltype")
    assert adata.obs["projection"].value_counts().to_dict() == {"reference": 150, "query": 80}
    is_query = (adata.obs["projection"] == "query").to_numpy()
    assert adata.obs["celltype_transfer"][is_query].notna().all()
    assert adata.obs["celltype_transfer"][~is_query].isna().all()
    before = ad.read_h5ad(reference / "adata.h5ad")
    np.testing.assert_array_equal(adata.obsm["latent"][~is_query], before.obsm["latent"])
    written = ad.read_h5ad(tmp_path / "out" / "adata.h5ad")
    np.testing.assert_array_equal(written.obsm["latent"], adata.obsm["latent"])
    assert (tmp_path / "out" / "umap.png").stat().st_size > 10_000


def test_project_with_repeated_cell_names(
    reference: Path, query: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adata = workflow.project(query, reference, tmp_path / "out")
    assert adata.obs_names.is_unique
    assert "80 cell names are in both" in caplog.text


def test_project_without_the_reference_s_cells(
    reference: Path, query: AnnData, tmp_path: Path
) -> None:
    (reference / "adata.h5ad").unlink()
    assert workflow.project(query, reference, tmp_path / "out").n_obs == 80
    with pytest.raises(FileNotFoundError, match="to transfer 'celltype' from"):
        workflow.project(query, reference, tmp_path / "out2", label="celltype")


def test_same_seed_same_result(counts: AnnData, tmp_path: Path) -> None:
    first, second = (
        workflow.integrate(
            counts.copy(), tmp_path / name, preprocessing={"min_features": 0}, training=FAST
        )
        for name in ("a", "b")
    )
    for key in ("latent", "X_umap"):
        np.testing.assert_array_equal(first.obsm[key], second.obsm[key])
    assert list(first.obs["leiden"]) == list(second.obs["leiden"])


def test_function_and_command_line_agree_to_the_last_bit(
    counts: AnnData, query: AnnData, reference: Path, tmp_path: Path
) -> None:
    expected = workflow.project(query, reference, tmp_path / "a", label="celltype")
    counts.write_h5ad(tmp_path / "counts.h5ad")
    query.write_h5ad(tmp_path / "query.h5ad")
    ref = str(tmp_path / "cli_ref")
    # 150 cells make 2 minibatches an epoch: 8 steps are the 4 epochs of FAST.
    flags = ["integrate", str(tmp_path / "counts.h5ad"), "-o", ref, "--min-features", "0"]
    assert cli.main([*flags, *FAST_FLAGS]) == 0
    project = ["project", str(tmp_path / "query.h5ad"), "-r", ref, "--label", "celltype"]
    assert cli.main([*project, "-o", str(tmp_path / "b"), "--quiet"]) == 0
    found = ad.read_h5ad(tmp_path / "b" / "adata.h5ad")
    np.testing.assert_array_equal(found.obsm["latent"], expected.obsm["latent"])
    transferred = found.obs["celltype_transfer"].astype(str)
    assert list(transferred) == list(expected.obs["celltype_transfer"].astype(str))


def test_several_files_are_batches(tmp_path: Path) -> None:
    paths = []
    for i in range(2):
        paths.append(str(tmp_path / f"{i}.h5ad"))
        simulate_counts(70, n_batches=1, seed=i).write_h5ad(paths[-1])
    flags = ["integrate", *paths, "-o", str(tmp_path / "out"), "--min-features", "0"]
    assert cli.main([*flags, "--batch-categories", "A", "B", *FAST_FLAGS]) == 0
    adata = ad.read_h5ad(tmp_path / "out" / "adata.h5ad")
    assert adata.obs["batch"].value_counts().to_dict() == {"A": 70, "B": 70}


def test_demo_on_the_embedded_data(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ["--max-steps", "300", "--lr", "2e-3", "--quiet"]
    assert cli.main(["demo", "-o", str(tmp_path / "demo"), *flags]) == 0
    printed, messages = capsys.readouterr()
    assert "Epoch" not in messages
    assert "semi-synthetic" in printed
    assert f"Results are in {tmp_path / 'demo'}" in printed
    scores = pd.read_csv(tmp_path / "demo" / "scores.csv").set_index("score")["value"]
    assert (
        scores["same-batch neighbours, integrated"] < scores["same-batch neighbours, uncorrected"]
    )
    assert scores["accuracy of transferred labels"] > 0.5
    for folder in ("reference", "projection"):
        assert (tmp_path / "demo" / folder / "umap.png").exists()


def test_demo_on_given_data(counts: AnnData, tmp_path: Path) -> None:
    scores = workflow.demo(
        tmp_path / "out",
        counts,
        held_out="batch1",
        training=FAST | {},
        preprocessing={"min_features": 0},
    )
    assert len(scores) == 6
    assert scores["value"].between(0, 1).all()


MISTAKES = {
    "no file": (["integrate", "nowhere.h5ad", "-o", "{out}"], "no file 'nowhere.h5ad'"),
    "too strict": (["integrate", "{counts}", "-o", "{out}"], "Lower `min_features`"),
    "no batch": (
        ["integrate", "{counts}", "-o", "{out}", "--batch-key", "donor"],
        "`batch_key` 'donor' is not a column",
    ),
    "no reference": (
        ["project", "{counts}", "-r", "{out}", "-o", "{out}"],
        "no saved model",
    ),
    "no label": (["demo", "{counts}", "-o", "{out}", "--label", "type"], "'type' is not a column"),
    "no held-out batch": (
        ["demo", "{counts}", "-o", "{out}", "--held-out", "x"],
        "must be one of two or more batches",
    ),
}


@pytest.mark.parametrize(("argv", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_explained_without_a_traceback(
    counts: AnnData,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    argv: list[str],
    message: str,
) -> None:
    counts.write_h5ad(tmp_path / "counts.h5ad")
    places = {"counts": tmp_path / "counts.h5ad", "out": tmp_path / "out"}
    assert cli.main([arg.format(**places) for arg in argv] + ["--quiet"]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_help_and_usage_errors(capsys: pytest.CaptureFixture) -> None:
    for argv, code in ((["--help"], 0), (["--version"], 0), (["integrate"], 2), ([], 2)):
        with pytest.raises(SystemExit) as stop:
            cli.main(argv)
        assert stop.value.code == code
    assert sx.__version__ in capsys.readouterr().out


def test_an_interrupted_run_leaves_the_previous_results(
    counts: AnnData, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {p: p.read_bytes() for p in reference.rglob("*") if p.is_file() and p.name != "log.txt"}

    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(workflow, "embed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        workflow.integrate(counts, reference, preprocessing={"min_features": 0}, training=FAST)
    for path, content in kept.items():
        assert path.read_bytes() == content, path
    assert "The run ended early" in (reference / "log.txt").read_text()
    assert not logging.getLogger("scalex_scvi").handlers
