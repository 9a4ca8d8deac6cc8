"""Training from a store on disk."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from anndata import AnnData
from conftest import QUIET, simulate_counts, small_model, trained_model

import scalex_scvi as sx
from scalex_scvi import io
from scalex_scvi.train import StoreDataModule
from scalex_scvi.train import _store_module as store_module

needs_annbatch = pytest.mark.skipif(
    not store_module.has_annbatch(), reason="annbatch (Python 3.12 or later) is not installed"
)


@pytest.fixture
def store(prepared: AnnData, tmp_path: Path) -> AnnData:
    io.write_store(prepared, tmp_path / "cells.zarr")
    return io.open_store(tmp_path / "cells.zarr")


def test_a_model_of_a_store_is_the_model_of_its_cells(
    store: AnnData, prepared: AnnData, tmp_path: Path
) -> None:
    model = trained_model(store)
    latent = model.get_latent_representation()
    assert latent.shape == (150, 5)
    np.testing.assert_allclose(model.get_latent_representation(prepared), latent, atol=1e-5)
    loss = model.history["train_loss"].to_numpy().ravel().astype(float)
    in_memory = trained_model(prepared).history["train_loss"].to_numpy().ravel().astype(float)
    assert loss[-1] < 0.95 * loss[0]
    np.testing.assert_allclose(loss[-1], in_memory[-1], rtol=0.03)
    model.save(str(tmp_path / "model"))
    loaded = sx.SCALEXModel.load(str(tmp_path / "model"), adata=store)
    np.testing.assert_array_equal(loaded.get_latent_representation(), latent)
    # The record came along, so that raw counts can be projected.
    query = simulate_counts(seed=1)
    assert sx.SCALEXModel.load_query_data(query, loaded).get_latent_representation().shape[0] == 150


def test_same_seed_same_weights(store: AnnData) -> None:
    first, second = (trained_model(store, max_epochs=3, seed=1) for _ in range(2))
    for one, other in zip(
        first.module.state_dict().values(), second.module.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)
    third = trained_model(store, max_epochs=3, seed=2).module.state_dict()
    assert not all(torch.equal(a, third[k]) for k, a in first.module.state_dict().items())


def test_no_hint_of_lightning_is_shown(store: AnnData) -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        trained_model(store, max_epochs=1)
    shown = [str(warning.message) for warning in warned]
    assert not [text for text in shown if "dataloader" in text]


@needs_annbatch
@pytest.mark.parametrize("batch_size", [64, 150, 50, 7])
@pytest.mark.parametrize("cells_in_buffer", [8192, 70])
def test_every_cell_once_in_an_epoch_with_its_own_batch(
    store: AnnData, prepared: AnnData, batch_size: int, cells_in_buffer: int
) -> None:
    manager = small_model(store).adata_manager
    module = StoreDataModule(manager, batch_size=batch_size, cells_in_buffer=cells_in_buffer)
    loader = module.train_dataloader()
    dense = prepared.X.toarray()
    row_of = {row.tobytes(): i for i, row in enumerate(dense)}
    codes = prepared.obs["batch"].cat.codes.to_numpy()
    orders = []
    for _ in range(2):
        seen: list[int] = []
        for tensors in loader:
            assert tensors["X"].shape == (batch_size, dense.shape[1])
            rows = [row_of[x.tobytes()] for x in tensors["X"].numpy()]
            np.testing.assert_array_equal(tensors["batch"].numpy().ravel(), codes[rows])
            seen += rows
        assert len(seen) == len(set(seen)) == len(loader) * batch_size
        assert len(loader) == 150 // batch_size
        orders.append(seen)
    assert orders[0] != orders[1]


@needs_annbatch
def test_the_buffer_bounds_what_is_held(store: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    from annbatch import Loader

    held = []
    original = Loader._index_datasets

    def recorded(self: Loader, rows: dict[int, np.ndarray]) -> object:
        held.append(sum(len(r) for r in rows.values()))
        return original(self, rows)

    monkeypatch.setattr(Loader, "_index_datasets", recorded)
    manager = small_model(store).adata_manager
    list(StoreDataModule(manager, batch_size=16, cells_in_buffer=64).train_dataloader())
    assert max(held) == 64
    assert sum(held) == 150


@needs_annbatch
def test_what_a_store_is_not_trained_with(store: AnnData, prepared: AnnData) -> None:
    model = small_model(store)
    with pytest.raises(ValueError, match=r"`train_size` must be 1, got 0\.9"):
        model.train(max_epochs=1, train_size=0.9, **QUIET)
    with pytest.raises(TypeError, match="open_store"):
        StoreDataModule(small_model(prepared).adata_manager)


def test_without_annbatch_cells_are_read_one_by_one(
    store: AnnData,
    prepared: AnnData,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(store_module, "has_annbatch", lambda: False)
    with pytest.raises(ImportError, match=r"Python 3\.12.*scalex-scvi\[scale\]"):
        StoreDataModule(small_model(store).adata_manager)
    with caplog.at_level(logging.WARNING):
        latent = trained_model(store, max_epochs=2).get_latent_representation()
    assert "read from the store one by one" in caplog.text
    expected = trained_model(prepared, max_epochs=2).get_latent_representation()
    np.testing.assert_allclose(latent, expected, atol=1e-5)
