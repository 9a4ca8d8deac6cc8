"""A large file is mapped and projected in blocks, with the results of the same file in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from conftest import simulate_counts
from scipy import sparse

import scalex_scvi as sx
from scalex_scvi import cli
from scalex_scvi.io import _large, _read, read_lazy

pytestmark = pytest.mark.usefixtures("narrow")

pytest.importorskip("dask", reason="needs the extra 'scale'")

FAST = ["--min-features", "0", "--max-steps", "60", "--ignore-umap", "-q"]
N_CELLS, IN_BLOCK = 600, 256


def new_cells() -> AnnData:
    adata = simulate_counts(N_CELLS, n_batches=2, seed=5)
    adata.obs["note"] = [f"cell {i}" for i in range(N_CELLS)]
    adata.obs["batch"] = adata.obs["batch"].cat.rename_categories({"batch1": "new"})
    adata.obsm["spatial"] = np.arange(2 * N_CELLS, dtype=np.float64).reshape(-1, 2)
    adata.uns["about"] = {"donor": "A"}
    adata.layers["counts"] = adata.X.copy()
    return adata


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with new cells, the run ``run`` and the reference ``blood``."""
    folder = tmp_path_factory.mktemp("shell")
    simulate_counts(300).write_h5ad(folder / "counts.h5ad")
    new_cells().write_h5ad(folder / "new.h5ad")
    run, blood = str(folder / "run"), str(folder / "blood")
    assert cli.main(["integrate", str(folder / "counts.h5ad"), "-o", run, *FAST]) == 0
    argv = ["reference", run, "-o", blood, "--labels", "celltype", "--license", "mit", "-q"]
    assert cli.main(argv) == 0
    return folder


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("new.h5ad", "run", "blood"):
        (tmp_path / name).symlink_to(place / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def all_are_large(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, no file may be read whole."""

    def whole(path: Path, **kwargs: object) -> AnnData:
        raise AssertionError(f"{path} is read whole")

    def begin() -> None:
        monkeypatch.setattr(_large, "LARGE", 0)
        monkeypatch.setattr(_large, "read_lazy", partial(read_lazy, cells_in_block=IN_BLOCK))
        monkeypatch.setitem(_read._ANNDATA, ".h5ad", whole)
        monkeypatch.setitem(_read._ANNDATA, ".zarr", whole)

    return begin


def check_same(one: str, other: str) -> None:
    found, expected = (ad.read_h5ad(f"{name}/adata.h5ad") for name in (one, other))
    assert type(found.X) is type(expected.X)
    assert found.X.dtype == expected.X.dtype
    np.testing.assert_array_equal(dense(found.X), dense(expected.X))
    pd.testing.assert_frame_equal(found.obs, expected.obs, atol=1e-4, check_exact=False)
    pd.testing.assert_frame_equal(found.var, expected.var)
    assert list(found.obsm) == list(expected.obsm)
    for key in found.obsm:
        np.testing.assert_allclose(found.obsm[key], expected.obsm[key], atol=1e-4)
    assert list(found.uns) == list(expected.uns)
    assert list(found.layers) == list(expected.layers)


def dense(matrix: np.ndarray | sparse.csr_matrix) -> np.ndarray:
    return matrix.toarray() if sparse.issparse(matrix) else matrix


COMMANDS = {
    "map": ["map", "new.h5ad", "-r", "blood", "-q"],
    "map, with a report": ["map", "new.h5ad", "-r", "blood", "--report", "-q"],
    "map, of a layer": ["map", "new.h5ad", "-r", "blood", "--use-layer", "counts", "-q"],
    "project": ["project", "new.h5ad", "-r", "run", "--label", "celltype", "--unknown", "-q",
                "--ignore-umap"],
    "project, without poor cells": ["project", "new.h5ad", "-r", "run", "--min-features", "50",
                                    "-q", "--ignore-umap"],
    "project, by batch statistics": ["project", "new.h5ad", "-r", "run", "--repeat", "-q",
                                     "--batch-stats", "batch", "--ignore-umap"],
}  # fmt: skip


@pytest.mark.parametrize("argv", COMMANDS.values(), ids=COMMANDS.keys())
def test_results_are_those_of_the_file_in_memory(
    here: Path, all_are_large: Callable[[], None], argv: list[str]
) -> None:
    assert cli.main([*argv, "-o", "in_memory"]) == 0
    all_are_large()
    assert cli.main([*argv, "-o", "in_blocks"]) == 0
    check_same("in_blocks", "in_memory")
    names = [
        sorted(path.name for path in Path(name).iterdir()) for name in ("in_blocks", "in_memory")
    ]
    assert names[0] == names[1]
    if argv[0] == "map":
        tables = [pd.read_csv(f"{name}/mapped_labels.csv") for name in ("in_blocks", "in_memory")]
        pd.testing.assert_frame_equal(*tables, atol=1e-4, check_exact=False)


def dense_file(adata: AnnData, folder: Path) -> Path:
    adata.X = adata.X.toarray()
    adata.write_h5ad(folder / "other.h5ad")
    return folder / "other.h5ad"


def zarr_store(adata: AnnData, folder: Path) -> Path:
    adata.write_zarr(folder / "other.zarr")
    return folder / "other.zarr"


def with_proteins(adata: AnnData, folder: Path) -> Path:
    kinds = np.where(np.arange(adata.n_vars) < 50, "Gene Expression", "Antibody Capture")
    adata.var["feature_types"] = pd.Categorical(kinds)
    adata.write_h5ad(folder / "other.h5ad")
    return folder / "other.h5ad"


@pytest.mark.parametrize("write", [dense_file, zarr_store, with_proteins])
def test_other_layouts(
    here: Path, all_are_large: Callable[[], None], write: Callable[[AnnData, Path], Path]
) -> None:
    argv = ["map", str(write(new_cells(), here)), "-r", "blood", "-q"]
    assert cli.main([*argv, "-o", "in_memory"]) == 0
    all_are_large()
    assert cli.main([*argv, "-o", "in_blocks"]) == 0
    check_same("in_blocks", "in_memory")


def by_genes(adata: AnnData, folder: Path) -> None:
    adata.X = adata.X.tocsc()


def counts_in_raw(adata: AnnData, folder: Path) -> None:
    adata.raw = adata.copy()
    adata.X = adata.X.multiply(0.37).tocsr()


@pytest.mark.parametrize("change", [by_genes, counts_in_raw])
def test_what_cannot_be_read_in_blocks_is_read_whole(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[AnnData, Path], None],
) -> None:
    adata = new_cells()
    change(adata, here)
    adata.write_h5ad("other.h5ad")
    assert cli.main(["map", "new.h5ad", "-r", "blood", "-o", "in_memory", "-q"]) == 0
    monkeypatch.setattr(_large, "LARGE", 0)
    with caplog.at_level(logging.INFO, "scalex_scvi"):
        assert cli.main(["map", "other.h5ad", "-r", "blood", "-o", "whole", "-q"]) == 0
    assert ("is read into memory: its matrix is not stored by cells" in caplog.text) == (
        change is by_genes
    )
    found, expected = (ad.read_h5ad(f"{name}/adata.h5ad") for name in ("whole", "in_memory"))
    np.testing.assert_allclose(found.obsm["X_scalex"], expected.obsm["X_scalex"], atol=1e-5)
    pd.testing.assert_series_equal(
        found.obs["celltype_transfer"], expected.obs["celltype_transfer"]
    )


def test_backed_reads_a_small_file_in_blocks(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(*args: object, **kwargs: object) -> AnnData:
        raise AssertionError("read whole")

    latent = sx.SCALEX("new.h5ad", projection="run", repeat=True, show=False, ignore_umap=True)
    monkeypatch.setattr(_read, "read_h5ad", whole)
    backed = sx.SCALEX(
        "new.h5ad", projection="run", repeat=True, show=False, ignore_umap=True, backed=True
    )
    np.testing.assert_allclose(backed.obsm["latent"], latent.obsm["latent"], atol=1e-5)


def test_an_integration_reads_its_file_whole(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_large, "LARGE", 0)
    counts = sx.io.load_counts("new.h5ad")
    assert sparse.issparse(counts.X)
