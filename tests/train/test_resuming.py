"""A training that goes on from a checkpoint: the same weights, bit for bit, or a refusal."""

from __future__ import annotations

import logging
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from conftest import QUIET, simulate_counts, small_model, trained_model
from interrupt import Interrupt, Interrupted
from lightning.pytorch import LightningDataModule

import scalex_scvi as sx
from scalex_scvi import io
from scalex_scvi.model._files import write_checked
from scalex_scvi.train import PUBLISHED, QUICK, Checkpoint, StoreDataModule
from scalex_scvi.train import _store_module as store_module


def weights(model: sx.SCALEXModel) -> dict[str, torch.Tensor]:
    return model.module.state_dict()


def assert_same(model: sx.SCALEXModel, other: sx.SCALEXModel) -> None:
    """Weights, history and latent, bit for bit."""
    for name, value in weights(other).items():
        assert torch.equal(weights(model)[name], value), name
    assert model.history.keys() == other.history.keys()
    for name, values in other.history.items():
        np.testing.assert_array_equal(model.history[name].index, values.index)
        np.testing.assert_array_equal(
            model.history[name].to_numpy(float), values.to_numpy(float), err_msg=name
        )
    latent = other.get_latent_representation()
    np.testing.assert_array_equal(model.get_latent_representation(), latent)
    assert model.is_trained
    assert model.untrained_batches_ == other.untrained_batches_


def interrupted(adata: AnnData, path: Path, at: int, steps: int = 4, **how: Any) -> None:
    """Leave the checkpoint of a training that ended after ``at`` minibatches."""
    model = small_model(adata)
    with pytest.raises(Interrupted):
        model.train(checkpoint=Checkpoint(path, steps=steps), callbacks=[Interrupt(at)], **how)
    assert not model.is_trained


# 150 cells: 2 minibatches of 64 in an epoch, 9 of 16.
SHORT = QUIET | {"max_epochs": 4, "batch_size": 16}
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "default": (SHORT, 23),
    "in the first epoch": (SHORT, 7),
    "due at the end of an epoch": (SHORT, 10),
    "published": (SHORT | {"recipe": PUBLISHED}, 23),
    "quick": (SHORT | {"recipe": QUICK}, 23),
    "stops early": (
        SHORT | {"recipe": PUBLISHED, "lr": 0.05, "max_epochs": 40, "early_stopping_patience": 2},
        23,
    ),
    "validation": (SHORT | {"train_size": 0.8, "early_stopping": True, "max_epochs": 6}, 23),
    "accumulated gradients": (SHORT | {"accumulate_grad_batches": 2}, 9),
    "a part of each epoch": (SHORT | {"limit_train_batches": 5}, 13),
    "a cell short of two minibatches": (SHORT | {"batch_size": 75}, 5),
}


@pytest.mark.parametrize(("how", "at"), CASES.values(), ids=CASES)
def test_the_weights_are_those_of_an_uninterrupted_training(
    prepared: AnnData, tmp_path: Path, how: dict[str, Any], at: int
) -> None:
    whole = small_model(prepared)
    whole.train(**how)
    path = tmp_path / "training.ckpt"
    interrupted(prepared, path, at, **how)
    assert path.exists()
    # Other numbers were drawn since.
    torch.manual_seed(99)
    resumed = small_model(prepared)
    resumed.train(checkpoint=path, **how)
    assert_same(resumed, whole)


def test_a_query_goes_on_from_a_checkpoint_too(prepared: AnnData, tmp_path: Path) -> None:
    reference = trained_model(prepared, max_epochs=3)
    query = simulate_counts(60, n_batches=2, seed=1)
    query.obs["batch"] = [f"new{i}" for i in range(2)] * 30
    how = QUIET | {"max_epochs": 3, "batch_size": 16}
    whole, first, resumed = (sx.SCALEXModel.load_query_data(query, reference) for _ in range(3))
    whole.train(**how)
    path = tmp_path / "query.ckpt"
    with pytest.raises(Interrupted):
        first.train(checkpoint=Checkpoint(path, steps=2), callbacks=[Interrupt(5)], **how)
    resumed.train(checkpoint=path, **how)
    assert whole.untrained_batches_ == []
    assert_same(resumed, whole)


