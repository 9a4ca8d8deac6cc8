"""How the command line fails: exit code, one line on stderr, the traceback in the log alone."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import scanpy as sc
import torch
from conftest import QUIET, simulate_counts, small_model

import scalex_scvi as sx
from scalex_scvi import cli
from scalex_scvi.tl import _embed

pytestmark = pytest.mark.usefixtures("narrow")

FAST = ["--min-features", "0", "--max-iteration", "8", "--ignore-umap", "--quiet"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    simulate_counts(60, 20, 2).write_h5ad(tmp_path / "counts.h5ad")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def interrupted(self: object, *args: object) -> None:
    raise KeyboardInterrupt


def diverged(self: object, *args: object) -> torch.Tensor:
    return torch.tensor(float("nan"), requires_grad=True)


def disk_full(self: object, *args: object) -> None:
    raise OSError(28, "No space left on device", "run/x")


def broken(self: object, *args: object) -> None:
    torch.zeros(2) @ torch.zeros(3)


STEP, SAVE = "scalex_scvi.train.SCALEXTrainingPlan.on_train_epoch_end", "scalex_scvi._results.kept"
FAILURES: dict[str, tuple[str, Callable, int, str]] = {
    "Ctrl-C": (STEP, interrupted, 130, "interrupted; earlier results are as they were."),
    "disk full": (SAVE, disk_full, 1, "No space left on device: 'run/x'"),
    "disk full in training": (STEP, disk_full, 1, "No space left on device: 'run/x'"),
    "a mistake of ours": (STEP, broken, 1, "unexpected RuntimeError: "),
}


@pytest.mark.parametrize(("where", "how", "code", "line"), FAILURES.values(), ids=FAILURES.keys())
@pytest.mark.parametrize("quiet", [True, False], ids=["quiet", "not quiet"])
def test_one_line_and_what_is_left(
    place: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    how: Callable,
    code: int,
    line: str,
    quiet: bool,
) -> None:
    if where == STEP:
        monkeypatch.setattr(sx.train.SCALEXTrainingPlan, "on_train_epoch_end", how)
    else:
        monkeypatch.setattr("scalex_scvi.workflow.kept", how)
    argv = ["integrate", "counts.h5ad", "-o", "run", *FAST]
    assert cli.main(argv if quiet else argv[:-1]) == code
    out, err = capsys.readouterr()
    assert err.splitlines()[-1].startswith(f"scalex-scvi integrate: {line}")
    assert "Traceback" not in out + err
    assert "Exception raised" not in out
    if quiet:
        assert len(err.splitlines()) == 1
    if how is broken:
        in_log = "; the traceback is in 'run/log.txt')"
        assert "(in scalex_scvi.train._runner, line " in err and in_log in err
    # A first run leaves nothing but its training, and the log of what does not explain itself.
    if where == SAVE or how is broken:
        assert "Traceback" in Path("run/log.txt").read_text()
        assert Path("run/training.ckpt").exists() == (where == SAVE)
    else:
        assert not Path("run").exists()


@pytest.mark.parametrize("quiet", [True, False], ids=["quiet", "not quiet"])
def test_slow_steps_are_named_before_they_begin(
    place: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, quiet: bool
) -> None:
    """The steps after the training: what follows a line is not silence."""
    begun = []
    for module, name in ((_embed, "add_neighbors"), (sc.pp, "pca")):
        step = getattr(module, name)

        def seen(*args: object, step: Callable = step, name: str = name, **how: object) -> object:
            begun.append((name, capsys.readouterr().err))
            return step(*args, **how)

        monkeypatch.setattr(module, name, seen)
    argv = ["integrate", "counts.h5ad", "-o", "run", *FAST[:4]]
    assert cli.main([*argv, "--quiet"] if quiet else argv) == 0
    begun.append(("the rest", capsys.readouterr().err))
    said = dict(reversed(begun))  # the first of each name
    if quiet:
        assert set(said.values()) == {""}
        return
    assert said["add_neighbors"].endswith("Neighbors, UMAP and clusters of 60 cells.\n")
    assert said["pca"].endswith("UMAP of 60 cells as they were before the integration.\n")
    for step in ("Writes model and cells.", "Draws the pictures.", "Writes the report."):
        assert step in "".join(text for _, text in begun)


def test_a_diverged_training(place: Path, capsys: pytest.CaptureFixture) -> None:
    argv = ["integrate", "counts.h5ad", "-o", "run", *FAST]
    assert cli.main([*argv, "--lr", "1e30"]) == 1
    assert "training diverged. Lower --lr." in capsys.readouterr().err.splitlines()[0]


def test_a_confusion_of_cells_without_labels_of_their_own(
    place: Path, capsys: pytest.CaptureFixture
) -> None:
    adata = simulate_counts(60, 20, 2)
    adata.obs["celltype_transfer"] = adata.obs["celltype"].copy()
    adata.obs["celltype"] = adata.obs["celltype"].where(adata.obs["celltype"].isna())  # no label
    adata.write_h5ad("mapped.h5ad")
    assert cli.main(["plot", "mapped.h5ad", "confusion", "-o", "c.png"]) == 2
    assert "whose types are known. Name their column by --color" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(
    place: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "locked").mkdir()
    access = os.access  # root, who runs some tests, may write everywhere

    def locked(path: object, mode: int, **how: object) -> bool:
        return Path(str(path)).name != "locked" and access(path, mode, **how)

    monkeypatch.setattr(os, "access", locked)
    assert cli.main(["integrate", "counts.h5ad", "-o", "locked/run", *FAST]) == 2
    monkeypatch.setattr(os, "access", access)
    assert not list((place / "locked").iterdir())
    assert "nothing can be written into 'locked'" in capsys.readouterr().err


def test_an_interrupted_training_raises_and_the_key_works_again(
    prepared: sx.SCALEXModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import signal

    key = signal.getsignal(signal.SIGINT)
    model = small_model(prepared)
    with monkeypatch.context() as patched:
        patched.setattr(sx.train.SCALEXTrainingPlan, "on_train_epoch_end", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.train(max_epochs=2, **QUIET)
    assert signal.getsignal(signal.SIGINT) is key
    assert not model.is_trained
    assert capsys.readouterr().out == ""
    model.train(max_epochs=2, **QUIET)
    assert model.is_trained


def test_versions_and_scores_as_json(place: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["versions", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scalex-scvi"] == sx.__version__
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert cli.main(["versions"]) == 0
    assert f"scalex-scvi  {sx.__version__}\n" in capsys.readouterr().out
    assert cli.main(["integrate", "counts.h5ad", "-o", "run", *FAST]) == 0
    capsys.readouterr()
    assert cli.main(["assess", "run", "--json", "--quiet"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert 0 <= scores["latent"]["batch_entropy_mixing_score"] <= 1


def test_bash_completes_commands_and_options(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["completion", "bash"]) == 0
    script = tmp_path / "complete.sh"
    script.write_text(capsys.readouterr().out)
    for words, expected in (("inte", "integrate"), ("integrate --max-s", "--max-steps")):
        typed = ["scalex-scvi", *words.split()]
        program = (
            f"source {script}; COMP_WORDS=({' '.join(typed)}); COMP_CWORD={len(typed) - 1}; "
            "_scalex_scvi; echo ${COMPREPLY[@]}"
        )
        ended = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
        assert ended.stdout.strip() == expected


@pytest.mark.parametrize("command", ["integrate", "project", "demo", "SCALEX.py"])
def test_help_has_no_dead_flag_and_the_exit_codes(
    command: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        if command == "SCALEX.py":
            cli.scalex_main(["--help"])
        else:
            cli.main([command, "--help"])
    shown = capsys.readouterr().out
    for flag in ("--num-workers", "--eval", "--verbose"):
        assert flag not in shown
    assert "Exit codes: 0 fine, 1 the run failed" in " ".join(shown.split())
