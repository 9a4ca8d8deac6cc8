"""The distance between the batches' mean latents."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scalex_scvi.nn import BatchOffset

BATCH = torch.tensor([0, 0, 0, 1, 1, 2])


@pytest.fixture
def latent() -> torch.Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()


def squared_distance(latent: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    """What is to be estimated, of all cells."""
    parts = [latent[batch == b] for b in batch.unique()]
    centre = latent.mean(dim=0)
    return sum(len(p) * (p.mean(dim=0) - centre).square().sum() for p in parts) / len(latent)


def after(n_steps: int, latent: torch.Tensor, batch: torch.Tensor, n_batch: int = 3) -> BatchOffset:
    """The term after so many steps of the same minibatch."""
    offset = BatchOffset(latent.shape[1], n_batch)
    for _ in range(n_steps):
        offset(latent, batch)
    return offset


def test_value_and_gradient_are_those_of_the_cells_when_averages_have_settled(
    latent: torch.Tensor,
) -> None:
    offset = after(200, latent, BATCH)
    value = offset(latent, BATCH[:, None])
    torch.testing.assert_close(value, squared_distance(latent, BATCH))
    (gradient,) = torch.autograd.grad(value, latent)
    (expected,) = torch.autograd.grad(squared_distance(latent, BATCH), latent)
    torch.testing.assert_close(gradient, expected)


def test_averages_smooth_the_noise_of_minibatches() -> None:
    """Of batches at the same place a minibatch's means lie far apart, their averages do not."""
    generator = torch.Generator().manual_seed(0)
    offset = BatchOffset(10, 8)
    own, averaged = [], []
    for _ in range(300):
        latent = torch.randn(64, 10, generator=generator)
        batch = torch.randint(8, (64,), generator=generator)
        own.append(squared_distance(latent, batch))
        averaged.append(offset(latent, batch))
    assert np.mean(averaged[100:]) < 0.1 * np.mean(own[100:])


def test_a_batch_that_is_absent_stays_where_it_was(latent: torch.Tensor) -> None:
    offset = after(5, latent, BATCH)
    before = offset.mean[2].clone()
    offset(latent[:5], BATCH[:5])
    torch.testing.assert_close(offset.mean[2], before, rtol=0, atol=0)


def test_one_batch_has_no_distance(latent: torch.Tensor) -> None:
    value = after(3, latent, torch.zeros(6), n_batch=1)(latent, torch.zeros(6))
    (gradient,) = torch.autograd.grad(value, latent)
    assert value == 0
    assert not gradient.any()


def test_validation_moves_nothing(latent: torch.Tensor) -> None:
    offset = after(5, latent, BATCH).eval()
    before = offset.mean.clone(), offset.share.clone()
    offset(latent + 1, BATCH)
    assert torch.equal(offset.mean, before[0])
    assert torch.equal(offset.share, before[1])


def test_nothing_of_it_is_saved(latent: torch.Tensor) -> None:
    assert not after(5, latent, BATCH).state_dict()


def test_half_precision_is_computed_in_full(latent: torch.Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = BatchOffset(4, 3)(latent.bfloat16(), BATCH)
    assert value.dtype == torch.float32
