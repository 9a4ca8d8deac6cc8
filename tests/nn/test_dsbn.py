"""DomainSpecificBatchNorm1d is a list of BatchNorm1d, one for each domain."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scalex_scvi.nn import DomainSpecificBatchNorm1d

N_FEATURES = 7


class ListOfBatchNorms(nn.Module):
    """The independent implementation: torch's own BatchNorm1d for each domain in turn."""

    def __init__(self, stacked: DomainSpecificBatchNorm1d) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(N_FEATURES) for _ in range(stacked.n_domains))
        for i, norm in enumerate(self.norms):
            norm.weight.data.copy_(stacked.weight[i])
            norm.bias.data.copy_(stacked.bias[i])
            norm.running_mean.copy_(stacked.running_mean[i])
            norm.running_var.copy_(stacked.running_var[i])

    def forward(self, x: torch.Tensor, domain: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        for i, norm in enumerate(self.norms):
            rows = domain == i
            if rows.sum() == 1:  # no variance of one row: running statistics
                norm.eval()
                out[rows] = norm(x[rows])
                norm.train(self.training)
            elif rows.any():
                out[rows] = norm(x[rows])
        return out


def randomised(n_domains: int) -> DomainSpecificBatchNorm1d:
    norm = DomainSpecificBatchNorm1d(N_FEATURES, n_domains)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return norm


CASES = {
    "one domain": (1, [0] * 20),
    "two domains": (2, [0, 1] * 10),
    "absent domains": (6, [1, 4] * 10),
    "one-cell domains": (4, [0] * 10 + [1] + [2] * 5 + [3]),
    "more domains than cells": (200, [5, 5, 5, 199, 199, 17, 0, 0]),
    "200 domains, many cells": (200, list(range(200)) * 3),
    "only lone cells": (3, [2, 0, 1]),
}


# The variance of two or three rows can be so small that single precision amplifies rounding, in
# torch's own norm too: those cases are compared in double precision alone.
ILL_CONDITIONED = {"more domains than cells", "200 domains, many cells"}

# In single precision the order of sums depends on the processor, and moves a gradient that has been
# added up three times by 1.4e-6: torch's own tolerance there.
TOLERANCE = {
    torch.float64: {"atol": 1e-12, "rtol": 1e-12},
    torch.float32: {"atol": 1e-5, "rtol": 1.3e-6},
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, torch.float64) for case in CASES]
    + [(case, torch.float32) for case in CASES if case not in ILL_CONDITIONED],
)
def test_equals_a_list_of_batch_norms(case: str, dtype: torch.dtype, training: bool) -> None:
    torch.manual_seed(0)
    n_domains, domains = CASES[case]
    tolerance = TOLERANCE[dtype]
    stacked = randomised(n_domains).train(training).to(dtype)
    listed = ListOfBatchNorms(stacked).to(dtype).train(training)
    domain = torch.tensor(domains)[torch.randperm(len(domains))]
    for _ in range(3):  # running statistics accumulate
        x = torch.randn(len(domain), N_FEATURES, dtype=dtype) * 3 + 1
        x_stacked, x_listed = x.clone().requires_grad_(), x.clone().requires_grad_()
        weights = torch.randn(len(domain), N_FEATURES, dtype=dtype)
        y_stacked, y_listed = stacked(x_stacked, domain), listed(x_listed, domain)
        torch.testing.assert_close(y_stacked, y_listed, **tolerance)
        (y_stacked * weights).sum().backward()
        (y_listed * weights).sum().backward()
        torch.testing.assert_close(x_stacked.grad, x_listed.grad, **tolerance)

    for name in ("weight", "bias"):
        expected = torch.stack(
            [
                torch.zeros(N_FEATURES, dtype=dtype) if p.grad is None else p.grad
                for p in (getattr(norm, name) for norm in listed.norms)
            ]
        )
        torch.testing.assert_close(getattr(stacked, name).grad, expected, **tolerance)
    for name in ("running_mean", "running_var"):
        expected = torch.stack([getattr(norm, name) for norm in listed.norms])
        torch.testing.assert_close(getattr(stacked, name), expected, **tolerance)


def test_running_statistics_of_absent_and_lone_domains_are_untouched() -> None:
    norm = randomised(4).train()
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    norm(torch.randn(9, N_FEATURES), torch.tensor([1] * 8 + [2]))
    for domain in (0, 2, 3):
        assert torch.equal(norm.running_mean[domain], mean[domain])
        assert torch.equal(norm.running_var[domain], var[domain])
    assert not torch.equal(norm.running_mean[1], mean[1])


@pytest.mark.parametrize("n_domains", [3, 50], ids=["few domains", "more domains than cells"])
def test_frozen_domains_keep_every_bit(n_domains: int) -> None:
    norm = randomised(n_domains).train()
    norm.freeze_domains(2)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    optimizer = torch.optim.Adam(norm.parameters(), lr=0.1, weight_decay=0)
    for _ in range(3):
        optimizer.zero_grad()
        norm(torch.randn(12, N_FEATURES), torch.arange(12) % 3).square().sum().backward()
        optimizer.step()
    for name, value in norm.state_dict().items():
        assert torch.equal(value[:2], before[name][:2]), name
        assert not torch.equal(value[2], before[name][2]), name


@pytest.mark.parametrize("n_domains", [2, 40], ids=["few domains", "more domains than cells"])
def test_compiles_to_one_graph(n_domains: int) -> None:
    norm = randomised(n_domains).train()
    # fullgraph raises at anything that breaks the graph, such as a read of a tensor's value.
    compiled = torch.compile(norm, backend="eager", fullgraph=True)
    x, domain = torch.randn(16, N_FEATURES), torch.randint(n_domains, (16,))
    expected = randomised(n_domains)
    expected.load_state_dict(norm.state_dict())
    torch.testing.assert_close(compiled(x, domain), expected.train()(x, domain))


def test_statistics_stay_in_single_precision_under_autocast() -> None:
    norm = randomised(2).train()
    x, domain = torch.randn(64, N_FEATURES) * 1e-2 + 100, torch.arange(64) % 2
    reference = randomised(2).train()
    reference.load_state_dict(norm.state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = norm(x, domain)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, reference(x, domain))


def test_column_of_domains_is_accepted() -> None:
    norm = randomised(2).eval()
    x, domain = torch.randn(6, N_FEATURES), torch.arange(6) % 2
    torch.testing.assert_close(norm(x, domain[:, None].float()), norm(x, domain))


@pytest.mark.parametrize(("n_features", "n_domains"), [(0, 2), (3, 0)])
def test_sizes_are_checked(n_features: int, n_domains: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        DomainSpecificBatchNorm1d(n_features, n_domains)
