"""`~` in paths is the home folder, for everything that is read or written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from anndata import AnnData
from conftest import simulate_counts, small_model
from scipy.io import mmwrite

import scalex_scvi as sx

pytestmark = pytest.mark.usefixtures("narrow")

FAST = {
    "min_features": 0,
    "max_iteration": 4,
    "ignore_umap": True,
    "progress_bar": False,
    "show": False,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with a file, a run folder and a model."""
    folder = tmp_path_factory.mktemp("home")
    counts = simulate_counts()
    counts.write_h5ad(folder / "cells.h5ad")
    (folder / "mtx").mkdir()
    mmwrite(folder / "mtx" / "matrix.mtx", counts.X.T)
    for name, names in (("barcodes", counts.obs_names), ("genes", counts.var_names)):
        (folder / "mtx" / f"{name}.tsv").write_text("\n".join(names) + "\n")
    sx.SCALEX(simulate_counts(), outdir=folder / "run", **FAST)
    return folder


def model() -> sx.SCALEXModel:
    made = small_model(simulate_counts())
    made.is_trained_ = True
    return made


def on_map() -> AnnData:
    counts = simulate_counts()
    counts.obsm["X_umap"] = counts.X[:, :2].toarray()
    return counts


READ: dict[str, Callable[[], AnnData]] = {
    "SCALEX": lambda: sx.SCALEX("~/cells.h5ad", **FAST),
    "read": lambda: sx.io.read("~/cells.h5ad"),
    "pattern": lambda: sx.io.read("~/cell*.h5ad"),
    "read_file": lambda: sx.io.read_file("~/cells.h5ad"),
    "read_h5ad": lambda: sx.io.read_h5ad("~/cells.h5ad"),
    "read_mtx": lambda: sx.io.read_mtx("~/mtx"),
    "backed": lambda: sx.io.read("~/cells.h5ad", backed=True),
    "read_lazy": lambda: sx.io.read_lazy("~/cells.h5ad"),
    "projection": lambda: sx.SCALEX(simulate_counts(), projection="~/run", repeat=True, **FAST),
    "map_query": lambda: sx.map_query(simulate_counts(), "~/run").adata,
}


@pytest.mark.parametrize("call", READ.values(), ids=READ)
def test_what_is_read(home: Path, monkeypatch: pytest.MonkeyPatch, call: Callable) -> None:
    if call is READ["read_lazy"]:
        pytest.importorskip("dask")
    monkeypatch.setenv("HOME", str(home))
    assert call().n_obs == 150


WRITTEN: dict[str, Callable[[], object]] = {
    "outdir/adata.h5ad": lambda: sx.SCALEX(simulate_counts(), outdir="~/outdir", **FAST),
    "saved/model.pt": lambda: model().save("~/saved"),
    "imputed.h5ad": lambda: model().impute(path="~/imputed.h5ad"),
    "concat.h5ad": lambda: sx.io.concat("~/cells.h5ad", save="~/concat.h5ad"),
    "latent.h5ad": lambda: model().project_store("~/cells.h5ad", "~/latent.h5ad"),
    "picture.png": lambda: sx.pl.umap(on_map(), "batch", show=False, save="~/picture.png"),
    "report.html": lambda: sx.pl.report(on_map(), "~/report.html"),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if name == "latent.h5ad":
        pytest.importorskip("dask")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    WRITTEN[name]()
    assert (home / name).is_file()
    assert not (home / "~").exists()


@pytest.mark.parametrize(
    "call",
    [
        lambda run: sx.SCALEX(simulate_counts(), projection=run, **FAST),
        lambda run: sx.map_query(simulate_counts(), run),
        lambda run: sx.SCALEXModel.load(run / "saved"),
    ],
    ids=["projection", "map_query", "load"],
)
def test_a_truncated_file_of_cells_is_named(
    home: Path, tmp_path: Path, call: Callable[[Path], object]
) -> None:
    half = (home / "run" / "adata.h5ad").read_bytes()[:5000]
    (tmp_path / "checkpoint").mkdir()
    model().save(tmp_path / "saved", save_anndata=True)
    for place in (tmp_path, tmp_path / "saved"):
        (place / "adata.h5ad").write_bytes(half)
    weights = (home / "run" / "checkpoint" / "model.pt").read_bytes()
    (tmp_path / "checkpoint" / "model.pt").write_bytes(weights)
    with pytest.raises(ValueError, match=r"adata.h5ad' cannot be read as .h5ad"):
        call(tmp_path)
