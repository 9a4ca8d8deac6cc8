"""The faster ways to train against the plain one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from conftest import QUIET, real_data, small_model, trained_model
from lightning.pytorch import Callback, Trainer
from scipy import sparse

import scalex_scvi as sx
from scalex_scvi.nn import sparse_linear
from scalex_scvi.nn._sparse_linear import store_by_input
from scalex_scvi.train import PUBLISHED, QUICK
from scalex_scvi.train._adam import Adam, AdamW


@pytest.fixture
def mostly_zeros(prepared: AnnData) -> AnnData:
    """Cells with a tenth of their genes."""
    keep = np.random.default_rng(0).random(prepared.shape) < 0.1
    prepared.X = sparse.csr_matrix(prepared.X.toarray() * keep)
    return prepared


def losses(model: sx.SCALEXModel) -> np.ndarray:
    return model.history["train_loss"]["train_loss"].to_numpy(dtype=float)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_leaving_out_zeros_trains_the_same_model(
    mostly_zeros: AnnData, n_layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counted(x: torch.Tensor, *args: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return sparse_linear(x, *args)

    monkeypatch.setattr("scalex_scvi.module._scalexvae.sparse_linear", counted)
    models = []
    for skip in (False, True):
        adata = mostly_zeros.copy()
        sx.SCALEXModel.setup_anndata(adata, batch_key="batch")
        model = sx.SCALEXModel(adata, n_hidden=32, n_latent=5, n_layers=n_layers)
        model.train(max_epochs=5, lr=2e-3, plan_kwargs={"skip_zeros": skip}, **QUIET)
        assert model.trainer.lightning_module.skip_zeros is skip
        models.append(model)
    np.testing.assert_allclose(losses(models[1]), losses(models[0]), rtol=1e-4)
    # Not the weights: Adam divides by the size of the gradient, and makes as much of the rounding
    # of those that are zero (the bias before a batch norm) as of any.
    assert len(calls) == 5 * 2  # minibatches of the second training, none of the first


@pytest.mark.parametrize(
    ("share", "skip"), [(0.05, True), (0.5, False)], ids=["mostly_zeros", "half_zeros"]
)
@pytest.mark.parametrize("form", [sparse.csr_matrix, np.asarray], ids=["csr", "dense"])
def test_training_decides_by_the_data_not_by_its_form(
    prepared: AnnData, share: float, skip: bool, form: object
) -> None:
    values = np.random.default_rng(0).random(prepared.shape, dtype=np.float32)
    prepared.X = form(values * (np.random.default_rng(1).random(prepared.shape) < share))
    model = trained_model(prepared, max_epochs=1)
    assert model.trainer.lightning_module.skip_zeros == skip


def test_weights_are_stored_as_ever_after_training(mostly_zeros: AnnData) -> None:
    model = trained_model(mostly_zeros, max_epochs=1)
    assert model.trainer.lightning_module.skip_zeros
    assert all(parameter.is_contiguous() for parameter in model.module.parameters())


def test_leaving_out_zeros_repeats_bit_for_bit(mostly_zeros: AnnData) -> None:
    latents = [
        trained_model(mostly_zeros.copy(), max_epochs=3).get_latent_representation()
        for _ in range(2)
    ]
    assert np.array_equal(*latents)


def test_a_query_keeps_its_reference_when_zeros_are_left_out(mostly_zeros: AnnData) -> None:
    model = trained_model(mostly_zeros, max_epochs=2)
    query = mostly_zeros.copy()
    query.obs["batch"] = "new"
    query_model = sx.SCALEXModel.load_query_data(query, model, processed=True)
    before = query_model.get_latent_representation()
    query_model.train(max_epochs=2, lr=2e-3, **QUIET)
    assert query_model.trainer.lightning_module.skip_zeros
    assert np.array_equal(query_model.get_latent_representation(), before)


@pytest.mark.parametrize(
    ("ours", "reference"), [(Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)]
)
def test_a_matrix_stored_by_column_is_updated_as_any(ours: type, reference: type) -> None:
    results = []
    for optimizer_class, store in ((ours, store_by_input), (reference, torch.clone)):
        generator = torch.Generator().manual_seed(0)
        weight = store(torch.randn(5, 7, generator=generator)).requires_grad_()
        bias = torch.zeros(5, requires_grad=True)
        optimizer = optimizer_class([weight, bias], lr=0.1, weight_decay=0.01, fused=True)
        for _ in range(4):
            gradient = torch.randn(5, 7, generator=generator)
            optimizer.zero_grad()
            ((weight * gradient).sum() + bias.sum()).backward()
            optimizer.step()
        assert weight.shape == weight.grad.shape == (5, 7)
        results.append((weight.detach(), bias.detach()))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)


def test_the_optimiser_takes_a_closure() -> None:
    weight = torch.ones(2, 3, requires_grad=True)
    optimizer = Adam([weight], lr=0.1, fused=True)

    def closure() -> torch.Tensor:
        loss = weight.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 6
    torch.testing.assert_close(weight.detach(), torch.full((2, 3), 0.9))


@pytest.mark.parametrize("skip", [False, True], ids=["all_input", "without_zeros"])
def test_bfloat16_trains_to_nearly_the_same_loss(mostly_zeros: AnnData, skip: bool) -> None:
    kwargs = {"max_epochs": 10, "plan_kwargs": {"skip_zeros": skip}}
    plain = trained_model(mostly_zeros.copy(), **kwargs)
    half = trained_model(mostly_zeros.copy(), precision="bf16-mixed", **kwargs)
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


@pytest.mark.real_data
def test_leaving_out_zeros_of_real_cells_trains_the_same_model() -> None:
    counts = real_data("kang_pbmc_published_labels")
    prepared = sx.pp.rna(counts, batch_key="batch", min_features=0)
    results = []
    for skip in (False, True):
        model = small_model(prepared.copy())
        model.train(max_epochs=3, plan_kwargs={"skip_zeros": skip}, **QUIET)
        results.append(losses(model))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5)


def test_the_cosine_schedule_rises_falls_and_runs_to_its_end(prepared: AnnData) -> None:
    rates = []

    class Watch(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, *args: object) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    model = small_model(prepared)
    model.train(
        max_epochs=40,
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
    recipe: dict[str, Any],
    max_steps: int,
    batch_size: int,
    lr: float,
    schedule: str,
) -> None:
    model = small_model(prepared)
    model.train(**(recipe | {"max_steps": 4}), **QUIET)
    plan = model.trainer.lightning_module
    assert (plan.lr, plan.lr_schedule) == (lr, schedule)
    assert (recipe["max_steps"], recipe["batch_size"]) == (max_steps, batch_size)
    assert plan.loss_kwargs["alignment_weight"] == (0 if recipe is PUBLISHED else 1)
