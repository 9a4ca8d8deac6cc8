"""The network: its loss, and that the encoder does not know the batch."""

from __future__ import annotations

import pytest
import torch
from scvi import REGISTRY_KEYS
from torch.distributions import Normal, kl_divergence

from scalex_scvi.module import SCALEXVAE


@pytest.fixture
def minibatch() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        REGISTRY_KEYS.X_KEY: torch.rand(12, 20),
        REGISTRY_KEYS.BATCH_KEY: (torch.arange(12) % 3)[:, None],
    }


@pytest.fixture
def module() -> SCALEXVAE:
    torch.manual_seed(1)
    return SCALEXVAE(20, 3, n_hidden=16, n_latent=4)


def test_loss_is_cross_entropy_plus_weighted_kl(
    module: SCALEXVAE, minibatch: dict[str, torch.Tensor]
) -> None:
    inference, generative, losses = module(minibatch, loss_kwargs={"kl_weight": 0.5})
    x, p = minibatch[REGISTRY_KEYS.X_KEY], torch.sigmoid(generative["logits"])
    cross_entropy = -(x * p.log() + (1 - x) * (1 - p).log()).sum(1)
    qz = inference["qz"]
    prior = Normal(torch.zeros_like(qz.loc), torch.ones_like(qz.scale))
    kl = kl_divergence(qz, prior).sum(1)
    torch.testing.assert_close(losses.reconstruction_loss["reconstruction_loss"], cross_entropy)
    torch.testing.assert_close(losses.kl_local["kl_local"], kl)
    torch.testing.assert_close(losses.loss, (cross_entropy + 0.5 * kl).mean())


def test_loss_is_finite_for_saturated_logits(
    module: SCALEXVAE, minibatch: dict[str, torch.Tensor]
) -> None:
    module.decoder.norm.bias.data += 200
    assert torch.isfinite(module(minibatch)[2].loss)


def test_latent_does_not_depend_on_the_batch(
    module: SCALEXVAE, minibatch: dict[str, torch.Tensor]
) -> None:
    module.eval()
    other = minibatch | {REGISTRY_KEYS.BATCH_KEY: torch.zeros(12, 1)}
    latent = [module(m, compute_loss=False)[0]["qz"].loc for m in (minibatch, other)]
    assert torch.equal(*latent)


def test_samples_are_expression(module: SCALEXVAE, minibatch: dict[str, torch.Tensor]) -> None:
    module.eval()
    one, many = module.sample(minibatch), module.sample(minibatch, n_samples=3)
    assert one.shape == (12, 20)
    assert many.shape == (3, 12, 20)
    assert ((many >= 0) & (many <= 1)).all()
    assert not torch.equal(many[0], many[1])


def test_frozen_encoder_stays_in_eval_mode(module: SCALEXVAE) -> None:
    module.freeze_for_query(2)
    module.train()
    assert not module.encoder.training
    assert module.decoder.norm.training
    trainable = {name for name, p in module.named_parameters() if p.requires_grad}
    assert trainable == {"decoder.norm.weight", "decoder.norm.bias"}
