"""What a run may write, and what it leaves alone: no file of a user is lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from conftest import simulate_counts

import scalex_scvi as sx
from scalex_scvi import cli
from scalex_scvi.io import RunFolder

pytestmark = pytest.mark.usefixtures("narrow")

TINY = ["--min-features", "0", "--max-iteration", "2", "--ignore-umap", "--quiet"]


def contents(folder: Path) -> dict[str, bytes | None]:
    """All files below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def call(argv: list[str], capsys: pytest.CaptureFixture) -> tuple[int, list[str]]:
    """Exit code, and lines on stderr."""
    capsys.readouterr()
    main = cli.scalex_main if argv[0] == "SCALEX.py" else cli.main
    code = main(argv[1:] if argv[0] == "SCALEX.py" else argv)
    return code, capsys.readouterr().err.splitlines()


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    simulate_counts().write_h5ad(folder / "counts.h5ad")
    argv = ["integrate", str(folder / "counts.h5ad"), "-o", str(folder / "run"), *TINY]
    assert cli.main(argv) == 0
    return folder


@pytest.fixture
def place(made_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with raw counts, and `run/`, an integrated reference."""
    shutil.copytree(made_once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def raw_counts_here(place: Path) -> None:
    os.rename("counts.h5ad", "adata.h5ad")
    os.rename("run", "ref")


def foreign(name: str) -> Callable[[Path], None]:
    def make(place: Path) -> None:
        (place / "mine").mkdir()
        path = place / "mine" / name
        if name == "checkpoint":
            path.mkdir()
            path = path / "model.pt"
        path.write_text("of somebody else")

    return make


def link(place: Path) -> None:
    os.symlink("run", "same")


def hard_link(place: Path) -> None:
    os.link("run/adata.h5ad", "same.h5ad")


def picture_in_run(place: Path) -> None:
    (place / "run" / "umap.png").write_text("of somebody else")


def home(place: Path) -> None:
    os.environ["HOME"] = str(place)


REFUSED: dict[str, tuple[Callable[[Path], None] | None, str, str]] = {
    "into the folder of the counts": (
        raw_counts_here,
        "SCALEX.py -d adata.h5ad -o .",
        "SCALEX.py: --outdir '.': its results would replace 'adata.h5ad', which is read.",
    ),
    "the same by another path": (
        raw_counts_here,
        "integrate ./adata.h5ad -o {here}/ref/..",
        "its results would replace 'adata.h5ad'",
    ),
    "into a folder with other files": (
        foreign("notes.txt"),
        "integrate counts.h5ad -o mine",
        "scalex-scvi integrate: --outdir 'mine' holds 'notes.txt', not of an earlier run",
    ),
    "a checkpoint of somebody else": (
        foreign("checkpoint"),
        "integrate counts.h5ad -o mine",
        "--outdir 'mine' holds 'checkpoint'",
    ),
    "a picture of somebody else": (
        foreign("umap.png"),
        "SCALEX.py -d counts.h5ad -o mine",
        "--outdir 'mine' holds 'umap.png'",
    ),
    "a picture in a run folder": (
        picture_in_run,
        "integrate counts.h5ad -o run",
        "--outdir 'run' holds 'umap.png'",
    ),
    "a projection into other files": (
        foreign("notes.txt"),
        "project counts.h5ad -r run -o mine",
        "--outdir 'mine' holds 'notes.txt'",
    ),
    "a demonstration into other files": (
        foreign("notes.txt"),
        "demo counts.h5ad -o mine",
        "--outdir 'mine' holds 'notes.txt'",
    ),
    "a demonstration into a run": (
        None,
        "demo counts.h5ad -o run",
        "not of an earlier demo",
    ),
    "the results are the counts": (
        None,
        "integrate run/adata.h5ad -o run",
        "its results would replace 'run/adata.h5ad'",
    ),
    "by a link": (link, "integrate run/adata.h5ad -o same", "its results would replace"),
    "by the home folder": (home, "integrate ~/run/adata.h5ad -o run", "its results would replace"),
    "a file": (None, "integrate counts.h5ad -o counts.h5ad", "is a file. Name a folder."),
    "below a file": (None, "integrate counts.h5ad -o counts.h5ad/run", "is a file"),
    "no name": (None, "integrate counts.h5ad -o ''", "The name of the run folder is empty."),
    "imputed over cells": (
        None,
        "impute run -o run/adata.h5ad",
        "scalex-scvi impute: 'run/adata.h5ad' belongs to the results of the run in",
    ),
    "imputed over cells by a link": (link, "impute run -o same/adata.h5ad", "belongs to the"),
    "imputed over the counts": (
        None,
        "impute run -o counts.h5ad",
        "--out 'counts.h5ad' exists, and is not an earlier result of this command.",
    ),
    "labels over cells": (
        None,
        "transfer run -o run/adata.h5ad",
        "--out 'run/adata.h5ad' must end in one of ['.csv'].",
    ),
    "labels over a source": (
        hard_link,
        "assess same.h5ad -o same.h5ad",
        "--out 'same.h5ad' must end in one of ['.csv'].",
    ),
    "scores over another table": (
        foreign("table.csv"),
        "assess run -o mine/table.csv",
        "is not an earlier result of this command",
    ),
    "no name of a file": (None, "impute run -o ''", "--out '' must end in one of"),
    "below a file, too": (None, "assess run -o counts.h5ad/s.csv", "is a file, not a folder."),
    "a picture over one of somebody else": (
        foreign("map.png"),
        "plot run meta -o mine/map.png",
        "exists, and is not an earlier result of this command",
    ),
    "a picture over a paper": (
        foreign("paper.pdf"),
        "plot run meta -o mine/paper.pdf",
        "exists, and is not an earlier result of this command",
    ),
    "a picture over a model": (None, "plot run meta -o run/checkpoint/a.png", "belongs to the"),
}


@pytest.mark.parametrize(("make", "line", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_before_anything_is_written(
    place: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], None] | None,
    line: str,
    message: str,
) -> None:
    monkeypatch.setenv("HOME", os.environ["HOME"])
    if make is not None:
        make(place)
    before = contents(place)
    argv = [word.format(here=place).replace("''", "") for word in line.split()]
    code, err = call([*argv, "--quiet"], capsys)
    assert (code, len(err)) == (2, 1), err
    assert message in err[0]
    assert contents(place) == before


def test_a_run_goes_where_one_was_and_leaves_the_rest(place: Path) -> None:
    (place / "run" / "notes.txt").write_text("mine")
    first = ad.read_h5ad("run/adata.h5ad").obsm["latent"]
    argv = ["integrate", "counts.h5ad", "-o", "~/run", *TINY, "--seed", "1"]
    os.environ["HOME"], home = str(place), os.environ["HOME"]
    try:
        assert cli.main(argv) == 0
    finally:
        os.environ["HOME"] = home
    assert (place / "run" / "notes.txt").read_text() == "mine"
    assert not (ad.read_h5ad("run/adata.h5ad").obsm["latent"] == first).all()
    assert not (place / "~").exists()


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_a_picture_of_ours_is_replaced(place: Path, suffix: str) -> None:
    argv = ["plot", "run", "meta", "--color", "batch", "-q", "-o", f"meta.{suffix}"]
    for _ in range(2):
        assert cli.main(argv) == 0


@pytest.mark.parametrize("command", ["integrate", "demo"])
@pytest.mark.parametrize("there", [None, "new", "new/run"])
def test_a_failed_first_run_leaves_things_as_they_were(
    place: Path, command: str, there: str | None
) -> None:
    if there is not None:
        Path(there).mkdir(parents=True)
    before = contents(place)
    argv = [command, "counts.h5ad", "-o", "new/run", "--n-top-features", "nofile", "--quiet"]
    assert cli.main(argv) == 2
    assert contents(place) == before
    assert Path("new/run").exists() == (there == "new/run")
    assert Path("new").exists() == (there is not None)


def test_a_failed_run_leaves_the_earlier_one_and_a_log(place: Path) -> None:
    before = contents(place / "run")
    argv = ["integrate", "counts.h5ad", "-o", "run", "--batch-name", "donor", "--quiet"]
    assert cli.main(argv) == 2
    after = contents(place / "run")
    changed = {Path(name).name for name in before | after if before.get(name) != after.get(name)}
    assert changed <= {"log.txt", "scalex_run.json"}
    assert "Traceback" in Path("run/log.txt").read_text()


@pytest.mark.parametrize("given", [None, 3, b"run"])
def test_a_run_folder_is_named_by_a_path(given: object) -> None:
    with pytest.raises(TypeError, match=r"named by its path, got a .* by `scalex_scvi.map_query`"):
        RunFolder(given)


def test_two_runs_do_not_write_into_one_folder(counts: AnnData, tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run").run():
        with pytest.raises(ValueError, match="another run is writing there"):
            sx.SCALEX(counts, outdir=tmp_path / "run")


def test_a_model_is_not_saved_into_the_results_of_a_run(place: Path) -> None:
    model = sx.SCALEXModel.load("run/checkpoint", adata=False)
    with pytest.raises(ValueError, match="belongs to the results of the run"):
        model.save("run/checkpoint", overwrite=True)
    assert not list(Path().rglob(".scalex-*"))


@pytest.mark.parametrize("together", [list, tuple, np.array, pd.Series, pd.Index, iter])
def test_sources_are_not_replaced_by_what_is_put_together(
    place: Path, together: Callable[[list[str]], Any]
) -> None:
    before = contents(place)
    sources = together(["run/../counts.h5ad", "run/adata.h5ad"])
    with pytest.raises(ValueError, match="is one of the sources"):
        sx.io.concat(sources, save="counts.h5ad")
    assert contents(place) == before


def test_sources_of_an_iterator_are_not_replaced(place: Path) -> None:
    shutil.copytree("run", "there")
    before = contents(place)
    with pytest.raises(ValueError, match="its results would replace"):
        sx.SCALEX(Path("run").glob("*.h5ad"), outdir="run")
    with pytest.raises(ValueError, match="its results would replace"):
        sx.SCALEX(iter(["there/adata.h5ad"]), outdir="there", projection="run")
    assert contents(place) == before
