"""A training that goes on from a checkpoint: the same weights, bit for bit, or a refusal."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from conftest import QUIET, simulate_counts, small_model
from lightning.pytorch.callbacks import Callback

import scalex_scvi as sx
from scalex_scvi import io
from scalex_scvi.train import PUBLISHED, QUICK, Checkpoint, StoreDataModule
from scalex_scvi.train import _store_module as store_module


class Interrupted(Exception):
    """What the tests end a training by."""


class Interrupt(Callback):
    """End a training after a number of minibatches."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise Interrupted


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
