"""How far the batches lie apart: everywhere, and near each cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scalex_scvi.nn import BatchOffset

BATCH = torch.tensor([0, 0, 0, 1, 1, 2])


@pytest.fixture
def latent() -> torch.Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()


def remembering(latent: torch.Tensor, batch: torch.Tensor, **kwargs: int) -> BatchOffset:
    """The term after these cells."""
    offset = BatchOffset(latent.shape[1], int(batch.max()) + 1, **kwargs)
    offset(latent, batch)
    return offset


def offsets_cell_by_cell(
    latent: np.ndarray, batch: np.ndarray, recent: np.ndarray, recent_batch: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The definition, with weighted means by numpy."""
    found = []
    for kernel in (lambda d: np.ones(len(d)), lambda d: np.exp(-d / (0.2 * latent.shape[1]))):
        rows = []
        for z, b in zip(latent, batch, strict=True):
            weight = kernel(((recent - z) ** 2).sum(axis=1))
            mean = np.average(recent, axis=0, weights=weight)
            own = recent_batch == b
            # One cell at the mean of all counts among the batch's.
            points = np.vstack([recent[own], mean])
            rows.append(np.average(points, axis=0, weights=[*weight[own], 1]) - mean)
        found.append(np.array(rows))
    return found[0], found[1]


def test_value_and_gradient_are_those_of_the_two_offsets(latent: torch.Tensor) -> None:
    recent = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    recent_batch = torch.arange(20) % 3
    value = remembering(recent, recent_batch)(latent, BATCH[:, None])
    everywhere, near = offsets_cell_by_cell(
        *(x.detach().numpy() for x in (latent, BATCH, recent, recent_batch))
    )
    expected = (everywhere**2).sum(axis=1).mean() + (near**2).sum(axis=1).mean()
    assert value.item() == pytest.approx(expected, rel=1e-5)
    (gradient,) = torch.autograd.grad(value, latent)
    np.testing.assert_allclose(gradient, 2 * (everywhere + near) / 6, rtol=1e-4, atol=1e-6)


def test_cells_of_a_shifted_batch_are_called_back() -> None:
    """Two types far apart; of the second batch both lie one to the right."""
    generator = torch.Generator().manual_seed(0)
    batch, celltype = torch.arange(400) % 2, torch.arange(400) // 200
    latent = 0.1 * torch.randn(400, 4, generator=generator)
    latent[:, 0] += batch
    latent[:, 1] += 20 * celltype
    everywhere, near = remembering(latent, batch).offsets(latent, batch)
    for offset in (everywhere, near):
        assert (offset[batch == 1, 0] > 0.1).all()
        assert (offset[batch == 0, 0] < -0.1).all()
    assert near[:, 1:].abs().max() < 0.1


def test_where_a_batch_is_alone_nothing_is_near_to_be_apart_from() -> None:
    """Each batch holds a type that the other lacks: they differ everywhere, but not nearby."""
    latent, batch = torch.zeros(100, 4), torch.arange(100) % 2
    latent[:, 0] = 20.0 * batch
    everywhere, near = remembering(latent, batch).offsets(latent, batch)
    assert (everywhere[:, 0].abs() > 9).all()
    assert near.abs().max() < 1e-3


def test_hardly_any_cell_of_a_batch_is_hardly_an_offset(latent: torch.Tensor) -> None:
    offset = remembering(latent, BATCH)
    assert not offset.offsets(latent.detach(), torch.full((6,), 1))[0].eq(0).all()
    nobody = BatchOffset(4, 3)
    assert not nobody.offsets(latent.detach(), BATCH).any()
    everywhere, _ = offset.offsets(latent.detach(), BATCH)
    to_its_only_cell = (latent[5] - latent.mean(dim=0)).detach()
    torch.testing.assert_close(everywhere[5], to_its_only_cell / 2)


def test_the_oldest_cells_are_forgotten(latent: torch.Tensor) -> None:
    offset = remembering(latent + 100, BATCH, n_recent=10)
    offset(latent, BATCH)
    offset(latent[:4], BATCH[:4])
    expected = remembering(torch.cat([latent[:4], latent]), torch.cat([BATCH[:4], BATCH]))
    torch.testing.assert_close(offset(latent, BATCH), expected(latent, BATCH))


def test_one_batch_has_no_offset(latent: torch.Tensor) -> None:
    assert remembering(latent, torch.zeros(6, dtype=torch.long))(latent, torch.zeros(6)) == 0


def test_validation_remembers_nothing(latent: torch.Tensor) -> None:
    offset = remembering(latent, BATCH).eval()
    before = offset.recent.clone()
    offset(latent + 1, BATCH)
    assert torch.equal(offset.recent, before)


def test_nothing_of_it_is_saved(latent: torch.Tensor) -> None:
    assert not remembering(latent, BATCH).state_dict()


def test_half_precision_is_computed_in_full(latent: torch.Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = remembering(latent.bfloat16(), BATCH)(latent.bfloat16(), BATCH)
    assert value.dtype == torch.float32
