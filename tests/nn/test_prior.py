"""A prior of several normal distributions: its density, and what a training makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from anndata import AnnData
from conftest import QUIET, simulate_counts, small_model
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import scalex_scvi as sx
from scalex_scvi.module import SCALEXVAE
from scalex_scvi.nn import MixturePrior

SHORT = {"max_steps": 40, "seed": 0} | QUIET


@pytest.fixture(scope="module")
def prepared() -> AnnData:
    return sx.pp.rna(simulate_counts(), batch_key="batch", min_features=0)


def some_prior(n_components: int = 3) -> MixturePrior:
    torch.manual_seed(0)
    prior = MixturePrior(2, n_components)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter)
    return prior


def test_density_is_that_of_torch() -> None:
    prior, z = some_prior(), torch.randn(7, 2)
    parts = Independent(Normal(prior.mean, torch.exp(0.5 * prior.log_var)), 1)
    expected = MixtureSameFamily(Categorical(logits=prior.logits), parts).log_prob(z)
    torch.testing.assert_close(prior.log_prob(z), expected)


def test_divergence_from_a_mixture_of_standard_normals_is_the_published_one() -> None:
    """In the mean over many draws, as it is estimated from draws."""
    published, mixture = SCALEXVAE(4, n_latent=2), SCALEXVAE(4, n_latent=2, n_prior_components=2)
    torch.nn.init.zeros_(mixture.prior.mean)
    mean, scale = torch.tensor([[0.0, 0.0], [1.0, -2.0]]), torch.tensor([[1.0, 1.0], [0.5, 0.1]])
    expected = published._divergence(Normal(mean, scale), mean)
    # 20,000 draws of each of the two: 20 at a time of many cells, as draws are gone through singly.
    qz = Normal(mean.repeat(1000, 1), scale.repeat(1000, 1))
    found = mixture._divergence(qz, qz.sample((20,))).reshape(1000, 2).mean(dim=0)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def test_the_published_prior_has_nothing_to_learn(prepared: AnnData) -> None:
    model = small_model(prepared)
    assert model.module.prior is None
    assert not any("prior" in name for name in model.module.state_dict())


def test_a_training_moves_the_prior_to_the_cells(prepared: AnnData) -> None:
    model = small_model(prepared, n_prior_components=4)
    before = {name: value.clone() for name, value in model.module.prior.state_dict().items()}
    model.train(**SHORT)
    latent = torch.from_numpy(model.get_latent_representation())
    after = model.module.prior.log_prob(latent).mean()
    model.module.prior.load_state_dict(before)
    assert after > model.module.prior.log_prob(latent).mean()


def test_saved_loaded_and_projected(prepared: AnnData, tmp_path: Path) -> None:
    model = small_model(prepared, n_prior_components=4)
    model.train(**SHORT)
    assert "n_prior_components: 4" in model._model_summary_string
    model.save(tmp_path / "model")
    loaded = sx.SCALEXModel.load(tmp_path / "model", adata=prepared)
    for name, value in model.module.state_dict().items():
        torch.testing.assert_close(loaded.module.state_dict()[name], value)
    query = prepared.copy()
    query.obs["batch"] = "new"
    of_query = sx.SCALEXModel.load_query_data(query, tmp_path / "model")
    assert of_query.module.prior.mean.shape == (4, model.module.n_latent)
    assert not any(parameter.requires_grad for parameter in of_query.module.prior.parameters())
    assert np.isfinite(of_query.get_latent_representation()).all()


def test_the_same_seed_gives_the_same_weights(prepared: AnnData) -> None:
    weights = []
    for _ in range(2):
        model = small_model(prepared, n_prior_components=3, seed=5)
        model.train(**SHORT)
        weights.append(model.module.prior.mean.detach())
    torch.testing.assert_close(*weights, rtol=0, atol=0)
