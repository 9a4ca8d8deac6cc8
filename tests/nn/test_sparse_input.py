"""The encoder's first layer is ``nn.Linear``, whether zeros are left out or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from scalex_scvi.nn import Encoder
from scalex_scvi.nn._sparse_input import SparseInputLinear

N_CELLS, N_GENES, N_UNITS = 30, 40, 16


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Zeros are left out by one thread, as most trainings have."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def expression(share: float) -> Tensor:
    """Cells × genes, of which this share is not zero; a cell and a gene have nothing at all."""
    x = torch.rand(N_CELLS, N_GENES) * (torch.rand(N_CELLS, N_GENES) < share)
    x[3], x[:, 5] = 0, 0
    return x


def both(n_genes: int = N_GENES) -> tuple[SparseInputLinear, nn.Linear]:
    """Return the layer and torch's own, with the same weights."""
    torch.manual_seed(1)
    layer = SparseInputLinear(n_genes, N_UNITS)
    torch.manual_seed(1)
    return layer, nn.Linear(n_genes, N_UNITS)


def leaves_zeros_out(layer: SparseInputLinear, x: Tensor) -> bool:
    """Whether a weight of infinity changes nothing where it meets zeros alone."""
    unseen = int((x == 0).all(dim=0).nonzero()[0])
    with torch.no_grad():
        layer.transposed[unseen] = torch.inf
    return bool(layer(x).isfinite().all())


@pytest.mark.parametrize("share", [0.0, 0.05, 0.15, 0.6, 1.0])
def test_values_and_gradients_are_those_of_linear(share: float) -> None:
    layer, linear = both()
    x, weights = expression(share), torch.randn(N_CELLS, N_UNITS)
    torch.testing.assert_close(layer(x), linear(x))
    for each in (layer, linear):
        (each(x).square() * weights).sum().backward()
    torch.testing.assert_close(layer.transposed.grad.t(), linear.weight.grad)
    torch.testing.assert_close(layer.bias.grad, linear.bias.grad)


def test_weights_are_drawn_as_those_of_linear() -> None:
    layer, linear = both()
    assert torch.equal(layer.weight, linear.weight)
    assert torch.equal(layer.bias, linear.bias)


def test_files_are_those_of_linear() -> None:
    layer, linear = both()
    assert layer.state_dict().keys() == linear.state_dict().keys()
    other = nn.Linear(N_GENES, N_UNITS)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.weight, linear.weight)
    layer.load_state_dict(nn.Linear(N_GENES, N_UNITS).state_dict())
    assert not torch.equal(layer.weight, linear.weight)
    layer.load_state_dict(linear.state_dict())
    assert torch.equal(layer.weight, linear.weight)


def test_a_missing_and_a_wrong_weight_are_errors() -> None:
    layer, linear = both()
    with pytest.raises(RuntimeError, match="[Mm]issing key"):
        layer.load_state_dict({"bias": linear.bias})
    with pytest.raises(RuntimeError, match="size mismatch"):
        layer.load_state_dict({"bias": linear.bias, "weight": torch.zeros(N_UNITS, 3)})


def test_zeros_are_left_out_of_sparse_expression_in_training() -> None:
    layer, _ = both()
    assert leaves_zeros_out(layer, expression(0.05))


@pytest.mark.parametrize(
    "made",
    [
        lambda layer, x: (layer, x.requires_grad_()),
        lambda layer, x: (layer.requires_grad_(False), x),
        lambda layer, x: (layer.double(), x.double()),
        lambda layer, x: (layer, x.t().contiguous().t()),
    ],
    ids=["gradient of the input", "frozen", "double", "cells in columns"],
)
def test_whatever_else_is_multiplied_is_linear(made: Callable) -> None:
    layer, x = made(both()[0], expression(0.05))
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    assert not leaves_zeros_out(layer, x)


def test_not_a_number_is_seen() -> None:
    layer, _ = both()
    x = expression(0.05)
    x[2, 7] = torch.nan
    assert layer(x)[2].isnan().all()


def test_bfloat16_of_autocast_is_kept() -> None:
    layer, linear = both()
    x = expression(0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x), linear(x))
        assert layer(x).dtype == torch.bfloat16


def test_only_the_first_layer_of_an_encoder_takes_expression() -> None:
    first, *others = Encoder(N_GENES, n_hidden=N_UNITS, n_layers=3).layers
    assert isinstance(first.linear, SparseInputLinear)
    assert all(type(layer.linear) is nn.Linear for layer in others)


def test_a_training_is_the_same_but_for_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty steps of Adam over the encoder, with zeros left out and without."""

    def trained() -> Tensor:
        torch.manual_seed(0)
        encoder = Encoder(N_GENES, n_hidden=N_UNITS)
        optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3)
        for _ in range(20):
            optimizer.zero_grad()
            mean, var = encoder(expression(0.1))
            (mean.square() + var).sum().backward()
            optimizer.step()
        return encoder.layers[0].linear.weight.detach()

    left_out = trained()
    monkeypatch.setattr("scalex_scvi.nn._sparse_input.MOST_NOT_ZERO", -1)
    torch.testing.assert_close(left_out, trained(), rtol=1e-3, atol=1e-5)
