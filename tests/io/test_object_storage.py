"""Cells in object storage: moto's server stands for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata import AnnData
from conftest import QUIET, simulate_counts, small_model, trained_model

import scalex_scvi as sx
from scalex_scvi import io

pytest.importorskip("dask")
fsspec = pytest.importorskip("fsspec")

OPTIONS = {"batch_key": "batch", "min_features": 0, "n_top_features": 30}
Upload = Callable[[Path], str]


@pytest.fixture
def store(counts: AnnData, tmp_path: Path) -> Path:
    """Counts as anndata writes them, with a layer and what is not the matrix."""
    counts.obsm["spatial"] = np.arange(300.0).reshape(150, 2)
    counts.layers["twice"] = counts.X * 2
    counts.write_zarr(tmp_path / "counts.zarr")
    return tmp_path / "counts.zarr"


@pytest.mark.parametrize("layer", [None, "twice"])
def test_an_address_is_opened_as_a_path_is(
    counts: AnnData, store: Path, upload: Upload, layer: str | None
) -> None:
    found = io.read_lazy(upload(store), layer=layer, cells_in_block=40)
    expected = io.read_lazy(store, layer=layer, cells_in_block=40)
    assert found.X.chunks == expected.X.chunks
    np.testing.assert_array_equal(found.X.compute().toarray(), expected.X.compute().toarray())
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    pd.testing.assert_frame_equal(found.var, expected.var)
    np.testing.assert_array_equal(found.obsm["spatial"], expected.obsm["spatial"])


def test_an_open_group_has_its_own_options(
    counts: AnnData,
    store: Path,
    upload: Upload,
    storage_access: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = upload(store)
    monkeypatch.delitem(fsspec.config.conf, "s3")
    group = zarr.open_group(address, mode="r", storage_options=storage_access)
    prepared = sx.pp.rna(io.read_lazy(group, cells_in_block=40), **OPTIONS)
    expected = sx.pp.rna(counts, **OPTIONS)
    np.testing.assert_array_equal(prepared.X.compute().toarray(), expected.X.toarray())
    pd.testing.assert_frame_equal(prepared.var, expected.var)


def test_projection(counts: AnnData, store: Path, upload: Upload, tmp_path: Path) -> None:
    model = trained_model(sx.pp.rna(counts, **OPTIONS), max_epochs=2)
    address, out = upload(store), tmp_path / "latent.h5ad"
    model.project_store(store, out, cells_in_block=40)
    expected = ad.read_h5ad(out).obsm["latent"]
    model.project_store(address, out, cells_in_block=40)
    np.testing.assert_array_equal(ad.read_h5ad(out).obsm["latent"], expected)


def test_training(prepared: AnnData, upload: Upload, tmp_path: Path) -> None:
    """From a store of our own, by its address, with the weights of the local one."""
    io.write_store(prepared, tmp_path / "prepared.zarr")
    address = upload(tmp_path / "prepared.zarr")
    models = []
    for place in (address, tmp_path / "prepared.zarr"):
        cells = io.open_store(place)
        models.append(small_model(cells))
        models[-1].train(max_epochs=2, **QUIET)
    found, expected = (model.get_latent_representation() for model in models)
    np.testing.assert_array_equal(found, expected)


def test_what_is_not_there(counts: AnnData, upload: Upload, tmp_path: Path) -> None:
    absent = "s3://bucket/absent.zarr"
    for opened in (io.read_lazy, io.open_store):
        with pytest.raises(FileNotFoundError, match=f"There is no zarr store at {absent!r}"):
            opened(absent)
    zarr.open_group(str(tmp_path / "other.zarr"), mode="w").create_group("x")
    address = upload(tmp_path / "other.zarr")
    with pytest.raises(ValueError, match=f"{address!r} is no AnnData: it has no obs and var"):
        io.read_lazy(address)
    with pytest.raises(ValueError, match=r"is an address.*read_lazy"):
        io.read(address)


def test_an_open_group_is_not_written_into(
    counts: AnnData, store: Path, tmp_path: Path, model: sx.SCALEXModel
) -> None:
    """Nor is the store that it is a part of."""
    root = zarr.open_group(str(store), mode="r")
    for out in (store, store / "latent.zarr"):
        with pytest.raises(ValueError, match="is what `adata` is read from"):
            model.project_store(root, out)
        with pytest.raises(ValueError, match="is what `adata` is read from"):
            io.write_store(io.read_lazy(root), out, overwrite=True)


def test_results_are_files(counts: AnnData, model: sx.SCALEXModel, store: Path) -> None:
    address = "s3://bucket/x.zarr"
    with pytest.raises(ValueError, match=r"'s3://bucket/x.zarr' is an address.*upload"):
        io.write_store(counts, address)
    with pytest.raises(ValueError, match=r"'s3://bucket/x.zarr' is an address.*upload"):
        model.project_store(store, address)


def test_a_store_needs_few_requests(upload: Upload, tmp_path: Path) -> None:
    """What :func:`write_store` writes says in one place what it consists of."""
    io.write_store(simulate_counts(), tmp_path / "cells.zarr")
    group = zarr.open_group(upload(tmp_path / "cells.zarr"), mode="r")
    assert group.metadata.consolidated_metadata is not None
