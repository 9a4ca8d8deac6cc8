"""The decoder starts at the mean expression of the cells."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from anndata import AnnData
from conftest import QUIET, simulate_counts, small_model, trained_model
from scipy import sparse
from scipy.special import logit

import scalex_scvi as sx
from scalex_scvi.nn import Decoder
from scalex_scvi.train import PUBLISHED, mean_expression

STILL = {"max_epochs": 1, "lr": 1e-12, "weight_decay": 0.0} | QUIET
"""A training that moves no weight."""


def start_of(adata: AnnData) -> np.ndarray:
    return logit(np.asarray(adata.X.mean(axis=0)).ravel().clip(1e-4))


def bias(model: sx.SCALEXModel) -> np.ndarray:
    return model.module.decoder.norm.bias.detach().numpy().copy()


@pytest.mark.parametrize("form", ["csr", "csc", "dense", "backed"])
def test_mean_is_that_of_all_cells(prepared: AnnData, form: str, tmp_path: Path) -> None:
    expected = np.asarray(prepared.X.mean(axis=0)).ravel()
    if form == "csc":
        prepared.X = sparse.csc_matrix(prepared.X)
    elif form == "dense":
        prepared.X = prepared.X.toarray()
    elif form == "backed":
        prepared.write_h5ad(tmp_path / "cells.h5ad")
        prepared = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    mean = mean_expression(small_model(prepared).adata_manager)
    np.testing.assert_allclose(mean, expected, rtol=1e-5)


def test_of_many_cells_some_from_all_over_are_looked_at() -> None:
    adata = sx.pp.rna(simulate_counts(n_cells=3000), batch_key="batch", min_features=0)
    values = adata.X.toarray()
    values[:, 0] = np.linspace(0, 1, len(values))  # the first cells alone would mislead
    adata.X = sparse.csr_matrix(values)
    mean = mean_expression(small_model(adata).adata_manager, n_cells=1000)
    assert np.abs(mean - values.mean(axis=0)).mean() < 0.03
    np.testing.assert_allclose(mean[0], 0.5, atol=1e-3)


def test_the_first_training_starts_at_the_mean(prepared: AnnData) -> None:
    model = small_model(prepared)
    model.train(**STILL)
    np.testing.assert_allclose(bias(model), np.tile(start_of(prepared), (3, 1)), rtol=1e-3)


def test_the_published_start_is_an_argument_away(prepared: AnnData) -> None:
    assert PUBLISHED["start_at_mean"] is False
    model = small_model(prepared)
    model.train(start_at_mean=False, **STILL)
    np.testing.assert_allclose(bias(model), 0, atol=1e-6)


def test_a_later_training_goes_on_from_where_the_first_ended(
    prepared: AnnData, tmp_path: Path
) -> None:
    model = trained_model(prepared, lr=0.01)
    model.save(tmp_path / "model", save_anndata=True)
    for again in (model, sx.SCALEXModel.load(tmp_path / "model")):
        before = bias(again)
        again.train(**STILL)
        np.testing.assert_allclose(bias(again), before, atol=1e-6)


def test_a_query_starts_at_its_own_mean_and_leaves_the_reference_alone(counts: AnnData) -> None:
    new = counts[counts.obs["batch"] == "batch2"].copy()
    rest = counts[counts.obs["batch"] != "batch2"].copy()
    model = trained_model(sx.pp.rna(rest, batch_key="batch", min_features=0))
    query = sx.SCALEXModel.load_query_data(new, model)
    query.train(**STILL)
    np.testing.assert_array_equal(bias(query)[:2], bias(model))
    np.testing.assert_allclose(
        bias(query)[2],
        start_of(query.get_prepared()[query.adata.obs["batch"] == "batch2"]),
        rtol=1e-3,
        atol=1e-6,
    )


def test_few_minibatches_of_rare_values_are_enough() -> None:
    """At a mean of 0.005 a bias that starts at 0 is far from there after a few minibatches."""
    counts = simulate_counts(n_cells=600)
    rare = sparse.csr_matrix(counts.X.multiply(sparse.random(*counts.shape, 0.02, random_state=0)))
    rare.data[:] = 0.5
    losses = {}
    for start in (False, True):
        adata = AnnData(rare.copy(), obs=counts.obs.copy(), var=counts.var.copy())
        model = trained_model(adata, max_epochs=3, lr=2e-3, start_at_mean=start)
        losses[start] = model.history["reconstruction_loss_train"].to_numpy()[-1].item()
    assert losses[True] < 0.2 * losses[False]


def test_frozen_batches_keep_their_bias() -> None:
    decoder = Decoder(n_latent=2, n_output=3, n_batch=3)
    decoder.norm.freeze_domains(1)
    mean = torch.tensor([0.1, 0.2, 0.3])
    decoder.start_at(mean)
    started = torch.sigmoid(decoder.norm.bias.detach())
    np.testing.assert_array_equal(started[0], 0.5)
    np.testing.assert_allclose(started[1:], np.tile(mean, (2, 1)), rtol=1e-5)


def test_values_that_are_never_or_always_there_have_a_finite_start() -> None:
    decoder = Decoder(n_latent=2, n_output=2, n_batch=1)
    decoder.start_at(torch.tensor([0.0, 1.0]))
    np.testing.assert_allclose(torch.sigmoid(decoder.norm.bias.detach())[0], [1e-4, 1 - 1e-4])
