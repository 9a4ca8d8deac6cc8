"""The traps of training a BatchNorm model by scvi-tools, one test each; and the recipe."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from conftest import QUIET, share_between_batches, small_model, trained_model
from lightning.pytorch.callbacks import Callback

import scalex_scvi as sx
from scalex_scvi.train import BestTrainingLoss, SCALEXTrainingPlan


def running_mean(model: sx.SCALEXModel) -> torch.Tensor:
    return model.module.encoder.layers[0].norm.running_mean.clone()


CONSTANT = {"lr": 0.05, "lr_schedule": "constant", "batch_size": 64}


def test_statistics_move_in_a_second_training(model: sx.SCALEXModel) -> None:
    assert not model.module.training
    before = running_mean(model), model.module.decoder.norm.running_mean.clone()
    model.train(max_epochs=2, lr=2e-3, **QUIET)
    assert not torch.equal(running_mean(model), before[0])
    assert not torch.equal(model.module.decoder.norm.running_mean, before[1])
    assert len(model.history["train_loss"]) == 17


def test_one_cell_cannot_be_trained_on(counts: AnnData) -> None:
    one = counts[:1].copy()
    sx.SCALEXModel.setup_anndata(one)
    model = sx.SCALEXModel(one, n_hidden=8, n_latent=2)
    with pytest.raises(ValueError, match="1 cells cannot be trained on: .* needs 2 or more"):
        model.train(max_steps=1, **QUIET)
    assert not model.is_trained


def test_statistics_move_after_loading(model: sx.SCALEXModel, tmp_path: object) -> None:
    model.save(tmp_path / "m", save_anndata=True)
    loaded = sx.SCALEXModel.load(tmp_path / "m", accelerator="cpu")
    before = running_mean(loaded)
    loaded.train(max_epochs=1, lr=2e-3, **QUIET)
    assert not torch.equal(running_mean(loaded), before)


def test_module_is_in_train_mode_while_validation_runs_too(prepared: AnnData) -> None:
    model = trained_model(prepared, max_epochs=3, train_size=0.8, check_val_every_n_epoch=1)
    assert not torch.equal(running_mean(model), torch.zeros(32))


def optimizer_of(model: sx.SCALEXModel, **kwargs: object) -> torch.optim.Optimizer:
    plan = SCALEXTrainingPlan(model.module, **kwargs)
    return plan.configure_optimizers()["optimizer"]


def test_published_optimizer_and_constant_kl_weight(prepared: AnnData) -> None:
    model = small_model(prepared)
    defaults = optimizer_of(model).defaults
    assert (defaults["lr"], defaults["eps"], defaults["weight_decay"]) == (2e-4, 1e-8, 5e-4)
    assert defaults["betas"] == (0.9, 0.999)
    plan = SCALEXTrainingPlan(model.module)
    assert float(plan.kl_weight) == 0.5


def test_every_number_is_an_argument(prepared: AnnData) -> None:
    model = small_model(prepared)
    defaults = optimizer_of(model, lr=1e-2, eps=1e-3, weight_decay=0.0).defaults
    assert (defaults["lr"], defaults["eps"], defaults["weight_decay"]) == (1e-2, 1e-3, 0)
    assert float(SCALEXTrainingPlan(model.module, kl_weight=2.0).kl_weight) == 2
    adamw = optimizer_of(model, optimizer="AdamW")
    assert isinstance(adamw, torch.optim.AdamW)


@pytest.mark.parametrize(
    ("name", "hint"), [("learning_rate", "Allowed"), ("weight_decy", "mean 'weight_decay'")]
)
def test_unknown_plan_arguments_are_refused(prepared: AnnData, name: str, hint: str) -> None:
    with pytest.raises(TypeError, match=f"Unknown training plan argument '{name}'.*{hint}"):
        small_model(prepared).train(max_epochs=1, plan_kwargs={name: 1}, **QUIET)


def test_max_steps_are_rounded_up_to_epochs(prepared: AnnData) -> None:
    model = small_model(prepared)
    model.train(max_steps=5, batch_size=64, **QUIET)  # 150 cells: 2 minibatches an epoch
    assert len(model.history["train_loss"]) == 3
    assert model.trainer.global_step == 6


@pytest.mark.parametrize(
    ("share", "steps"),
    [(0.0, 3_000), (0.03, 3_000), (0.05, 2_000), (0.08, 1_250), (0.1, 1_000), (0.9, 1_000)],
)
def test_default_length_falls_with_the_share_of_nonzero_values(share: float, steps: int) -> None:
    assert sx.train.default_steps(share) == steps
    assert sx.train.default_steps(share, nonlinear=True) == 3_000


def test_length_goes_by_the_data_if_none_is_given(
    prepared: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []

    def few(share: float, *, nonlinear: bool) -> int:
        shares.append(share)
        return 7 if nonlinear else 5

    monkeypatch.setattr("scalex_scvi.model._training.default_steps", few)
    for n_residual, steps in ((0, 5), (16, 7)):
        model = small_model(prepared, n_residual=n_residual)
        model.train(**QUIET)
        assert model.trainer.global_step == steps  # one minibatch an epoch
    share = prepared.X.nnz / prepared.X.shape[0] / prepared.n_vars
    assert shares == pytest.approx([share, share], abs=0.05)


def test_a_query_is_trained_by_its_sparsity_alone(
    prepared: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its training fits the normalization of new batches, not the nonlinear part."""
    model = small_model(prepared, n_residual=16)
    model.train(max_steps=2, **QUIET)
    query = prepared.copy()
    query.obs["batch"] = "new"
    placed = sx.SCALEXModel.load_query_data(query, model)
    seen: list[bool] = []

    def few(share: float, *, nonlinear: bool) -> int:
        seen.append(nonlinear)
        return 2

    monkeypatch.setattr("scalex_scvi.model._training.default_steps", few)
    placed.train(**QUIET)
    assert seen == [False]


