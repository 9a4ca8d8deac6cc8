"""Numbers out of their range are refused by name, at every entry point, before anything is done."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import QUIET, simulate_counts, small_model

import scalex_scvi as sx

pytestmark = pytest.mark.usefixtures("narrow")

FAST = {"min_features": 0, "ignore_umap": True, "progress_bar": False, "show": False}

OF_TRAINING = [
    ("max_steps", 0),
    ("max_steps", -1),
    ("max_steps", True),
    ("max_steps", 1.5),
    ("batch_size", 0),
    ("batch_size", 1),
    ("lr", -1),
    ("lr", 0),
    ("lr", math.inf),
    ("weight_decay", -1),
    ("kl_weight", math.nan),
    ("alignment_weight", -5),
]


@pytest.mark.parametrize(
    ("entry", "name", "value"),
    [
        (entry, *each)
        for entry in ("train", "integrate", "SCALEX")
        for each in OF_TRAINING
        if entry != "SCALEX" or each[0] not in ("weight_decay", "kl_weight")  # no arguments of it
    ],
)
def test_numbers_of_the_training(entry: str, name: str, value: Any, tmp_path: Path) -> None:
    if entry == "train":
        model = small_model(simulate_counts())
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            model.train(**{name: value}, **QUIET)
        assert not model.is_trained
        return
    if entry == "integrate":
        adata = simulate_counts()
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            sx.integrate(adata, "batch", **{name: value}, **QUIET)
        assert not adata.obsm
        return
    given = {"max_iteration" if name == "max_steps" else name: value}
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        sx.SCALEX(simulate_counts(), outdir=tmp_path / "out", **FAST, **given)
    assert not (tmp_path / "out" / "checkpoint").exists()


OF_TRAIN = [
    {"max_epochs": 0},
    {"max_epochs": -1},
    {"train_size": 0},
    {"train_size": 1.5},
    {"validation_size": -0.1},
    {"plan_kwargs": {"lr": -1}},
    {"plan_kwargs": {"alignment_weight": -5}},
]


@pytest.mark.parametrize("given", OF_TRAIN, ids=str)
def test_arguments_of_train(given: dict[str, Any]) -> None:
    model = small_model(simulate_counts())
    (name,) = given.get("plan_kwargs", given)
    with pytest.raises(ValueError, match=f"`{name}`"):
        model.train(**given, **QUIET)
    assert not model.is_trained


OF_OTHERS: dict[str, list[tuple[str, Any]]] = {
    "SCALEX": [
        ("target_sum", math.inf),
        ("target_sum", 0),
        ("min_cells", -1),
        ("min_features", -1),
        ("n_top_features", 0),
        ("n_top_features", -3),
        ("chunk_size", 0),
        ("min_gene_share", 30),
        ("fraction", 0),
        ("fraction", "0.5"),
        ("n_obs", 0),
        ("n_obs", 2.5),
        ("seed", -1),
    ],
    "rna": [
        ("target_sum", math.inf),
        ("target_sum", "x"),
        ("min_cells", -1),
        ("min_features", 1.5),
    ],
    "network": [
        ("n_hidden", 0),
        ("n_latent", -1),
        ("n_layers", 0),
        ("n_layers_decoder", -1),
        ("n_residual", -1),
        ("n_prior_components", 0),
        ("dropout_rate", 1.0),
        ("seed", "a"),
        ("seed", 1.5),
    ],
    "latent": [("batch_size", 0), ("batch_size", -1)],
    "imputed": [("batch_size", -1)],
    "impute": [("chunk_size", 0), ("chunk_size", 2.5), ("threshold", -1)],
    "expression": [("n_samples", 0), ("n_samples", 1.5), ("n_samples_overall", 0)],
    "labels": [("n_neighbors", 0), ("n_neighbors", 2.5), ("max_refused", 1), ("max_refused", "x")],
    "embed": [("n_neighbors", 1), ("max_cells", 3)],
    "purity": [("n_neighbors", 0)],
    "read_lazy": [("cells_in_block", 0)],
}


@pytest.fixture(scope="module")
def calls() -> dict[str, Callable[..., Any]]:
    model = small_model(simulate_counts())
    model.is_trained_ = True
    placed = simulate_counts()
    placed.obsm["latent"] = placed.X[:, :3].toarray()
    return {
        "SCALEX": lambda **given: sx.SCALEX(simulate_counts(), **(FAST | given)),
        "rna": lambda **given: sx.pp.rna(simulate_counts(), **given),
        "network": lambda **given: sx.SCALEXModel(model.adata, **given),
        "latent": model.get_latent_representation,
        "imputed": model.get_imputed_expression,
        "impute": model.impute,
        "expression": model.get_normalized_expression,
        "labels": lambda **given: sx.tl.label_scores(placed, placed, novelty="latent", **given),
        "embed": lambda **given: sx.tl.embed(placed.copy(), **given),
        "purity": lambda **given: sx.metrics.knn_purity(placed.X, placed.obs["celltype"], **given),
        "read_lazy": lambda **given: sx.io.read_lazy("none.h5ad", **given),
    }


@pytest.mark.parametrize(
    ("entry", "name", "value"),
    [(entry, *each) for entry, list_of in OF_OTHERS.items() for each in list_of],
)
def test_other_numbers(
    calls: dict[str, Callable[..., Any]], entry: str, name: str, value: Any
) -> None:
    with pytest.raises(ValueError, match=f"`{name}`"):
        calls[entry](**{name: value})


def test_the_cells_of_a_reference_are_no_reference() -> None:
    with pytest.raises(TypeError, match=r"`reference` is a 'AnnData'; allowed are a trained"):
        sx.map_query(simulate_counts(), simulate_counts())
