"""Minibatches: every cell once, its own values, in the order that the seed gives."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from anndata import AnnData
from conftest import QUIET, small_model
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.dataloaders import AnnDataLoader

import scalex_scvi as sx
from scalex_scvi.train import SCALEXDataSplitter, _loader, share_of_nonzero


def stored_as(adata: AnnData, form: str, folder: Path) -> AnnData:
    if form == "backed":
        adata.write_h5ad(folder / "cells.h5ad")
        return ad.read_h5ad(folder / "cells.h5ad", backed="r")
    convert = {
        "csr": sparse.csr_matrix,
        "csc": sparse.csc_matrix,
        "dense": sparse.csr_matrix.toarray,
    }
    adata.X = convert[form](adata.X)
    return adata


def minibatches(model: sx.SCALEXModel, seed: int, **kwargs: object) -> list[dict]:
    """One epoch of training minibatches."""
    splitter = SCALEXDataSplitter(
        model.adata_manager, train_size=1.0, shuffle_set_split=False, batch_size=16, **kwargs
    )
    splitter.setup()
    torch.manual_seed(seed)
    return list(splitter.train_dataloader())


@pytest.fixture
def numbered(prepared: AnnData) -> AnnData:
    """Cells that can be told apart by their first gene."""
    values = prepared.X.toarray()
    values[:, 0] = np.linspace(0.001, 1, len(values))
    prepared.X = sparse.csr_matrix(values)
    return prepared


@pytest.mark.parametrize("form", ["csr", "csc", "dense", "backed"])
def test_every_cell_once_with_its_own_values_and_batch(
    numbered: AnnData, form: str, tmp_path: Path
) -> None:
    expected, first = numbered.X.toarray(), numbered.X.toarray()[:, 0]
    codes = numbered.obs["batch"].cat.codes.to_numpy()
    model = small_model(stored_as(numbered, form, tmp_path))
    loaded = minibatches(model, seed=0)
    x = np.concatenate([batch[REGISTRY_KEYS.X_KEY] for batch in loaded])
    domain = np.concatenate([batch[REGISTRY_KEYS.BATCH_KEY] for batch in loaded])
    cells = np.searchsorted(first, x[:, 0])
    assert len(loaded) == 10  # 150 cells by 16
    assert sorted(cells) == list(range(150))
    assert not np.array_equal(cells, np.arange(150))
    assert np.array_equal(x, expected[cells])
    assert np.array_equal(domain[:, 0], codes[cells])


@pytest.mark.parametrize("form", ["csc", "dense", "backed"])
def test_the_order_follows_the_seed_whatever_the_form(
    numbered: AnnData, form: str, tmp_path: Path
) -> None:
    x = [b[REGISTRY_KEYS.X_KEY] for b in minibatches(small_model(numbered.copy()), seed=3)]
    other = small_model(stored_as(numbered.copy(), form, tmp_path))
    again = [b[REGISTRY_KEYS.X_KEY] for b in minibatches(other, seed=3)]
    differently = [b[REGISTRY_KEYS.X_KEY] for b in minibatches(other, seed=4)]
    assert all(np.array_equal(one, two) for one, two in zip(x, again, strict=True))
    assert not all(np.array_equal(one, two) for one, two in zip(x, differently, strict=True))


def test_incomplete_minibatch_is_dropped_on_request(numbered: AnnData) -> None:
    loaded = minibatches(small_model(numbered), seed=0, drop_last=True)
    assert [len(batch[REGISTRY_KEYS.X_KEY]) for batch in loaded] == [16] * 9


@pytest.mark.parametrize("form", ["csr", "backed"])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_minibatches_taken_at_once_are_those_of_scvi_tools(
    numbered: AnnData,
    form: str,
    drop_last: bool,
    at_once: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_loader, "BLOCK_BYTES", at_once * 4 * 16 * 60)
    model = small_model(stored_as(numbered, form, tmp_path))
    ours = minibatches(model, seed=0, drop_last=drop_last)
    drawn = torch.rand(1)
    monkeypatch.setattr(SCALEXDataSplitter, "data_loader_cls", AnnDataLoader)
    theirs = minibatches(model, seed=0, drop_last=drop_last)
    assert torch.equal(drawn, torch.rand(1))
    assert len(ours) == (9 if drop_last else 10)
    for one, two in zip(ours, theirs, strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(("drop_last", "n_minibatches"), [(True, 9), (False, 10)])
def test_the_loader_knows_how_many_minibatches_it_has(
    numbered: AnnData, drop_last: bool, n_minibatches: int
) -> None:
    splitter = SCALEXDataSplitter(
        small_model(numbered).adata_manager, train_size=1.0, batch_size=16, drop_last=drop_last
    )
    splitter.setup()
    assert len(splitter.train_dataloader()) == n_minibatches


def test_one_cell_in_its_minibatch(numbered: AnnData, tmp_path: Path) -> None:
    dataset = small_model(stored_as(numbered, "backed", tmp_path)).adata_manager
    assert dataset.create_torch_dataset()[5][REGISTRY_KEYS.X_KEY].shape == (1, 60)


ROWS = {
    "slice": slice(3, 40, 7),
    "from the end": slice(-5, None),
    "backwards": slice(20, 10, -3),
    "past the end": slice(140, 400),
    "numbers": [7, 2, 2, -1],
    "unsigned": np.array([9, 4], dtype=np.uint8),
    "negative number": -150,
    "mask": np.arange(150) % 40 == 0,
    "tensor": torch.tensor([5, 3]),
    "none": np.array([], dtype=np.int64),
}


@pytest.mark.parametrize("form", ["csr", "backed"])
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
def test_cells_are_taken_as_numpy_takes_rows(
    numbered: AnnData, form: str, rows: object, tmp_path: Path
) -> None:
    expected = np.atleast_2d(numbered.X.toarray()[rows])
    dataset = small_model(stored_as(numbered, form, tmp_path)).adata_manager.create_torch_dataset()
    np.testing.assert_array_equal(dataset[rows][REGISTRY_KEYS.X_KEY], expected)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (150, "no cell 150"),
        ([0, -151], "no cell -151"),
        ([0.0, 1.0], "array of float64"),
        ([[0, 1]], r"shape \(1, 2\)"),
        (np.ones(149, dtype=bool), "a mask of all 150: got an array of bool"),
    ],
)
def test_cells_that_are_not_there(numbered: AnnData, rows: object, message: str) -> None:
    dataset = small_model(numbered).adata_manager.create_torch_dataset()
    with pytest.raises(IndexError, match=message):
        dataset[rows]


@pytest.mark.parametrize("form", ["csr", "csc", "dense", "backed"])
def test_share_of_nonzero(numbered: AnnData, form: str, tmp_path: Path) -> None:
    values = np.zeros(numbered.shape, dtype=np.float32)
    values[:, :15] = 0.5
    numbered.X = sparse.csr_matrix(values)
    manager = small_model(stored_as(numbered, form, tmp_path)).adata_manager
    assert share_of_nonzero(manager) == 0.25


def test_share_of_nonzero_looks_at_cells_from_one_end_to_the_other(numbered: AnnData) -> None:
    values = np.ones(numbered.shape, dtype=np.float32)
    values[75:] = 0
    numbered.X = sparse.csr_matrix(values)
    assert share_of_nonzero(small_model(numbered).adata_manager) == 0.5


def test_training_on_some_cells_leaves_the_others_out(numbered: AnnData) -> None:
    model = small_model(numbered)
    model.train(max_epochs=1, train_size=0.8, **QUIET)
    assert len(model.train_indices) == 120
    assert len(model.validation_indices) == 30
    assert not set(model.train_indices) & set(model.validation_indices)
