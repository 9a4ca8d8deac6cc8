"""The layer that leaves out zeros against torch's, which does not."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from scalex_scvi.nn import sparse_linear
from scalex_scvi.nn._sparse_linear import store_by_input


def random_input(density: float, n_cells: int = 17, n_genes: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(n_cells, n_genes, generator=generator)
    return values * (torch.rand(n_cells, n_genes, generator=generator) < density)


def random_weight(n_genes: int = 40, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(12, n_genes, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("density", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("stored", ["by_output", "by_input"])
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no_bias"])
def test_output_and_gradients_equal_the_dense_layer(
    density: float, stored: str, with_bias: bool
) -> None:
    x = random_input(density)
    x[3] = 0  # a cell without a value
    x[:, 5] = 0  # and a gene
    outcomes = []
    for layer in (F.linear, sparse_linear):
        weight = random_weight()
        if layer is sparse_linear and stored == "by_input":
            weight = store_by_input(weight)
        weight.requires_grad_()
        bias = torch.arange(12.0).requires_grad_() if with_bias else None
        output = layer(x, weight, bias)
        (output * torch.linspace(-1, 1, 12)).square().sum().backward()
        outcomes.append((output, weight.grad, *([bias.grad] if with_bias else [])))
    for expected, got in zip(*outcomes, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    "x",
    [
        random_input(0.2).t().contiguous().t(),
        random_input(0.2)[::2],
        random_input(0.2, n_cells=1),
        -random_input(0.2),
    ],
    ids=["stored_by_gene", "every_second_cell", "one_cell", "negative"],
)
def test_any_layout_and_sign_of_the_input(x: torch.Tensor) -> None:
    weight = random_weight()
    torch.testing.assert_close(sparse_linear(x, weight), F.linear(x, weight))


def test_double_precision_gradient_is_that_of_finite_differences() -> None:
    x = random_input(0.2, n_cells=4, n_genes=6).double()
    weight = random_weight(6, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: sparse_linear(x, w), (weight,))


def test_the_gradient_is_stored_as_the_weight_is() -> None:
    """Else autograd would copy it at each step."""
    weight = store_by_input(random_weight()).requires_grad_()
    sparse_linear(random_input(0.1), weight).sum().backward()
    assert weight.grad.stride() == weight.stride() == (1, 12)


def test_the_same_bits_in_one_thread_and_in_two() -> None:
    x, before, results = random_input(0.2), torch.get_num_threads(), []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            weight = random_weight().requires_grad_()
            output = sparse_linear(x, weight)
            output.square().sum().backward()
            results.append((output.detach(), weight.grad))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def test_full_precision_under_autocast() -> None:
    x, weight = random_input(0.2), random_weight()
    with torch.autocast("cpu", torch.bfloat16):
        output = sparse_linear(x, weight)
    torch.testing.assert_close(output, F.linear(x, weight))


def test_a_weight_stored_by_input_is_the_same_matrix() -> None:
    weight = random_weight()
    stored = store_by_input(weight)
    assert torch.equal(stored, weight)
    assert stored.t().is_contiguous()


def test_a_compiled_network_leaves_its_graph_for_it() -> None:
    x, weight = random_input(0.2), store_by_input(random_weight()).requires_grad_()
    compiled = torch.compile(lambda x, w: 2 * sparse_linear(2 * x, w), backend="aot_eager")
    compiled(x, weight).square().sum().backward()
    reference = random_weight().requires_grad_()
    (4 * F.linear(x, reference)).square().sum().backward()
    torch.testing.assert_close(weight.grad, reference.grad)
