"""Two processes with half of the cells each normalize, and learn, like one with all of them.

Run as a script, this file is the two processes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from forked import run_script
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

import scalex_scvi as sx
from scalex_scvi.nn import BatchNorm1d, DomainSpecificBatchNorm1d, synchronize_statistics

N_FEATURES = 7
Tensors = dict[str, torch.Tensor]

# Number of domains, frozen domains, and the domains of the cells of either process.
CASES: dict[str, tuple[int, int, list[int], list[int]]] = {
    "every domain in both": (3, 0, [0, 1, 2] * 5, [2, 1, 0] * 5),
    "a domain in one process only": (3, 0, [0, 1] * 8, [1, 2] * 8),
    "one cell in each process": (3, 0, [0] * 8 + [1], [1] + [2] * 8),
    "one cell in all": (3, 0, [0] * 8, [1] * 8 + [2]),
    "unequal numbers of cells": (2, 0, [0, 1] * 3, [0, 1] * 9),
    "more domains than cells": (100, 0, [5, 5, 99, 99, 7], [5, 99, 7, 7, 0]),
    "frozen domains": (4, 2, [0, 1, 2, 3] * 4, [3, 2, 1, 0] * 4),
}


def normalize(case: str, rank: int | None) -> Tensors:
    """Three steps of forward and backward on the cells of one process, or of both (``None``)."""
    n_domains, n_frozen, *domains = CASES[case]
    generator = torch.Generator().manual_seed(0)
    domain = torch.tensor(domains[0] + domains[1])
    mine = slice(None)
    if rank is not None:
        mine = slice(0, len(domains[0])) if rank == 0 else slice(len(domains[0]), None)
    norms = {
        "domains": DomainSpecificBatchNorm1d(N_FEATURES, n_domains),
        "one": BatchNorm1d(N_FEATURES),
    }
    result = {}
    for name, norm in norms.items():
        norm.double().train()
        synchronize_statistics(norm, rank is not None)
        for parameter in norm.parameters():
            parameter.data += torch.rand(parameter.shape, generator=generator)
        if name == "domains":
            norm.freeze_domains(n_frozen)
        for step in range(3):
            x = torch.randn(len(domain), N_FEATURES, dtype=torch.float64, generator=generator)
            weights = torch.randn(x.shape, dtype=torch.float64, generator=generator)[mine]
            x = (3 * x + 1)[mine].requires_grad_()
            y = norm(x, domain[mine]) if name == "domains" else norm(x)
            (y * weights).sum().backward()
            result |= {f"{name} y {step}": y.detach(), f"{name} x.grad {step}": x.grad}
        result |= {f"{name} {key}.grad": p.grad for key, p in norm.named_parameters()}
        result |= {f"{name} {key}": value for key, value in norm.named_buffers()}
    return result


def learn(rank: int | None) -> Tensors:
    """Gradients and statistics of the whole network after some steps, in double precision."""
    torch.manual_seed(0)
    module = sx.module.SCALEXVAE(20, 3, n_hidden=16, n_latent=4, n_layers=2, n_layers_decoder=1)
    # Without noise, so that the cells alone decide.
    module.encoder.log_var_head.weight.data.zero_()
    module.encoder.log_var_head.bias.data.fill_(-60)
    module.double().train()
    network: torch.nn.Module = module
    if rank is not None:
        synchronize_statistics(module)
        network = DistributedDataParallel(module)
    mine = slice(None) if rank is None else slice(32 * rank, 32 * (rank + 1))
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-2)
    xs, batches = torch.rand(5, 64, 20, dtype=torch.float64), torch.randint(3, (5, 64, 1))
    for x, batch in zip(xs, batches, strict=True):
        optimizer.zero_grad()
        tensors = {"X": x[mine], "batch": batch[mine]}
        network(tensors, loss_kwargs={"alignment_weight": 100.0})[2].loss.backward()
        optimizer.step()
    gradients = {f"{name}.grad": p.grad for name, p in module.named_parameters()}
    return gradients | module.state_dict()


def process(rank: int, folder: str) -> None:
    store = distributed.FileStore(os.path.join(folder, "store"), 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    results = {case: normalize(case, rank) for case in CASES} | {"network": learn(rank)}
    torch.save(results, os.path.join(folder, f"{rank}.pt"))
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensors]]:
    """What each of two processes finds."""
    folder = tmp_path_factory.mktemp("processes")
    code, errors = run_script(Path(__file__), str(folder), folder=folder)
    assert code == 0, errors[-4000:]
    return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_normalizes_like_one_process(two_processes: list[dict[str, Tensors]], case: str) -> None:
    first, second = (results[case] for results in two_processes)
    for name, expected in normalize(case, None).items():
        if " y " in name or "x.grad" in name:
            found = torch.cat([first[name], second[name]])
        elif name.endswith(".grad"):
            found = first[name] + second[name]
        else:
            assert torch.equal(first[name], second[name]), name
            found = first[name]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6, msg=name)


def test_learns_like_one_process(two_processes: list[dict[str, Tensors]]) -> None:
    first, second = (results["network"] for results in two_processes)
    for name, expected in learn(None).items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], expected, atol=1e-6, rtol=1e-6, msg=name)


def test_one_process_is_torch_batch_norm_bit_for_bit() -> None:
    torch.manual_seed(0)
    ours, theirs = BatchNorm1d(N_FEATURES), torch.nn.BatchNorm1d(N_FEATURES)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for training in (True, True, False):
        x = torch.randn(9, N_FEATURES)
        assert torch.equal(ours.train(training)(x), theirs.train(training)(x))
    assert all(torch.equal(value, theirs.state_dict()[k]) for k, value in ours.state_dict().items())


if __name__ == "__main__":
    torch.set_num_threads(1)
    multiprocessing.start_processes(process, args=sys.argv[1:], nprocs=2, start_method="fork")
