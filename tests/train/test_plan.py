"""The faster ways to train against the plain one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anndata import AnnData
from conftest import QUIET, small_model, trained_model
from lightning.pytorch import Callback, Trainer

import scalex_scvi as sx
from scalex_scvi.train import PUBLISHED, QUICK, Recipe


def losses(model: sx.SCALEXModel) -> np.ndarray:
    return model.history["train_loss"]["train_loss"].to_numpy(dtype=float)


def test_bfloat16_trains_to_nearly_the_same_loss(prepared: AnnData) -> None:
    plain = trained_model(prepared.copy(), max_epochs=10)
    half = trained_model(prepared.copy(), max_epochs=10, precision="bf16-mixed")
    np.testing.assert_allclose(losses(half), losses(plain), rtol=5e-3)
    assert not np.array_equal(losses(half), losses(plain))
    assert {p.dtype for p in half.module.parameters()} == {torch.float32}


def test_compiled_training_is_the_plain_one(prepared: AnnData) -> None:
    """With a compiler's front end only: the back end needs a C++ compiler."""
    plain = trained_model(prepared.copy(), max_epochs=3)
    compiled = trained_model(
        prepared.copy(),
        max_epochs=3,
        plan_kwargs={"compile": True, "compile_kwargs": {"backend": "aot_eager"}},
    )
    np.testing.assert_allclose(losses(compiled), losses(plain), rtol=1e-5)
    np.testing.assert_allclose(
        compiled.get_latent_representation(), plain.get_latent_representation(), atol=1e-2
    )


def test_the_cosine_schedule_rises_falls_and_runs_to_its_end(prepared: AnnData) -> None:
    rates = []

    class Watch(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, *args: object) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    model = small_model(prepared)
    model.train(
        max_epochs=40,
        batch_size=64,
        lr=4e-3,
        lr_schedule="cosine",
        early_stopping_patience=1,  # of no effect: the length is fixed
        callbacks=[Watch()],
        **QUIET,
    )
    assert len(model.history["train_loss"]) == 40
    top = int(np.argmax(rates))
    assert 0.03 * len(rates) < top < 0.08 * len(rates)
    assert rates[0] < 0.5 * max(rates) <= 4e-3
    assert (np.diff(rates[top:]) < 0).all()
    assert rates[-1] < 1e-4


def test_an_unknown_schedule_is_refused(prepared: AnnData) -> None:
    with pytest.raises(ValueError, match="'linear'"):
        small_model(prepared).train(max_epochs=1, lr_schedule="linear", **QUIET)


@pytest.mark.parametrize(
    ("recipe", "max_steps", "batch_size", "lr", "schedule"),
    [(PUBLISHED, 30_000, 64, 2e-4, "constant"), (QUICK, 1_000, 128, 3e-3, "cosine")],
    ids=["published", "quick"],
)
def test_other_recipes_are_an_argument_away(
    prepared: AnnData,
    recipe: Recipe,
    max_steps: int,
    batch_size: int,
    lr: float,
    schedule: str,
) -> None:
    model = small_model(prepared)
    model.train(recipe=recipe, max_steps=4, **QUIET)
    plan = model.trainer.lightning_module
    assert (plan.lr, plan.lr_schedule) == (lr, schedule)
    assert (recipe["max_steps"], recipe["batch_size"]) == (max_steps, batch_size)
    assert plan.loss_kwargs["alignment_weight"] == (0 if recipe is PUBLISHED else 1)
