"""Blocks of rows give the latent that scvi-tools' data loader gives, however cells are stored."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from conftest import small_model
from scipy import sparse

import scalex_scvi as sx
from scalex_scvi.model._inference import Moments

N_CELLS = 1200


def cells(density: float) -> AnnData:
    """Values in [0, 1], of three batches that lie mixed."""
    matrix = sparse.random(N_CELLS, 40, density, format="csr", dtype=np.float32, random_state=1)
    obs = pd.DataFrame({"batch": pd.Categorical([f"b{i % 3}" for i in range(N_CELLS)])})
    obs.index = [f"cell{i}" for i in range(N_CELLS)]
    return AnnData(matrix, obs=obs)


@pytest.fixture(params=[0.05, 0.5], ids=["sparse", "dense"])
def model(request: pytest.FixtureRequest) -> sx.SCALEXModel:
    """Random weights and running statistics are as good as trained ones here."""
    model = small_model(cells(request.param))
    norm = model.module.encoder.layers[0].norm
    with torch.no_grad():
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 2)
    model.module.eval()
    model.is_trained_ = True
    return model


def by_loader(model: sx.SCALEXModel, **kwargs: object) -> np.ndarray:
    """The independent implementation: scvi-tools' loader and the module."""
    loader = model._make_data_loader(adata=model.adata)
    return model.get_latent_representation(dataloader=loader, **kwargs)


STORED = {
    "csr": lambda x: x,
    "csc": sparse.csc_matrix,
    "dense": lambda x: x.toarray(),
    "dense Fortran": lambda x: np.asfortranarray(x.toarray()),
    "float64": lambda x: x.astype(np.float64),
    "csr array": sparse.csr_array,
}


@pytest.mark.parametrize("backed", [False, True], ids=["memory", "file"])
@pytest.mark.parametrize("make", STORED.values(), ids=STORED.keys())
def test_equals_the_data_loader(
    model: sx.SCALEXModel, tmp_path: Path, make: object, backed: bool
) -> None:
    adata = AnnData(make(model.adata.X), obs=model.adata.obs[["batch"]], var=model.adata.var[[]])
    if backed:
        adata.write_h5ad(tmp_path / "a.h5ad")
        adata = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    expected = by_loader(model)
    np.testing.assert_allclose(model.get_latent_representation(adata), expected, atol=1e-6)
    rows = [1100, 3, -1, 3, 500]
    some = model.get_latent_representation(adata, indices=rows)
    np.testing.assert_allclose(some, expected[rows], atol=1e-6)
    mask = np.arange(N_CELLS) % 7 == 0
    some = model.get_latent_representation(adata, indices=mask)
    np.testing.assert_allclose(some, expected[mask], atol=1e-6)


@pytest.mark.parametrize("batch_stats", ["running", "batch"])
def test_block_size_changes_rounding_only(model: sx.SCALEXModel, batch_stats: str) -> None:
    expected = model.get_latent_representation(batch_stats=batch_stats)
    for size in (None, 1, 100, 5000):
        latent = model.get_latent_representation(batch_stats=batch_stats, batch_size=size)
        np.testing.assert_allclose(latent, expected, atol=2e-6)


def test_draws_and_variances_are_those_of_the_data_loader(model: sx.SCALEXModel) -> None:
    draws = []
    for get in (model.get_latent_representation, lambda **kwargs: by_loader(model, **kwargs)):
        torch.manual_seed(3)
        draws.append(get(give_mean=False))
    np.testing.assert_allclose(*draws, atol=1e-5)
    assert not np.allclose(draws[0], model.get_latent_representation(), atol=0.1)
    pairs = (model.get_latent_representation(return_dist=True), by_loader(model, return_dist=True))
    for found, expected in zip(*pairs, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_wrong_arguments_are_not_swallowed(model: sx.SCALEXModel) -> None:
    for batch_stats in ("running", "batch"):
        with pytest.raises(TypeError, match="nonsense"):
            model.get_latent_representation(batch_stats=batch_stats, nonsense=1)
    with pytest.raises(IndexError):
        model.get_latent_representation(indices=[N_CELLS])


def test_moments_in_blocks_are_those_of_all_cells() -> None:
    rng = np.random.default_rng(0)
    h = torch.from_numpy(1e3 + rng.normal(size=(500, 6)))  # E[x²] − E[x]² would fail here
    batch = torch.from_numpy(rng.integers(4, size=500)) + 1  # none of batch 0
    parts = [Moments.of(*part, 5) for part in zip(h.split(7), batch.split(7), strict=True)]
    moments = parts[0]
    for part in parts[1:]:
        moments = moments.merge(part)
    assert moments.count[0] == 0
    for code in range(1, 5):
        own = h[batch == code]
        assert moments.count[code] == len(own)
        torch.testing.assert_close(moments.mean[code], own.mean(dim=0))
        torch.testing.assert_close(moments.variance()[code], own.var(dim=0, unbiased=False))
