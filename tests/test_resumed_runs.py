"""A run whose process was killed in its training goes on to the result of an uninterrupted one."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from anndata import AnnData
from conftest import simulate_counts
from forked import run_script
from lightning.pytorch.callbacks import Callback

import scalex_scvi as sx
from scalex_scvi import workflow
from scalex_scvi.cli import main
from scalex_scvi.io import RunFolder
from scalex_scvi.train import Checkpoint

HOW: dict[str, Any] = {
    "min_features": 0,
    "max_iteration": 30,
    "batch_size": 16,
    "ignore_umap": True,
    "progress_bar": False,
}

KILLED = """
import os, signal, sys
from lightning.pytorch.callbacks import Callback
from scalex_scvi import workflow
from scalex_scvi._outputs import Outputs
from scalex_scvi.io import RunFolder
from scalex_scvi.pp import Preparation
from scalex_scvi.train import Checkpoint, Recipe

class Kill(Callback):
    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 17:
            os.kill(os.getpid(), signal.SIGKILL)

source, outdir = sys.argv[1:]
workflow.integrate(
    source,
    preparation=Preparation(min_features=0),
    recipe=Recipe(max_steps=30, batch_size=16),
    outputs=Outputs(outdir=outdir, ignore_umap=True),
    train_kwargs={
        "checkpoint": Checkpoint(RunFolder(outdir).training, steps=5),
        "callbacks": [Kill()],
        "accelerator": "cpu",
        "enable_progress_bar": False,
    },
)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "counts.h5ad"
    simulate_counts().write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    outdir = tmp_path_factory.mktemp("whole") / "run"
    sx.SCALEX(str(source), outdir=outdir, **HOW)
    return outdir


def assert_same_run(outdir: Path, whole: Path) -> None:
    """Files, weights and latent."""
    names = [
        {path.name for path in folder.iterdir()} - {"options.yaml"} for folder in (outdir, whole)
    ]
    assert names[0] == names[1]
    assert json.loads((outdir / "scalex_run.json").read_text())["kind"] == "run"
    states = [
        sx.SCALEXModel.load(folder / "checkpoint", adata=False).module.state_dict()
        for folder in (outdir, whole)
    ]
    for name, value in states[1].items():
        assert torch.equal(states[0][name], value), name
    latent = [ad.read_h5ad(folder / "adata.h5ad").obsm["latent"] for folder in (outdir, whole)]
    np.testing.assert_array_equal(*latent)


def test_a_killed_run_goes_on_in_the_shell(source: Path, whole: Path, tmp_path: Path) -> None:
    outdir = tmp_path / "run"
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    code, errors = run_script(script, str(source), str(outdir), folder=tmp_path)
    assert code == -signal.SIGKILL, errors[-4000:]
    assert (outdir / "training.ckpt").exists()
    assert not (outdir / "checkpoint").exists()
    typed = ["integrate", str(source), "-o", str(outdir), "--min-features", "0", "--resume", "-q"]
    typed += ["--max-steps", "30", "--batch-size", "16", "--ignore-umap"]
    assert main(typed) == 0
    assert_same_run(outdir, whole)
    assert "resume" not in (outdir / "options.yaml").read_text()


class Stop(Callback):
    """Leave a training, as Ctrl-C does."""

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == 17:
            raise KeyboardInterrupt


@pytest.fixture
def left(source: Path, tmp_path: Path) -> Path:
    """The folder of a run that was left in its training."""
    outdir = tmp_path / "run"
    checkpoint = Checkpoint(RunFolder(outdir).training, steps=5)
    with pytest.raises(KeyboardInterrupt) as left:
        workflow.integrate(
            str(source),
            preparation=workflow.Preparation(min_features=0),
            recipe=workflow.Recipe(max_steps=30, batch_size=16),
            outputs=workflow.Outputs(outdir=outdir, ignore_umap=True),
            train_kwargs={
                "checkpoint": checkpoint,
                "callbacks": [Stop()],
                "accelerator": "cpu",
                "enable_progress_bar": False,
            },
        )
    assert "`resume=True`" in left.value.__notes__[0]
    return outdir


def test_a_run_that_is_not_resumed_says_so_and_starts_anew(
    source: Path, whole: Path, left: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sx.SCALEX(str(source), outdir=left, **HOW)
    assert "holds an interrupted training, which is not continued" in caplog.text
    assert_same_run(left, whole)


def test_a_run_of_other_options_is_refused_and_keeps_the_checkpoint(
    source: Path, whole: Path, left: Path
) -> None:
    before = (left / "training.ckpt").read_bytes()
    with pytest.raises(ValueError, match=r"lr was 0.003, is 0.01\."):
        sx.SCALEX(str(source), outdir=left, resume=True, lr=0.01, **HOW)
    assert (left / "training.ckpt").read_bytes() == before
    sx.SCALEX(str(source), outdir=left, resume=True, **HOW)
    assert_same_run(left, whole)


def test_a_failure_after_the_training_does_not_repeat_it(
    source: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outdir = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr("scalex_scvi.io.RunFolder.write_adata", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sx.SCALEX(str(source), outdir=outdir, **HOW)
    monkeypatch.setattr("scalex_scvi.train.SCALEXTrainingPlan.training_step", lambda *args: 1 / 0)
    sx.SCALEX(str(source), outdir=outdir, resume=True, **HOW)
    assert_same_run(outdir, whole)


def test_nothing_to_resume_is_no_error(source: Path, whole: Path, tmp_path: Path) -> None:
    sx.SCALEX(str(source), outdir=tmp_path / "run", resume=True, **HOW)
    assert_same_run(tmp_path / "run", whole)


def test_resuming_needs_a_folder(counts: AnnData) -> None:
    with pytest.raises(ValueError, match="name it, `outdir`"):
        sx.SCALEX(counts, resume=True, **HOW)
