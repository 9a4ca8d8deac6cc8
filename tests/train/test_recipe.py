"""Recipes: numbers of a training under a name."""

from __future__ import annotations

from typing import Any

import pytest
from anndata import AnnData
from conftest import QUIET, small_model

from scalex_scvi.train import DEFAULT, PUBLISHED, QUICK, Recipe


def test_a_recipe_is_a_mapping_too() -> None:
    assert dict(QUICK) == {name: getattr(QUICK, name) for name in Recipe.names()}
    assert Recipe(**QUICK) == QUICK


def test_one_number_may_differ() -> None:
    assert PUBLISHED.but(max_steps=10) == Recipe(**(dict(PUBLISHED) | {"max_steps": 10}))
    with pytest.raises(TypeError, match="no 'max_step'. Did you mean 'max_steps'"):
        DEFAULT.but(max_step=1)


def test_what_is_no_recipe_is_refused(prepared: AnnData) -> None:
    assert Recipe.of({"max_steps": 5}) == DEFAULT.but(max_steps=5)
    model = small_model(prepared)
    with pytest.raises(TypeError, match="`recipe` is 'quick'; allowed are .*QUICK"):
        model.train(recipe="quick", **QUIET)
    assert not model.is_trained


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_steps", 0),
        ("max_steps", -1),
        ("max_steps", 1.5),
        ("batch_size", 0),
        ("batch_size", 1),
        ("lr", 0),
        ("lr", -1e-3),
        ("lr", float("nan")),
        ("weight_decay", float("inf")),
        ("alignment_weight", -5),
        ("kl_weight", "much"),
        ("lr_schedule", "linear"),
        ("early_stopping_patience", 0),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        DEFAULT.but(**{name: value})


def test_a_model_trained_by_mistake_stays_untrained(prepared: AnnData) -> None:
    model = small_model(prepared)
    with pytest.raises(ValueError, match="`max_steps` must be"):
        model.train(max_steps=0, **QUIET)
    assert not model.is_trained_


def test_early_stopping_watches_the_validation_cells(prepared: AnnData) -> None:
    model = small_model(prepared)
    model.train(max_epochs=3, train_size=0.8, early_stopping=True, **QUIET)
    assert "elbo_validation" in model.history


def test_early_stopping_without_effect_says_so(
    prepared: AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    small_model(prepared).train(max_epochs=1, early_stopping=True, **QUIET)
    assert "`early_stopping=True` has no effect" in caplog.text
