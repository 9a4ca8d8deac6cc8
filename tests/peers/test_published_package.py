"""Parity with the published package, ``scalex==1.0.4``, installed as a peer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from conftest import QUIET
from scvi import REGISTRY_KEYS
from torch.utils.data import DataLoader, TensorDataset

import scalex_scvi as sx
from scalex_scvi.module import SCALEXVAE
from scalex_scvi.train import PUBLISHED

published = pytest.importorskip("scalex.net.vae", reason="needs the extra 'peers'")

N_SEEDS = 5
N_GENES = 500


def published_vae(n_genes: int, n_batch: int) -> Any:
    """The published network in the published configuration."""
    encoder = [["fc", 1024, 1, "relu"], ["fc", 10, "", ""]]
    return published.VAE(encoder, [["fc", n_genes, n_batch, "sigmoid"]], n_domain=n_batch)


def with_weights_of(vae: Any, n_genes: int, n_batch: int) -> SCALEXVAE:
    """Our network with the weights of a published one."""
    ours = SCALEXVAE(n_genes, n_batch)
    (layer,) = ours.encoder.layers
    first, last = vae.encoder.enc.net[0], vae.decoder.net[0]
    for target, source in [
        (layer.linear, first.fc),
        (layer.norm, first.norm),
        (ours.encoder.mean_head, vae.encoder.mu_enc.net[0].fc),
        (ours.encoder.log_var_head, vae.encoder.var_enc.net[0].fc),
        (ours.decoder.linear, last.fc),
    ]:
        target.load_state_dict(source.state_dict())
    norms = [norm.state_dict() for norm in last.norm.bns]
    stacked = {
        name: torch.stack([norm[name] for norm in norms])
        for name in ("weight", "bias", "running_mean", "running_var")
    }
    ours.decoder.norm.load_state_dict(stacked)
    return ours.eval()


@pytest.fixture(scope="module")
def prepared_cells() -> AnnData:
    """Real PBMCs of three (simulated) technologies, prepared once for both packages."""
    counts = sx.datasets.pbmc_technologies()
    return sx.pp.rna(counts, batch_key="batch", min_features=0, n_top_features=N_GENES)


@pytest.fixture(scope="module")
def data(prepared_cells: AnnData) -> tuple[torch.Tensor, torch.Tensor]:
    batch = prepared_cells.obs["batch"].cat.codes.to_numpy().astype(np.int64)
    return torch.from_numpy(prepared_cells.X.toarray()), torch.from_numpy(batch)


def test_same_weights_same_outputs(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, batch = data
    torch.manual_seed(0)
    vae = published_vae(x.shape[1], 3)
    for norm in vae.decoder.net[0].norm.bns:
        torch.nn.init.normal_(norm.bias)
        torch.nn.init.uniform_(norm.weight, 0.5, 2)
    with torch.no_grad():
        for rows in torch.randperm(len(x)).split(64):  # running statistics of their own
            vae.train()(x[rows], batch[rows])
    ours = with_weights_of(vae, x.shape[1], 3)
    vae.eval()
    with torch.no_grad():
        _, mean, var = vae.encoder(x)
        our_mean, our_var = ours.encoder(x)
        torch.testing.assert_close(our_mean, mean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(our_var, var, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            torch.sigmoid(ours.decoder(mean, batch)),
            vae.decoder(mean, batch),
            atol=1e-5,
            rtol=1e-5,
        )
        torch.manual_seed(1)  # both draw the same noise
        _, _, losses = vae(x, batch)
        torch.manual_seed(1)
        tensors = {REGISTRY_KEYS.X_KEY: x, REGISTRY_KEYS.BATCH_KEY: batch}
        _, _, our_losses = ours(tensors, loss_kwargs={"kl_weight": 0.5})
    torch.testing.assert_close(our_losses.loss, sum(losses.values()), atol=1e-5, rtol=1e-5)


def loss_of(module: SCALEXVAE, x: torch.Tensor, batch: torch.Tensor) -> float:
    """Loss over all cells in eval mode, with the same noise for every module."""
    torch.manual_seed(0)
    tensors = {REGISTRY_KEYS.X_KEY: x, REGISTRY_KEYS.BATCH_KEY: batch}
    with torch.no_grad():
        return float(module.eval()(tensors, loss_kwargs={"kl_weight": 0.5})[2].loss)


def test_trained_from_scratch_the_losses_agree(
    prepared_cells: AnnData,
    data: tuple[torch.Tensor, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(np, "Inf", np.inf, raising=False)  # gone from numpy 2
    early_stopping = pytest.importorskip("scalex.net.utils").EarlyStopping
    x, batch = data
    recipe = {"lr": 2e-3, "n_steps": 50}

    def theirs(seed: int) -> float:
        torch.manual_seed(seed)
        vae = published_vae(x.shape[1], 3)
        rows = TensorDataset(x, batch, torch.arange(len(x)))
        vae.fit(
            DataLoader(rows, batch_size=64, shuffle=True, drop_last=True),
            lr=recipe["lr"],
            max_iteration=recipe["n_steps"],
            early_stopping=early_stopping(checkpoint_file=str(tmp_path / "model.pt")),
            device="cpu",
        )
        return loss_of(with_weights_of(vae, x.shape[1], 3), x, batch)

    def ours(seed: int) -> float:
        adata = prepared_cells.copy()
        sx.SCALEXModel.setup_anndata(adata, batch_key="batch")
        model = sx.SCALEXModel(adata, seed=seed)
        how = PUBLISHED.but(lr=recipe["lr"], max_steps=recipe["n_steps"])
        model.train(recipe=how, seed=seed, **QUIET)
        return loss_of(model.module, x, batch)

    our_losses = [ours(seed) for seed in range(N_SEEDS)]
    their_losses = [theirs(seed) for seed in range(N_SEEDS)]
    spread = max(np.ptp(our_losses), np.ptp(their_losses))
    gap = abs(np.mean(our_losses) - np.mean(their_losses))
    assert gap <= spread, f"ours {our_losses}, theirs {their_losses}"
    # The spread itself is small, so that agreeing within it means something.
    assert spread < 0.03 * np.mean(their_losses)
