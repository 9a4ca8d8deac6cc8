"""Training from values that a GPU holds: here on the CPU, and on a GPU where there is one."""

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import sparse

import scalex_scvi as sx
from scalex_scvi._core.blocks import blocks_of
from scalex_scvi.pp import DeviceRows, on_device
from scalex_scvi.train._loader import BlockLoader

QUIET = {"enable_progress_bar": False, "logger": False}


@pytest.fixture
def model() -> sx.SCALEXModel:
    rng = np.random.default_rng(0)
    adata = ad.AnnData(sparse.csr_matrix(rng.poisson(0.5, (150, 40)).astype(np.float32)))
    adata.obs["batch"] = np.where(np.arange(150) % 2 == 0, "a", "b")
    sx.SCALEXModel.setup_anndata(adata, batch_key="batch")
    return sx.SCALEXModel(adata, n_hidden=16)


@pytest.mark.parametrize("indices", [None, np.arange(20, 120)])
@pytest.mark.parametrize("drop_last", [True, False])
def test_minibatches_are_those_of_the_plain_loader(
    model: sx.SCALEXModel, indices: np.ndarray | None, drop_last: bool
) -> None:
    manager = model.adata_manager
    how = {"indices": indices, "batch_size": 32, "shuffle": True, "drop_last": drop_last}
    torch.manual_seed(3)
    plain = list(BlockLoader(manager, **how))
    take = on_device(manager.transform, torch.device("cpu"))
    matrix = manager.get_from_registry("X")
    manager.on_device = DeviceRows.stack([take(*b) for b in blocks_of(matrix, manager.codes)])
    torch.manual_seed(3)
    loader = BlockLoader(manager, **how)
    held = list(loader)
    assert len(held) == len(plain) == len(loader)
    for one, other in zip(held, plain, strict=True):
        for key in ("X", "batch"):
            torch.testing.assert_close(one[key], other[key], check_dtype=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_from_what_it_holds(model: sx.SCALEXModel) -> None:
    model.train(max_steps=30, accelerator="gpu", devices=1, **QUIET)
    assert model.adata_manager.on_device is None, "let go of afterwards"
    latent = model.get_latent_representation()
    model.to_device("cpu")
    np.testing.assert_allclose(model.get_latent_representation(), latent, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_same_seed_gives_the_same_weights_on_a_gpu(model: sx.SCALEXModel) -> None:
    weights = []
    for _ in range(2):
        again = sx.SCALEXModel(model.adata, n_hidden=16)
        again.train(max_steps=30, accelerator="gpu", devices=1, seed=1, **QUIET)
        weights.append(torch.cat([p.flatten() for p in again.module.parameters()]).cpu())
    assert torch.equal(*weights)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_trains_as_single_kernels_do(
    model: sx.SCALEXModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same order of cells, same noise: weights differ by the order of sums alone."""
    weights = []
    for graphs in (True, False):
        if not graphs:
            monkeypatch.setattr(sx.train.SCALEXTrainingPlan, "_can_be_graphed", lambda self: False)
        again = sx.SCALEXModel(model.adata, n_hidden=16)
        again.train(max_steps=20, accelerator="gpu", devices=1, seed=1, **QUIET)
        weights.append(again.module.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=1e-4, rtol=1e-3, msg=name)
