"""Two processes train one model, as well as one process does.

Run as a script, this file is one of the two processes, which are told of each other as a launcher
of processes does: what Lightning starts by itself would import all libraries anew.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from anndata import AnnData
from conftest import QUIET, simulate_counts, small_model
from forked import run_together
from interrupt import Interrupt, Interrupted
from lightning.pytorch.callbacks import Callback

import scalex_scvi as sx
from scalex_scvi.metrics import knn_purity, same_batch_share
from scalex_scvi.nn import DomainSpecificBatchNorm1d
from scalex_scvi.train import Checkpoint, count_processes

N_STEPS = 200
DDP = {"devices": 2, "strategy": "ddp", "batch_size": 32} | QUIET
CONSTANT = {"lr": 2e-3, "lr_schedule": "constant"}
# In 200 steps one process comes to a loss of 288 to 290, a share of same-batch neighbors of
# 0.348 to 0.352 (0.33 if mixed) and a purity of 0.632 to 0.642 with three seeds.
TOLERANCES = {"loss": 1.5, "same-batch share": 0.02, "purity": 0.03}


class Witness(Callback):
    """Notes what this process sees, of the cells those of one epoch."""

    def __init__(self, epoch: int = 0) -> None:
        self.cells: list[torch.Tensor] = []
        self.seed = 0
        self.epoch = epoch

    def on_train_batch_start(
        self, trainer: Any, plan: Any, batch: dict[str, torch.Tensor], index: int
    ) -> None:
        if index == 0 and trainer.current_epoch == 0:
            self.seed = torch.initial_seed()
        if trainer.current_epoch == self.epoch:
            self.cells.append(batch["X"])


def pbmc_model(adata: AnnData, seed: int = 1) -> sx.SCALEXModel:
    sx.SCALEXModel.setup_anndata(adata, batch_key="batch")
    return sx.SCALEXModel(adata, n_hidden=128, seed=seed)


def state_of(model: sx.SCALEXModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.module.state_dict().items()}


def in_two_processes(folder: Path) -> None:
    """Train several times; each process writes what it ends with."""
    adata = ad.read_h5ad(folder / "pbmc.h5ad")
    model, witness = pbmc_model(adata), Witness()
    model.train(max_steps=N_STEPS, seed=1, callbacks=[witness], **CONSTANT, **DDP)
    result: dict[str, Any] = {"pbmc": state_of(model), "seed": witness.seed}
    result |= {"cells": torch.cat(witness.cells), "steps": model.trainer.global_step}
    if model.trainer.is_global_zero:
        model.save(folder / "model")
        result["loss"] = model.history["train_loss"]["train_loss"].astype(float).tolist()

    counts = simulate_counts()
    prepared = sx.pp.rna(counts, batch_key="batch", min_features=0)
    for name, seed, n_workers in (("a", 5, 0), ("same", 5, 2), ("other", 6, 0)):
        model = small_model(prepared.copy(), seed=0)
        workers = {"num_workers": n_workers}
        model.train(max_epochs=2, seed=seed, datasplitter_kwargs=workers, **DDP)
        result[name] = state_of(model)
    result |= from_a_store(folder, prepared.copy())
    result |= interrupted_and_resumed(folder, prepared)
    # So large a learning rate makes the loss bounce.
    model.train(max_epochs=100, lr=0.05, lr_schedule="constant", early_stopping_patience=3, **DDP)
    result |= {"stopped": state_of(model), "epochs": model.trainer.current_epoch}

    counts.obs["batch"] = "new"
    query = sx.SCALEXModel.load_query_data(counts, model)
    result["before query"] = state_of(query)
    query.train(max_epochs=2, **DDP)
    result["query"] = state_of(query)
    torch.save(result, folder / f"{query.trainer.global_rank}.pt")


def from_a_store(folder: Path, prepared: AnnData) -> dict[str, Any]:
    """Train on cells that each process reads from the same store, twice."""
    found: dict[str, Any] = {}
    for name in ("store", "store again"):
        model, witness = small_model(sx.io.open_store(folder / "cells.zarr"), seed=0), Witness()
        model.train(max_epochs=4, seed=5, callbacks=[witness], **(DDP | {"batch_size": 16}))
        found[name] = state_of(model)
        found["cells of the store"] = torch.cat(witness.cells)
    return found


def interrupted_and_resumed(folder: Path, prepared: AnnData) -> dict[str, Any]:
    """Train at a stretch, and with an interruption; of cells in memory and of a store."""
    found: dict[str, Any] = {}
    sources = {"memory": prepared, "disk": sx.io.open_store(folder / "cells.zarr")}
    how = DDP | {"max_epochs": 4, "seed": 5, "batch_size": 16}  # 4 minibatches in an epoch
    for name, cells in sources.items():
        path = folder / f"{name}.ckpt"
        whole, first, resumed, again = (small_model(cells, seed=0) for _ in range(4))
        whole.train(**how)
        with suppress(Interrupted):
            first.train(checkpoint=Checkpoint(path, steps=5), callbacks=[Interrupt(12)], **how)
        witness = Witness(epoch=2)
        resumed.train(checkpoint=path, callbacks=[witness], **how)
        again.train(checkpoint=path, callbacks=[Interrupt(1)], **how)  # which never comes
        trained = {"whole": whole, "resumed": resumed, "again": again}
        found |= {f"{name} {model}": state_of(of) for model, of in trained.items()}
        found[f"{name} minibatches left"] = len(witness.cells)
        found[f"{name} was trained"] = first.is_trained
    return found


@pytest.fixture(scope="module")
def pbmc() -> AnnData:
    return sx.pp.rna(sx.datasets.pbmc_technologies(), batch_key="batch", min_features=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pbmc: AnnData) -> Path:
    """What the two processes wrote."""
    path = tmp_path_factory.mktemp("ddp")
    pbmc.write_h5ad(path / "pbmc.h5ad")
    prepared = sx.pp.rna(simulate_counts(), batch_key="batch", min_features=0)
    sx.io.write_store(prepared, path / "cells.zarr")
    working = path / "working"
    working.mkdir()
    tests = str(Path(__file__).parents[1])
    search = os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": search, "WORLD_SIZE": "2"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    environments = [environment | {"LOCAL_RANK": str(rank)} for rank in (0, 1)]
    for code, errors in run_together(
        Path(__file__), str(path), folder=working, environments=environments
    ):
        assert code == 0, errors[-4000:]
        assert "early_stopping was automatically disabled" not in errors
    return path


@pytest.fixture(scope="module")
def processes(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    return [name for name, value in a.items() if not torch.equal(value, b[name])]


@pytest.mark.parametrize("training", ["pbmc", "a", "store", "stopped", "query"])
def test_all_processes_end_with_the_same_weights(processes: list, training: str) -> None:
    first, second = processes
    assert differing(first[training], second[training]) == []


def test_the_cells_are_shared_out(processes: list, pbmc: AnnData) -> None:
    """In one epoch no cell is seen twice, and at most an incomplete minibatch is left out."""
    cells = torch.cat([found["cells"] for found in processes])
    assert len(cells) == len(cells.unique(dim=0)) == 640  # of 700 in minibatches of 2 x 32
    assert processes[0]["steps"] == N_STEPS


def test_a_store_is_shared_out(processes: list) -> None:
    """In minibatches of 2 x 16 of 150 cells: none twice, and as many steps in both processes."""
    mine, others = (found["cells of the store"] for found in processes)
    assert len(mine) == len(others) == 64
    assert len(torch.cat([mine, others]).unique(dim=0)) == 128
    assert differing(processes[0]["store"], processes[0]["store again"]) == []


def test_each_process_has_its_own_noise(processes: list) -> None:
    assert processes[0]["seed"] != processes[1]["seed"]


def test_seed_decides_whatever_the_workers(processes: list) -> None:
    found = processes[0]
    assert differing(found["a"], found["same"]) == []
    assert "encoder.mean_head.weight" in differing(found["a"], found["other"])


@pytest.mark.parametrize("cells", ["memory", "disk"])
def test_an_interrupted_training_goes_on_to_the_same_weights(processes: list, cells: str) -> None:
    for found in processes:
        assert not found[f"{cells} was trained"]
        assert found[f"{cells} minibatches left"] == 2  # of epoch 2, after 10 of 16
        for model in ("resumed", "again"):
            assert differing(found[f"{cells} whole"], found[f"{cells} {model}"]) == []
    assert differing(processes[0][f"{cells} whole"], processes[1][f"{cells} whole"]) == []


def test_same_quality_as_one_process(folder: Path, processes: list, pbmc: AnnData) -> None:
    one = pbmc_model(pbmc.copy())
    one.train(max_steps=N_STEPS, seed=1, batch_size=64, **CONSTANT, **QUIET)
    two = sx.SCALEXModel.load(folder / "model", adata=pbmc.copy())
    assert differing(state_of(two), processes[0]["pbmc"]) == []
    losses = [one.history["train_loss"]["train_loss"].min(), min(processes[0]["loss"])]
    found = {
        "loss": losses,
        "same-batch share": [
            same_batch_share(model.get_latent_representation(), pbmc.obs["batch"])
            for model in (one, two)
        ],
        "purity": [
            knn_purity(model.get_latent_representation(), pbmc.obs["celltype"])
            for model in (one, two)
        ],
    }
    for score, (expected, value) in found.items():
        assert value == pytest.approx(expected, abs=TOLERANCES[score]), score
    np.testing.assert_allclose(len(processes[0]["loss"]), len(one.history["train_loss"]))


def test_all_processes_stop_together(processes: list) -> None:
    assert processes[0]["epochs"] == processes[1]["epochs"] < 100


def test_a_query_leaves_the_reference_bit_for_bit(processes: list) -> None:
    before, after = processes[0]["before query"], processes[0]["query"]
    assert set(differing(before, after)) == {
        f"decoder.norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")
    }
    for name in differing(before, after):
        assert torch.equal(before[name][:3], after[name][:3]), name


def test_nothing_is_written_into_the_working_folder(folder: Path, processes: list) -> None:
    assert list((folder / "working").iterdir()) == []


def test_one_process_synchronizes_nothing(prepared: AnnData) -> None:
    """Also where an earlier training left it switched on."""
    model = small_model(prepared)
    norm = model.module.decoder.norm
    assert isinstance(norm, DomainSpecificBatchNorm1d)
    norm.synchronize = True  # raises in train mode, as no process group is there
    model.train(max_epochs=1, **QUIET)
    assert not norm.synchronize


@pytest.mark.parametrize(
    ("devices", "more", "expected"),
    [
        (1, {}, 1),
        ("auto", {}, 1),
        (1, {"strategy": "ddp"}, 1),
        (2, {"strategy": "ddp"}, 2),
        ("2", {"strategy": "ddp_find_unused_parameters_false"}, 2),
        (2, {"strategy": "ddp", "num_nodes": 3}, 6),
    ],
)
def test_processes_are_counted(devices: int | str, more: dict, expected: int) -> None:
    assert count_processes("cpu", devices, more) == expected


@pytest.mark.parametrize("more", [{}, {"strategy": "auto"}, {"strategy": "fsdp"}])
def test_several_processes_need_ddp(prepared: AnnData, more: dict) -> None:
    with pytest.raises(ValueError, match=r"`devices=2` trains in 2 processes.*strategy='ddp'"):
        small_model(prepared).train(max_epochs=1, devices=2, **more, **QUIET)


def test_more_processes_than_cells(prepared: AnnData) -> None:
    model = small_model(prepared)
    with pytest.raises(ValueError, match="150 cells cannot be shared out between 200 processes"):
        model.train(max_epochs=1, devices=2, num_nodes=100, strategy="ddp", **QUIET)


if __name__ == "__main__":
    torch.set_num_threads(1)
    in_two_processes(Path(sys.argv[1]))
