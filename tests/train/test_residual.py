"""The decoder has a nonlinear part where many cells have many types, and only there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from conftest import QUIET, small_model, trained_model

import scalex_scvi as sx
from scalex_scvi.nn import Decoder
from scalex_scvi.train import PUBLISHED, default_prior_components, default_residual
from scalex_scvi.train._residual import component_share

STILL = {"max_epochs": 1, "lr": 1e-12, "weight_decay": 0.0} | QUIET
"""A training that moves no weight."""


def cells_of(n_types: int, n_cells: int = 3_000) -> AnnData:
    """Values in [0, 1] of equally many cells of types, each of four genes of its own."""
    rng = np.random.default_rng(0)
    celltype = np.arange(n_cells) % n_types
    x = rng.random((n_cells, 80)) * 0.05
    for i in range(4):
        x[np.arange(n_cells), 4 * celltype + i] += 0.5
    x += np.arange(n_cells)[:, None] % 7 % 2 * 0.2  # batches differ by more than types
    obs = pd.DataFrame({"batch": np.arange(n_cells) % 7 % 2}, index=np.arange(n_cells).astype(str))
    return AnnData(x.astype(np.float32), obs=obs.astype(str))


def n_prior_components_of(model: sx.SCALEXModel) -> int:
    prior = model.module.prior
    return 1 if prior is None else len(prior.mean)


def residual_of(model: sx.SCALEXModel) -> int:
    part = model.module.decoder.residual
    return 0 if part is None else part.linear.in_features


@pytest.fixture(scope="module")
def many_types() -> AnnData:
    return cells_of(20)


@pytest.mark.parametrize(
    ("n_types", "n_cells", "expected"), [(20, 3_000, 128), (20, 2_999, 0), (4, 3_000, 0)]
)
def test_many_cells_of_many_types_get_it(n_types: int, n_cells: int, expected: int) -> None:
    model = small_model(cells_of(n_types, n_cells))
    assert residual_of(model) == default_residual(model.adata_manager) == expected
    assert f"n_residual: {expected}," in model._model_summary_string
    n_components = default_prior_components(expected)
    assert n_components == (32 if expected else 1)
    assert n_prior_components_of(model) == n_components
    assert f"n_prior_components: {n_components}" in model._model_summary_string


def test_the_prior_is_what_is_asked_for_whatever_the_decoder(many_types: AnnData) -> None:
    asked = {"n_prior_components": 3}
    assert n_prior_components_of(small_model(many_types, n_prior_components=1)) == 1
    assert n_prior_components_of(small_model(many_types, **asked)) == 3
    assert n_prior_components_of(small_model(many_types, n_residual=0, **asked)) == 3
    assert n_prior_components_of(small_model(many_types, n_layers_decoder=1)) == 1


def test_the_share_is_that_of_principal_components_within_batches(many_types: AnnData) -> None:
    x, batch = many_types.X.astype(float), many_types.obs["batch"].to_numpy()
    for name in np.unique(batch):
        x[batch == name] -= x[batch == name].mean(axis=0)
    deviations = np.linalg.svd(x, compute_uv=False)
    manager = small_model(many_types).adata_manager
    found = component_share(manager, n_cells=3_000)
    np.testing.assert_allclose(found, deviations[9] / deviations[0], rtol=1e-4)
    np.testing.assert_allclose(component_share(manager), found, atol=0.1)  # fewer cells: as good


@pytest.mark.parametrize("n_genes", [1, 9])
def test_fewer_than_ten_components_need_none(many_types: AnnData, n_genes: int) -> None:
    assert residual_of(small_model(many_types[:, :n_genes].copy())) == 0


def test_cells_that_are_all_alike_need_none(many_types: AnnData) -> None:
    alike = many_types.copy()
    alike.X[:] = 0.5
    assert component_share(small_model(alike).adata_manager) == 0


def test_it_starts_at_zero_and_changes_no_other_weight(many_types: AnnData) -> None:
    with_it, without = (small_model(many_types, n_residual=n, seed=3) for n in (None, 0))
    of_with, of_without = (m.module.state_dict() for m in (with_it, without))
    assert of_without.keys() == {
        name for name in of_with if "residual" not in name and not name.startswith("prior.")
    }
    for name, value in of_without.items():
        torch.testing.assert_close(of_with[name], value, rtol=0, atol=0)
    z, batch = torch.randn(8, 5), torch.zeros(8)
    expected = without.module.decoder(z, batch)
    torch.testing.assert_close(with_it.module.decoder(z, batch), expected, rtol=0, atol=0)


def test_it_is_added_before_the_normalization() -> None:
    decoder = Decoder(2, 3, n_batch=1, n_residual=4).eval()
    torch.nn.init.normal_(decoder.residual.linear.weight)
    z = torch.randn(5, 2)
    hidden = decoder.residual.hidden
    units = torch.relu(hidden.norm(hidden.linear(z)))
    expected = decoder.linear(z) + units @ decoder.residual.linear.weight.T
    torch.testing.assert_close(decoder(z, torch.zeros(5)), decoder.norm(expected, torch.zeros(5)))


def test_the_published_recipe_is_linear(many_types: AnnData) -> None:
    """It takes the part away before the first training: as if the model had been built so."""
    assert not PUBLISHED.residual
    with_it, without = (small_model(many_types, n_residual=n) for n in (None, 0))
    assert residual_of(with_it) == 128
    for model in (with_it, without):
        model.train(recipe=PUBLISHED, max_epochs=1, **QUIET)
    assert residual_of(with_it) == 0
    assert n_prior_components_of(with_it) == 1
    assert "n_residual: 0," in with_it._model_summary_string
    assert "n_prior_components: 1" in with_it._model_summary_string
    np.testing.assert_array_equal(
        with_it.get_latent_representation(), without.get_latent_representation()
    )


def test_a_trained_one_stays(many_types: AnnData) -> None:
    model = small_model(many_types)
    model.train(**STILL)
    model.train(residual=False, **STILL)
    assert residual_of(model) == 128
    assert n_prior_components_of(model) == 32


@pytest.mark.parametrize("n_residual", [0, None])
def test_a_mixture_that_was_asked_for_stays_with_the_published_recipe(
    many_types: AnnData, n_residual: int | None
) -> None:
    model = small_model(many_types, n_residual=n_residual, n_prior_components=3)
    model.train(recipe=PUBLISHED, max_epochs=1, **QUIET)
    assert (residual_of(model), n_prior_components_of(model)) == (0, 3)


def test_a_model_that_is_loaded_untrained_takes_the_published_recipe(
    many_types: AnnData, tmp_path: Path
) -> None:
    model = small_model(many_types)
    model.save(tmp_path / "model")
    again = sx.SCALEXModel.load(tmp_path / "model", adata=many_types.copy())
    again.train(recipe=PUBLISHED, max_epochs=1, **QUIET)
    assert (residual_of(again), n_prior_components_of(again)) == (0, 1)


def test_a_saved_model_has_it_whatever_the_cells(many_types: AnnData, tmp_path: Path) -> None:
    """Also in a query of a few cells, whose training leaves it as it is."""
    model = trained_model(many_types, max_epochs=1)
    model.save(tmp_path / "model")
    few = many_types[:200].copy()
    few.obs["batch"] = "new"
    query = sx.SCALEXModel.load_query_data(few, str(tmp_path / "model"))
    expected = model.module.state_dict()
    query.train(max_epochs=1, **QUIET)
    shared = [name for name in expected if not name.startswith("decoder.norm")]
    assert any("residual" in name for name in shared)
    assert any(name.startswith("prior.") for name in shared)
    for name in shared:
        torch.testing.assert_close(query.module.state_dict()[name], expected[name])
    assert expected["decoder.residual.linear.weight"].abs().max() > 0


@pytest.mark.parametrize(
    ("n_residual", "saved_later"),
    [(0, ("n_residual", "n_prior_components")), (128, ("n_prior_components",))],
)
def test_a_model_of_before_is_as_it_was_whatever_the_cells(
    many_types: AnnData, tmp_path: Path, n_residual: int, saved_later: tuple[str, ...]
) -> None:
    """Linear at first, and with a standard normal prior beside any decoder then."""
    model = small_model(many_types, n_residual=n_residual, n_prior_components=1)
    model.train(**STILL)
    for name in saved_later:
        del model.init_params_["non_kwargs"][name]  # as earlier versions saved it
    model.save(tmp_path / "model")
    again = sx.SCALEXModel.load(tmp_path / "model", adata=many_types.copy())
    assert (residual_of(again), n_prior_components_of(again)) == (n_residual, 1)
    np.testing.assert_array_equal(
        again.get_latent_representation(), model.get_latent_representation()
    )


@pytest.mark.parametrize(
    ("n_residual", "recipe", "expected"),
    [
        (0, {}, 5e-4),
        (128, {}, 1e-4),
        (128, {"weight_decay": 2e-4}, 2e-4),
        (128, {"recipe": PUBLISHED}, 5e-4),
    ],
)
def test_the_penalty_is_weaker_with_it(
    many_types: AnnData, n_residual: int, recipe: dict[str, object], expected: float
) -> None:
    model = small_model(many_types, n_residual=n_residual)
    model.train(max_epochs=1, **recipe, **QUIET)
    (optimizer,) = model.trainer.optimizers
    assert optimizer.param_groups[0]["weight_decay"] == expected