def test_a_second_training_goes_on_from_its_own_checkpoint(
    prepared: AnnData, tmp_path: Path
) -> None:
    whole, first, resumed = (trained_model(prepared, max_epochs=3) for _ in range(3))
    how = QUIET | {"max_epochs": 2, "batch_size": 16}
    whole.train(**how)
    path = tmp_path / "second.ckpt"
    with pytest.raises(Interrupted):
        first.train(checkpoint=Checkpoint(path, steps=3), callbacks=[Interrupt(7)], **how)
    resumed.train(checkpoint=path, **how)
    assert_same(resumed, whole)


needs_annbatch = pytest.mark.skipif(
    not store_module.has_annbatch(), reason="annbatch (Python 3.12 or later) is not installed"
)


@pytest.mark.parametrize("own_module", [False, pytest.param(True, marks=needs_annbatch)])
def test_a_store_goes_on_from_a_checkpoint_too(
    prepared: AnnData, tmp_path: Path, own_module: bool
) -> None:
    io.write_store(prepared, tmp_path / "cells.zarr")
    store = io.open_store(tmp_path / "cells.zarr")

    def train(model: sx.SCALEXModel, **more: Any) -> None:
        if own_module:  # of two buffers, so that the order is drawn in the middle, too
            more["datamodule"] = StoreDataModule(
                model.adata_manager, batch_size=16, cells_in_buffer=70
            )
        model.train(max_epochs=4, batch_size=16, **QUIET, **more)

    whole, first, resumed = (small_model(store) for _ in range(3))
    train(whole)
    path = tmp_path / "store.ckpt"
    with pytest.raises(Interrupted):
        train(first, checkpoint=Checkpoint(path, steps=4), callbacks=[Interrupt(23)])
    train(resumed, checkpoint=path)
    assert_same(resumed, whole)


def test_a_finished_training_is_finished_at_once(prepared: AnnData, tmp_path: Path) -> None:
    path = tmp_path / "training.ckpt"
    whole = small_model(prepared)
    whole.train(checkpoint=path, **SHORT)
    again = small_model(prepared)
    again.train(checkpoint=path, callbacks=[Interrupt(1)], **SHORT)  # which never comes
    assert_same(again, whole)
    np.testing.assert_array_equal(again.train_indices, whole.train_indices)
    assert again.offsets_removed_ and whole.offsets_removed_
    plain = small_model(prepared)
    plain.train(**SHORT)
    assert_same(whole, plain)  # checkpoints change nothing


@pytest.mark.parametrize("kind", ["uint8", "column-wise", "read-only", "csc", "dask"])
def test_cells_of_any_kind_are_compared(tmp_path: Path, kind: str) -> None:
    counts = simulate_counts(40, 20)
    dense = counts.X.toarray()
    if kind == "dask":
        da = pytest.importorskip("dask.array")
        counts.X = da.from_array(dense, chunks=(16, 20))
    elif kind == "csc":
        counts.X = counts.X.tocsc()
    else:
        counts.X = (
            dense.clip(max=255).astype("uint8") if kind == "uint8" else np.asfortranarray(dense)
        )
        counts.X.setflags(write=kind != "read-only")
    path = tmp_path / "training.ckpt"
    how = SHORT | {"max_epochs": 2}
    for is_finished in (False, True):
        sx.SCALEXModel.setup_anndata(counts, batch_key="batch")
        model = sx.SCALEXModel(counts, n_hidden=8, n_latent=2)
        model.train(checkpoint=path, callbacks=[Interrupt(1)] if is_finished else [], **how)


