"""Stores on disk: what is written comes back, in blocks."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from anndata.abc import CSRDataset
from conftest import simulate_counts
from mudata import MuData
from scipy import sparse

import scalex_scvi as sx
from scalex_scvi import io

da = pytest.importorskip("dask.array")
zarr = pytest.importorskip("zarr")


@pytest.fixture
def rich(counts: AnnData) -> AnnData:
    counts.obsm["spatial"] = np.arange(300.0).reshape(150, 2)
    counts.uns["colors"] = ["red", "green"]
    counts.layers["twice"] = counts.X * 2
    return counts


def same(adata: AnnData, expected: AnnData) -> None:
    pd.testing.assert_frame_equal(adata.obs, expected.obs)
    pd.testing.assert_frame_equal(adata.var, expected.var)
    np.testing.assert_array_equal(adata.obsm["spatial"], expected.obsm["spatial"])
    assert list(adata.uns["colors"]) == list(expected.uns["colors"])


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("layer", [None, "twice"])
def test_read_lazy(rich: AnnData, tmp_path: Path, suffix: str, layer: str | None) -> None:
    path = tmp_path / f"cells{suffix}"
    rich.write_h5ad(path) if suffix == ".h5ad" else rich.write_zarr(path)
    lazy = io.read_lazy(path, layer=layer, cells_in_block=40)
    assert lazy.X.chunks == ((40, 40, 40, 30), (60,))
    expected = rich.X if layer is None else rich.layers[layer]
    np.testing.assert_array_equal(lazy.X.compute().toarray(), expected.toarray())
    same(lazy, rich)


def test_read_lazy_dense(counts: AnnData, tmp_path: Path) -> None:
    counts.X = counts.X.toarray()
    counts.write_h5ad(tmp_path / "dense.h5ad")
    lazy = io.read_lazy(tmp_path / "dense.h5ad", cells_in_block=40)
    assert lazy.X.numblocks == (4, 1)
    np.testing.assert_array_equal(lazy.X.compute(), counts.X)


@pytest.mark.parametrize("lazy", [True, False], ids=["dask", "in-memory"])
def test_store_comes_back(rich: AnnData, tmp_path: Path, lazy: bool) -> None:
    prepared = sx.pp.rna(rich, batch_key="batch", min_features=0, n_top_features=30)
    expected = prepared.X.toarray()
    if lazy:
        rich.write_h5ad(tmp_path / "counts.h5ad")
        source = io.read_lazy(tmp_path / "counts.h5ad", cells_in_block=40)
        prepared = sx.pp.rna(source, batch_key="batch", min_features=0, n_top_features=30)
    io.write_store(prepared, tmp_path / "cells.zarr")
    opened = io.open_store(tmp_path / "cells.zarr")
    assert isinstance(opened.X, CSRDataset)
    assert opened.X.dtype == np.float32
    np.testing.assert_array_equal(opened.X[:].toarray(), expected)
    np.testing.assert_array_equal(opened.X[[7, 3, 149]].toarray(), expected[[7, 3, 149]])
    same(opened, prepared)
    record = sx.pp.Preprocessing.from_adata(opened)
    assert record == sx.pp.Preprocessing.from_adata(prepared)
    pd.testing.assert_frame_equal(record.scale, prepared.varm["scalex_scale"])
    # Read again in blocks, as any other data.
    again = io.read_lazy(tmp_path / "cells.zarr")
    np.testing.assert_array_equal(again.X.compute().toarray(), expected)
    assert io.read(tmp_path / "cells.zarr").shape == opened.shape


def test_registration_is_not_written_and_the_input_not_changed(
    prepared: AnnData, tmp_path: Path
) -> None:
    sx.SCALEXModel.setup_anndata(prepared, batch_key="batch")
    before = list(prepared.obs), list(prepared.uns)
    io.write_store(prepared, tmp_path / "cells.zarr")
    assert (list(prepared.obs), list(prepared.uns)) == before
    opened = io.open_store(tmp_path / "cells.zarr")
    assert not [key for key in [*opened.obs, *opened.uns] if key.startswith("_scvi")]


def test_annotations_that_no_file_can_hold(
    counts: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    n = counts.n_obs
    counts.obs["cell/type"] = counts.obs["celltype"]
    counts.obs["date"] = pd.to_datetime(["2020-01-02"] * n)
    counts.obs["note"] = [None, *["seen"] * (n - 1)]
    counts.obs["text"] = pd.array([None, *["seen"] * (n - 1)], dtype="string")
    before = counts.obs.copy()
    io.write_store(counts, tmp_path / "cells.zarr")
    pd.testing.assert_frame_equal(counts.obs, before)
    found = io.open_store(tmp_path / "cells.zarr").obs
    assert list(found["cell|type"]) == list(before["celltype"])
    assert set(found["date"]) == {"2020-01-02"}
    for column in ("note", "text"):
        assert list(found[column].isna()) == [True] + [False] * (n - 1)
    assert "obs['cell/type'] is obs['cell|type']" in caplog.text


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_cells_of_a_file_are_written(
    counts: AnnData, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scalex_scvi.io._store.CELLS_IN_BLOCK", 40)
    expected = counts.X.toarray()
    counts.X = expected.copy() if form == "dense" else counts.X.asformat(form)
    counts.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    io.write_store(backed, tmp_path / "cells.zarr")
    found = io.open_store(tmp_path / "cells.zarr").X[:].toarray()
    np.testing.assert_array_equal(found, expected)


def test_a_store_is_written_without_warnings(rich: AnnData, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        io.write_store(rich, tmp_path / "cells.zarr")
    assert not [str(one.message) for one in caught if one.category is UserWarning]


def test_cells_without_a_matrix_are_no_store(counts: AnnData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`adata.X` is None"):
        io.write_store(AnnData(obs=counts.obs, var=counts.var), tmp_path / "cells.zarr")
    assert not list(tmp_path.iterdir())


def test_a_block_without_values(prepared: AnnData, tmp_path: Path) -> None:
    x = sparse.csr_matrix(prepared.X.multiply((np.arange(150) >= 50)[:, None]))
    parts = [da.from_delayed(_delayed(x[s : s + 50]), (50, 60), x.dtype, x[:0]) for s in (0, 50)]
    adata = AnnData(X=da.concatenate(parts), obs=prepared.obs[:100].copy())
    io.write_store(adata, tmp_path / "cells.zarr")
    stored = io.open_store(tmp_path / "cells.zarr").X[:]
    np.testing.assert_array_equal(stored.toarray(), x[:100].toarray())


def _delayed(value: Any) -> Any:
    import dask

    return dask.delayed(value)


def test_written_whole_or_not_at_all(prepared: AnnData, tmp_path: Path) -> None:
    path = tmp_path / "cells.zarr"
    io.write_store(prepared, path)

    def fail(block: Any) -> Any:
        raise OSError("disk gone")

    broken = prepared.copy()
    broken.X = da.from_array(prepared.X.toarray(), chunks=(50, 60)).map_blocks(
        fail, dtype=np.float32, meta=prepared.X[:0]
    )
    for target in (path, tmp_path / "new.zarr"):
        with pytest.raises(OSError, match="disk gone"):
            io.write_store(broken, target, overwrite=True)
    assert [found.name for found in tmp_path.iterdir()] == ["cells.zarr"]
    np.testing.assert_array_equal(io.open_store(path).X[:].toarray(), prepared.X.toarray())


def test_overwrite(prepared: AnnData, tmp_path: Path) -> None:
    path = tmp_path / "cells.zarr"
    io.write_store(prepared, path)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        io.write_store(prepared, path)
    io.write_store(prepared[:60].copy(), path, overwrite=True)
    assert io.open_store(path).n_obs == 60
    assert [found.name for found in tmp_path.iterdir()] == ["cells.zarr"]


def _of_two(path: Path) -> AnnData:
    half = io.read_lazy(path)[:75].copy()
    half.X = da.concatenate([half.X[:40], da.zeros((35, 60), chunks=(35, 60))])
    return half


LAZILY = {
    "blocks": io.read_lazy,
    "some of them": lambda path: io.read_lazy(path, cells_in_block=40)[:60].copy(),
    "on disk": io.open_store,
    "prepared": lambda path: sx.pp.rna(io.read_lazy(path), batch_key="batch", min_features=0),
    "with others": _of_two,
}


# A store to open holds CSR, so that nothing dense is read by it.
@pytest.mark.parametrize(
    ("read", "dense"),
    [
        (name, dense)
        for name in LAZILY
        for dense in (False, True)
        if not (name == "on disk" and dense)
    ],
)
def test_a_store_is_not_replaced_by_what_is_read_from_it(
    counts: AnnData, tmp_path: Path, read: str, dense: bool
) -> None:
    path, link = tmp_path / "cells.zarr", tmp_path / "same.zarr"
    if dense:
        counts.X = counts.X.toarray()
    counts.write_zarr(path)
    link.symlink_to(path)
    before = {found: found.stat().st_mtime_ns for found in path.rglob("*")}
    cells = LAZILY[read](path)
    for place in (path, link):
        with pytest.raises(ValueError, match="is what `adata` is read from"):
            io.write_store(cells, place, overwrite=True)
    assert {found: found.stat().st_mtime_ns for found in path.rglob("*")} == before
    assert io.read_lazy(path).shape == (150, 60)


def test_what_is_read_from_another_file_replaces_a_store(counts: AnnData, tmp_path: Path) -> None:
    counts.write_h5ad(tmp_path / "cells.h5ad")
    for place in ("one.zarr", "cells.zarr"):
        io.write_store(io.read_lazy(tmp_path / "cells.h5ad"), tmp_path / place)
    lazy = io.read_lazy(tmp_path / "one.zarr")
    io.write_store(lazy, tmp_path / "cells.zarr", overwrite=True)
    found = io.open_store(tmp_path / "cells.zarr").X[:]
    np.testing.assert_array_equal(found.toarray(), counts.X.toarray())


def test_imputed_expression_does_not_replace_what_is_read(
    model: sx.SCALEXModel, prepared: AnnData, tmp_path: Path
) -> None:
    io.write_store(prepared, tmp_path / "cells.zarr")
    cells = io.open_store(tmp_path / "cells.zarr")
    with pytest.raises(ValueError, match="is what `adata` is read from"):
        model.impute(cells, path=tmp_path / "cells.zarr")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("cells.h5ad", ValueError, "must end in .zarr"),
        ("absent/cells.zarr", FileNotFoundError, "does not exist"),
        ("folder.zarr", FileExistsError, "is no zarr store"),
    ],
)
def test_places_that_cannot_be_written(
    prepared: AnnData, tmp_path: Path, name: str, error: type[Exception], message: str
) -> None:
    (tmp_path / "folder.zarr").mkdir()
    with pytest.raises(error, match=message):
        io.write_store(prepared, tmp_path / name, overwrite=True)


def test_files_that_cannot_be_opened(counts: AnnData, tmp_path: Path) -> None:
    for function in (io.read_lazy, io.open_store):
        with pytest.raises(FileNotFoundError, match=r"There is no file .*absent\.zarr"):
            function(tmp_path / "absent.zarr")
    counts.write_h5ad(tmp_path / "csr.h5ad")
    with pytest.raises(TypeError, match="`path` is a 'AnnData'; allowed are a path"):
        io.read_lazy(counts)
    with pytest.raises(ValueError, match=r"no zarr store with a CSR matrix.*write_store"):
        io.open_store(tmp_path / "csr.h5ad")
    with pytest.raises(KeyError, match=r"`layer` 'raw' is not in the layers"):
        io.read_lazy(tmp_path / "csr.h5ad", layer="raw")
    (tmp_path / "text.h5ad").write_text("no hdf5")
    with pytest.raises(ValueError, match=r"text\.h5ad' cannot be read as an AnnData"):
        io.read_lazy(tmp_path / "text.h5ad")
    counts.X = counts.X.tocsc()
    counts.write_h5ad(tmp_path / "csc.h5ad")
    with pytest.raises(ValueError, match=r"stored by genes \(CSC\)"):
        io.read_lazy(tmp_path / "csc.h5ad")
    AnnData(obs=counts.obs).write_h5ad(tmp_path / "empty.h5ad")
    with pytest.raises(ValueError, match=r"has no `X`"):
        io.read_lazy(tmp_path / "empty.h5ad")


def test_without_dask(counts: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts.write_h5ad(tmp_path / "counts.h5ad")
    monkeypatch.setitem(__import__("sys").modules, "dask.array", None)
    with pytest.raises(ImportError, match=r"scalex-scvi\[scale\]"):
        io.read_lazy(tmp_path / "counts.h5ad")


@pytest.mark.parametrize("name", ["data.h5mu", "data.h5mu/rna"])
def test_a_mudata_is_not_read_in_blocks(counts: AnnData, tmp_path: Path, name: str) -> None:
    mdata = MuData({"rna": counts})
    mdata.write_h5mu(tmp_path / "data.h5mu")
    with pytest.raises(ValueError, match=r"is of a MuData.*io.read\('data.h5mu/rna'\)"):
        io.read_lazy(tmp_path / name)
    with pytest.raises(TypeError, match=r"`adata` is a 'MuData'.*mdata\['rna'\]"):
        io.write_store(mdata, tmp_path / "cells.zarr")


def test_counts_are_no_larger_than_in_a_store_of_anndata(tmp_path: Path) -> None:
    """Packed to be read fast, and yet as small; anndata reads them as its own."""
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.poisson(0.1, (2_000, 1_000)).astype(np.float32))
    names = pd.Index([f"cell {number}" for number in range(2_000)])
    cells = AnnData(counts, obs=pd.DataFrame({"batch": ["a", "b"] * 1_000}, index=names))
    io.write_store(cells, tmp_path / "ours.zarr")
    cells.write_zarr(tmp_path / "theirs.zarr")
    ours, theirs = (
        sum(file.stat().st_size for file in (tmp_path / name / "X").rglob("*") if file.is_file())
        for name in ("ours.zarr", "theirs.zarr")
    )
    assert ours < 1.1 * theirs
    read = ad.read_zarr(tmp_path / "ours.zarr")
    np.testing.assert_array_equal(read.X.toarray(), counts.toarray())


def chunks(store: Path, part: str) -> list[Path]:
    return sorted(path for path in (store / "X" / part).rglob("*") if path.name.isdigit())


def overwritten(store: Path, part: str, value: int) -> None:
    """Write a value where the second one is, the way the library does."""
    zarr.open_group(str(store), mode="r+")[f"X/{part}"][1] = value


def flip_a_bit(file: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "values are missing": lambda store: chunks(store, "data")[0].unlink(),
    "columns are missing": lambda store: chunks(store, "indices")[0].unlink(),
    "begins of rows are missing": lambda store: chunks(store, "indptr")[0].unlink(),
    "values are no values": lambda store: chunks(store, "data")[0].write_bytes(b"x" * 5_000),
    "one bit of the values": lambda store: flip_a_bit(chunks(store, "data")[0]),
    "one bit of the columns": lambda store: flip_a_bit(chunks(store, "indices")[0]),
    "values are gone, by name": lambda store: shutil.rmtree(store / "X" / "data"),
    "a column beyond the last": lambda store: overwritten(store, "indices", 60),
    "a negative column": lambda store: overwritten(store, "indices", -1),
    "a row beyond the last value": lambda store: overwritten(store, "indptr", 10**6),
    "a description cut short": lambda store: (store / "zarr.json").write_text('{"zarr'),
    "names of cells are missing": lambda store: chunks(store, "../obs/_index")[0].unlink(),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, to be copied."""
    store = tmp_path_factory.mktemp("whole") / "cells.zarr"
    io.write_store(simulate_counts(), store)
    return store


@pytest.mark.parametrize("opening", [io.open_store, io.read_lazy])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_store_is_named(
    whole: Path, tmp_path: Path, damage: str, opening: Callable[[Path], AnnData]
) -> None:
    """An absent part would be zeros, and compiled loops would follow a wrong column."""
    store = Path(shutil.copytree(whole, tmp_path / "cells.zarr"))
    sx.SCALEXModel.setup_anndata(opening(store), batch_key="batch")
    DAMAGE[damage](store)
    with pytest.raises(ValueError, match=r"cells.zarr"):
        sx.SCALEXModel.setup_anndata(opening(store), batch_key="batch")