def test_aligned_batches_share_the_mean_of_their_latents(prepared: AnnData) -> None:
    shares = {}
    for weight in (0, 1):
        how = {"alignment_weight": weight, "remove_offsets": False}
        model = trained_model(prepared.copy(), max_epochs=60, lr=2e-3, **how)
        latent = model.get_latent_representation()
        shares[weight] = share_between_batches(latent, prepared.obs["batch"])
    assert shares[1] < 0.5 * shares[0]


@pytest.mark.parametrize(("weight", "least"), [(0, 0.95), (1, 0.85)])
def test_types_that_one_batch_lacks_stay_apart_from_the_others(
    counts: AnnData, weight: float, least: float
) -> None:
    """The alignment blurs them a little: what it costs on real cells: docs/decisions.md."""
    lacks = (counts.obs["batch"] == "batch0") & (counts.obs["celltype"] == "type0")
    lacks |= (counts.obs["batch"] == "batch1") & (counts.obs["celltype"] == "type1")
    prepared = sx.pp.rna(counts[~lacks].copy(), batch_key="batch", min_features=0)
    model = trained_model(prepared, max_epochs=200, lr=2e-3, alignment_weight=weight)
    purity = sx.metrics.knn_purity(
        model.get_latent_representation(), prepared.obs["celltype"], n_neighbors=15
    )
    assert purity > least


def test_stops_by_the_training_loss_and_restores_the_best_weights(prepared: AnnData) -> None:
    model = small_model(prepared)
    seen: dict[float, torch.Tensor] = {}

    class Recorder(BestTrainingLoss):
        def on_train_epoch_end(self, trainer: object, plan: object) -> None:
            loss = float(trainer.callback_metrics["train_loss"])
            seen[loss] = plan.module.encoder.mean_head.weight.detach().clone()

    recorder = Recorder(patience=None)
    # So large a learning rate makes the loss bounce.
    how = CONSTANT | {"early_stopping_patience": 3, "remove_offsets": False}
    model.train(max_epochs=200, **how, callbacks=[recorder], **QUIET)
    losses = model.history["train_loss"]["train_loss"].to_numpy(dtype=float)
    assert len(losses) < 200
    assert losses[-4:].argmin() == 0
    best = min(seen)
    assert best == pytest.approx(losses.min())
    assert torch.equal(model.module.encoder.mean_head.weight, seen[best])


def test_best_weights_are_restored_without_early_stopping_too(prepared: AnnData) -> None:
    model = small_model(prepared)
    how = CONSTANT | {"early_stopping": False}
    model.train(max_epochs=40, **how, **QUIET)
    losses = model.history["train_loss"]["train_loss"].to_numpy(dtype=float)
    assert len(losses) == 40
    assert losses.argmin() < 39  # so that restoring means something
    again = small_model(prepared.copy())
    again.train(max_epochs=int(losses.argmin()) + 1, **how, **QUIET)
    assert np.array_equal(model.get_latent_representation(), again.get_latent_representation())


def test_divergence_is_reported(prepared: AnnData) -> None:
    model = small_model(prepared)
    model.module.encoder.mean_head.weight.data.fill_(torch.nan)
    with pytest.raises(RuntimeError, match=r"training loss is nan in epoch 0.*Lower `lr`"):
        model.train(max_epochs=2, **QUIET)


def test_weights_move_with_every_batch_present_or_not(prepared: AnnData) -> None:
    """A batch that most minibatches lack is trained all the same."""
    prepared.obs["batch"] = ["rare"] * 4 + ["common"] * 146
    model = trained_model(prepared, max_epochs=20)
    norm = model.module.decoder.norm
    assert torch.isfinite(norm.weight).all()
    assert not torch.equal(norm.running_mean[model.batch_names.index("rare")], torch.zeros(60))


def test_workers_do_not_change_the_latent(prepared: AnnData) -> None:
    latents = [
        trained_model(
            prepared.copy(), max_epochs=2, datasplitter_kwargs={"num_workers": n}
        ).get_latent_representation()
        for n in (0, 2)
    ]
    assert np.array_equal(*latents)


class Says(Callback):
    """Says what Lightning says on machines with more cores, and what a user must know."""

    def on_fit_start(self, *args: Any) -> None:
        warnings.warn(
            "The 'train_dataloader' does not have many workers which may be", stacklevel=1
        )
        warnings.warn("something is wrong", stacklevel=1)
        logging.getLogger("lightning.pytorch.utilities.rank_zero").warning("a warning")


@pytest.mark.parametrize(
    ("level", "heard"),
    [(logging.INFO, {"a warning"}), (logging.ERROR, set()), (logging.DEBUG, {"a warning", "GPU"})],
)
def test_hints_of_lightning_are_left_out_and_warnings_are_not(
    prepared: AnnData, level: int, heard: set[str]
) -> None:
    logger, said = logging.getLogger("lightning.pytorch"), []
    handler, before = logging.Handler(), logger.level
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            filters = list(warnings.filters)
            model = trained_model(prepared, max_epochs=1, callbacks=[Says()])
            model.train(max_epochs=1, **QUIET)  # from eval mode
            assert warnings.filters == filters
        assert logger.level == level
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    assert {message.split(" available")[0] for message in said} & {"a warning", "GPU"} == heard
    if level > logging.DEBUG:
        assert set(said) == heard
    shown = [str(warning.message) for warning in warned]
    assert "something is wrong" in shown
    assert not [text for text in shown if "workers" in text or "eval mode" in text]