def test_one_minibatch_in_an_epoch_has_no_middle(prepared: AnnData, tmp_path: Path) -> None:
    path = tmp_path / "training.ckpt"
    model = small_model(prepared)
    with pytest.raises(Interrupted):
        model.train(
            checkpoint=Checkpoint(path, steps=1),
            callbacks=[Interrupt(3)],
            max_epochs=4,
            batch_size=150,
            **QUIET,
        )
    assert not path.exists()


def test_minutes(prepared: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def later() -> float:
        now[0] += 60
        return now[0]

    monkeypatch.setattr("time.monotonic", later)
    written = []
    monkeypatch.setattr(
        "lightning.pytorch.Trainer.save_checkpoint", lambda self, *a, **k: written.append(1)
    )
    model = small_model(prepared)
    model.train(checkpoint=Checkpoint(tmp_path / "t.ckpt", minutes=3), **SHORT)
    assert 4 <= len(written) <= 12  # 36 minibatches


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "seed": ({"seed": 7}, r"seed was 124, is 7"),
    "numbers": ({"lr": 0.01, "batch_size": 32}, r"batch_size was 16, is 32; lr was 0.003, is 0.01"),
    "length": ({"max_epochs": 5}, r"max_epochs was 4, is 5"),
    "recipe": ({"recipe": PUBLISHED}, r"lr_schedule was 'cosine', is 'constant'"),
    "share": ({"train_size": 0.5}, r"train_size was 1.0, is 0.5"),
    "processes": ({"devices": 2, "strategy": "ddp"}, r"n_processes was None, is 2"),
    "precision": ({"precision": "bf16-mixed"}, r"precision was None, is 'bf16-mixed'"),
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of an interrupted training."""
    path = tmp_path_factory.mktemp("kept") / "training.ckpt"
    adata = sx.pp.rna(simulate_counts(), batch_key="batch", min_features=0)
    interrupted(adata, path, 7, **SHORT)
    return path


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_other_arguments_are_refused_by_name(
    prepared: AnnData, kept: Path, change: dict[str, Any], message: str
) -> None:
    before = kept.read_bytes()
    model = small_model(prepared)
    with pytest.raises(ValueError, match=f"is of another training: .*{message}"):
        model.train(checkpoint=kept, **(SHORT | change))
    assert kept.read_bytes() == before


def _other_cells(adata: AnnData) -> AnnData:
    return adata[:-1].copy()


def _other_counts(adata: AnnData) -> AnnData:
    other = adata.copy()
    other.X.data[0] *= 0.5
    return other


def _other_batches(adata: AnnData) -> AnnData:
    other = adata.copy()
    other.obs["batch"] = other.obs["batch"].to_numpy()[::-1]
    return other


def _other_names(adata: AnnData) -> AnnData:
    other = adata.copy()
    other.obs["batch"] = other.obs["batch"].cat.rename_categories({"batch0": "first"})
    return other


DATA = {
    "cells was 150, is 149": _other_cells,
    "training: expression differ": _other_counts,
    "training: batch of each cell differ": _other_batches,
    "batches was .*'batch0'.*, is .*'first'": _other_names,
}


@pytest.mark.parametrize(("message", "change"), DATA.items(), ids=DATA)
@pytest.mark.filterwarnings("ignore")
def test_other_data_are_refused_by_name(
    prepared: AnnData, kept: Path, message: str, change: Any
) -> None:
    other = change(prepared)
    with pytest.raises(ValueError, match=message):
        small_model(other).train(checkpoint=kept, **SHORT)


def test_another_network_is_refused_by_name(prepared: AnnData, kept: Path) -> None:
    sx.SCALEXModel.setup_anndata(prepared, batch_key="batch")
    model = sx.SCALEXModel(prepared, n_hidden=16, n_latent=5)
    with pytest.raises(ValueError, match="n_hidden was 32, is 16"):
        model.train(checkpoint=kept, **SHORT)


def test_another_machine_is_said(
    prepared: AnnData,
    kept: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "training.ckpt"
    path.write_bytes(kept.read_bytes())
    n_threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads + 3)
    with caplog.at_level(logging.WARNING, "scalex_scvi"):
        small_model(prepared).train(checkpoint=path, **SHORT)
    assert re.search(rf"threads was \d+, is {n_threads + 3}", caplog.text)
    assert "as with another seed" in caplog.text


def test_resume_can_be_left(prepared: AnnData, kept: Path, tmp_path: Path) -> None:
    path = tmp_path / "training.ckpt"
    path.write_bytes(kept.read_bytes())
    model = small_model(prepared)
    model.train(checkpoint=Checkpoint(path, resume=False), **(SHORT | {"seed": 3}))
    other = small_model(prepared)
    other.train(**(SHORT | {"seed": 3}))
    assert_same(model, other)


NAN = {"a": torch.tensor([torch.nan])}
STATE = dict.fromkeys(("history", "train_indices", "validation_indices", "test_indices"))
FINISHED = {"scalex_scvi_training": 2, "training": {}, "machine": {}, "finished": True}


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


HOSTILE: dict[str, tuple[Any, str]] = {
    "a pickle": (lambda path: path.write_bytes(pickle.dumps(_Evil())), "is not a checkpoint"),
    "by torch": (lambda path: torch.save({"a": _Evil()}, path), "was not executed"),
    "text": (lambda path: path.write_text("mine"), "is not a checkpoint"),
    "a model": (lambda path: torch.save({"scalex_scvi_format": 1}, path), "is not replaced"),
    "of tomorrow": (lambda path: torch.save({"scalex_scvi_training": 3}, path), "up to format 2"),
    "of yesterday": (lambda path: torch.save({"scalex_scvi_training": 1}, path), "in format 1"),
    "damaged": (lambda path: torch.save({"scalex_scvi_training": 2, "a": 2}, path), "damaged"),
    "of nothing": (lambda path: write_checked(path, {"scalex_scvi_training": 2}), "are missing"),
    "of numbers that are none": (
        lambda path: write_checked(path, FINISHED | {"state": STATE | {"weights": NAN}}),
        "'a' are NaN",
    ),
}


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize(("make", "message"), HOSTILE.values(), ids=HOSTILE)
def test_another_file_is_neither_executed_nor_replaced(
    prepared: AnnData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Any,
    message: str,
    resume: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file.ckpt"
    make(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        small_model(prepared).train(checkpoint=Checkpoint(path, resume=resume), **SHORT)
    assert path.read_bytes() == before
    assert not Path("executed").exists()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "validation within": ({"val_check_interval": 2}, "val_check_interval"),
    "own data module": ({"datamodule": LightningDataModule()}, "whose order of cells"),
}


@pytest.mark.parametrize(("how", "message"), REFUSED.values(), ids=REFUSED)
def test_what_could_not_be_exact_is_refused(
    prepared: AnnData, tmp_path: Path, how: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small_model(prepared).train(checkpoint=tmp_path / "t.ckpt", **(SHORT | how))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"path": "training"}, "ends in '.ckpt'"),
        ({"path": "t.ckpt", "minutes": 0}, "minutes"),
        ({"path": "t.ckpt", "steps": 0}, "steps"),
    ],
)
def test_places_and_intervals(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Checkpoint(**given)


def test_the_folder_must_exist(prepared: AnnData, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="'.*nowhere'"):
        small_model(prepared).train(checkpoint=tmp_path / "nowhere" / "t.ckpt", **SHORT)


def test_a_full_disk_does_not_end_the_training(
    prepared: AnnData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("scalex_scvi.model._checkpoint.write_checked", full)
    model = small_model(prepared)
    model.train(checkpoint=Checkpoint(tmp_path / "t.ckpt", steps=4), **SHORT)
    assert model.is_trained
    assert caplog.text.count("the training goes on") == 1
    assert list(tmp_path.iterdir()) == []
