"""Models of data modules of others: the transform and the training of the same cells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from anndata import AnnData
from conftest import QUIET, simulate_counts
from lightning.pytorch import LightningDataModule
from torch import Tensor

import scalex_scvi as sx
from scalex_scvi import SCALEXModel

SMALL = {"n_hidden": 16, "n_latent": 3}
FEW = {"max_epochs": 3} | QUIET
N_CELLS = 150


class Counts(LightningDataModule):
    """Counts of an AnnData in minibatches, by the contract of scvi-tools' data modules.

    As theirs, it makes what a model takes in `on_before_batch_transfer`, and in the loader for
    inference.
    """

    def __init__(self, adata: AnnData, batch_key: str | None = "batch", size: int = 40) -> None:
        super().__init__()
        own = AnnData(adata.X.astype(np.float32), obs=adata.obs.copy(), var=adata.var)
        scvi.model.SCVI.setup_anndata(own, batch_key=batch_key)
        manager = scvi.model.SCVI(own, n_hidden=2).adata_manager
        self.registry = dict(manager.registry) | {"setup_method_name": "setup_datamodule"}
        self.x = own.X.toarray()
        self.batch = manager.get_from_registry("batch").reshape(-1)
        self.size = size
        self.n_obs = self.n_train = adata.n_obs
        self.n_val = 0
        self.epoch = 0

    def row(self, rows: np.ndarray) -> dict[str, Tensor]:
        return {"counts": torch.from_numpy(self.x[rows]), "of": torch.from_numpy(self.batch[rows])}

    def loader(self, order: np.ndarray) -> Loader:
        return Loader(self, [order[i : i + self.size] for i in range(0, len(order), self.size)])

    def train_dataloader(self) -> Loader:
        return self.loader(np.random.default_rng(7).permutation(len(self.x)))

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> dict[str, Any]:
        return {"X": batch["counts"], "batch": batch["of"].reshape(-1, 1), "labels": 0}

    def inference_dataloader(self) -> Iterator[dict[str, Any]]:
        for batch in self.loader(np.arange(len(self.x))):
            yield self.on_before_batch_transfer(batch, 0)


class Loader:
    def __init__(self, module: Counts, rows: list[np.ndarray]) -> None:
        self.module = module
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (self.module.row(rows) for rows in self.rows)


class Values(Counts):
    """The same minibatches with values that were prepared before, for a model of an AnnData."""

    def __init__(self, adata: AnnData, values: np.ndarray, **kwargs: Any) -> None:
        super().__init__(adata, **kwargs)
        self.x = values


def of_module(module: Any, seed: int | None = None, **setup: Any) -> SCALEXModel:
    return SCALEXModel(registry=SCALEXModel.setup_datamodule(module, **setup), seed=seed, **SMALL)


def of_cells(adata: AnnData, batch_key: str | None = "batch", **setup: Any) -> SCALEXModel:
    SCALEXModel.setup_anndata(adata, batch_key=batch_key, **setup)
    return SCALEXModel(adata, **SMALL)


@pytest.fixture(scope="module")
def cells() -> AnnData:
    return simulate_counts(N_CELLS)


@pytest.fixture(scope="module")
def trained(cells: AnnData) -> SCALEXModel:
    model = of_module(Counts(cells), n_top_features=30)
    model.train(datamodule=Counts(cells), **FEW)
    return model


@pytest.mark.parametrize("size", [7, N_CELLS])
@pytest.mark.parametrize(
    "setup",
    [
        {},
        {"n_top_features": 20},
        {"n_top_features": ["gene3", "gene1"]},
        {"profile": "ADT"},
        {"profile": "ATAC", "n_top_features": 40},
        {"batch_key": None},
        {"new_batches": "own"},
    ],
    ids=str,
)
def test_the_transform_is_that_of_the_cells(
    cells: AnnData, setup: dict[str, Any], size: int
) -> None:
    setup = dict(setup)
    key = {"batch_key": setup.pop("batch_key", "batch")}
    right = of_cells(cells.copy(), **key, **setup)
    model = of_module(Counts(cells, size=size, **key), **setup)
    assert model.preprocessing == right.preprocessing
    pd.testing.assert_frame_equal(model.preprocessing.scale, right.preprocessing.scale)
    assert model.batch_names == right.batch_names
    assert model.batch_key == right.batch_key
    assert list(model.get_var_names()) == list(right.get_var_names())
    assert dict(model.summary_stats) == dict(right.summary_stats)
    assert model.adata is None


@pytest.mark.parametrize("setup", [{}, {"n_top_features": 20}, {"profile": "ADT"}], ids=str)
def test_the_training_is_that_of_the_cells_bit_for_bit(
    cells: AnnData, setup: dict[str, Any]
) -> None:
    right = of_cells(cells.copy(), **setup)
    values = right.get_prepared().X.toarray()
    right.train(datamodule=Values(cells, values), remove_offsets=False, **FEW)
    model = of_module(Counts(cells), **setup)
    model.train(datamodule=Counts(cells), remove_offsets=False, **FEW)
    for name, value in right.module.state_dict().items():
        assert torch.equal(model.module.state_dict()[name], value), name
    pd.testing.assert_series_equal(
        model.history["train_loss"].squeeze(), right.history["train_loss"].squeeze()
    )
    latent = model.get_latent_representation(dataloader=Counts(cells).inference_dataloader())
    np.testing.assert_allclose(latent, right.get_latent_representation(), atol=1e-6)


def test_offsets_are_removed_as_those_of_the_cells(cells: AnnData) -> None:
    """Up to rounding: the module gives the cells in another order."""
    right, model = of_cells(cells.copy()), of_module(Counts(cells))
    right.train(datamodule=Values(cells, right.get_prepared().X.toarray()), **FEW)
    model.train(datamodule=Counts(cells), **FEW)
    for name, value in right.module.state_dict().items():
        torch.testing.assert_close(model.module.state_dict()[name], value, rtol=1e-4, atol=1e-5)


class Opened(Counts):
    """Has its cells between ``setup`` and ``teardown`` alone, as files that are opened."""

    is_open = True  # before the training, which looks at its length

    def setup(self, stage: str) -> None:
        self.is_open = True

    def teardown(self, stage: str) -> None:
        self.is_open = False

    def train_dataloader(self) -> Loader:
        assert self.is_open
        return super().train_dataloader()


def test_a_module_that_is_torn_down_is_opened_again_for_the_offsets(cells: AnnData) -> None:
    model, other = of_module(Counts(cells)), of_module(Counts(cells))
    module = Opened(cells)
    model.train(datamodule=module, **FEW)
    other.train(datamodule=Counts(cells), **FEW)
    for name, value in other.module.state_dict().items():
        assert torch.equal(model.module.state_dict()[name], value), name
    assert not module.is_open


def test_length_and_network_go_by_the_cells() -> None:
    """What is asked of an AnnData's cells is asked of the module's."""
    many = simulate_counts(3_200, 40)
    right = of_cells(many.copy())
    registry = SCALEXModel.setup_datamodule(Counts(many, size=500))
    seen = registry["field_registries"]["X"]["state_registry"]["seen_in_module"]
    assert seen["n_residual"] == sx.train.default_residual(right.adata_manager)
    assert seen["share_of_nonzero"] == sx.train.share_of_nonzero(right.adata_manager)
    np.testing.assert_array_equal(seen["mean"], sx.train.mean_expression(right.adata_manager))
    assert (
        SCALEXModel(registry=registry, **SMALL).init_params_["non_kwargs"]["n_residual"]
        == (right.init_params_["non_kwargs"]["n_residual"])
    )
    model = SCALEXModel(registry=registry, **SMALL)
    module = Counts(many, size=1_600)
    model.train(datamodule=module, max_steps=7, **QUIET)
    assert len(model.history["train_loss"]) == 4  # epochs of two minibatches


def test_offsets_are_removed_where_one_batch_comes_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of each batch some cells are looked at, not those of the first batch alone."""
    monkeypatch.setattr("scalex_scvi.model._remaining_offsets.MOST_CELLS", 70)
    cells = simulate_counts(200, n_batches=2)

    class Sorted(Counts):
        def train_dataloader(self) -> Loader:
            return self.loader(np.argsort(self.batch, kind="stable"))

    heads = []
    for remove in (True, False):
        model = of_module(Sorted(cells), seed=0)
        model.train(datamodule=Sorted(cells), remove_offsets=remove, seed=0, **FEW)
        heads.append(model.module.encoder.mean_head.weight)
    assert not torch.equal(*heads)


def test_minibatches_and_cells_are_taken_alike(trained: SCALEXModel, cells: AnnData) -> None:
    def loader() -> Iterator[dict[str, Any]]:
        return Counts(cells).inference_dataloader()

    np.testing.assert_allclose(
        trained.get_latent_representation(dataloader=loader()),
        trained.get_latent_representation(cells.copy()),
        atol=1e-6,
    )
    whole = cells.copy()
    right = SCALEXModel.load_query_data(whole, trained)
    assert isinstance(right.adata, AnnData)
    kwargs = {"transform_batch": "batch1", "n_samples": 2}
    np.testing.assert_allclose(
        trained.get_normalized_expression(dataloader=loader(), **kwargs),
        right.get_normalized_expression(**kwargs),
        rtol=1e-4,
        atol=1e-7,
    )
    values = Values(cells, right.get_prepared().X.toarray())  # for a model of an AnnData
    error = trained.get_reconstruction_error(dataloader=loader())
    expected = right.get_reconstruction_error(dataloader=values.inference_dataloader())
    assert {name: float(error[name]) for name in error} == pytest.approx(
        {name: float(expected[name]) for name in expected}, rel=1e-6
    )
    expected = right.get_elbo(dataloader=values.inference_dataloader())
    assert float(trained.get_elbo(dataloader=loader())) == pytest.approx(float(expected), rel=1e-6)


def test_saved_loaded_and_queried(trained: SCALEXModel, cells: AnnData, tmp_path: Path) -> None:
    trained.save(tmp_path / "model")
    model = SCALEXModel.load(tmp_path / "model")
    assert model.adata is None
    np.testing.assert_array_equal(
        model.get_latent_representation(dataloader=Counts(cells).inference_dataloader()),
        trained.get_latent_representation(dataloader=Counts(cells).inference_dataloader()),
    )
    query = simulate_counts(40, seed=3)
    query.obs["batch"] = pd.Categorical(["new"] * 40)
    mapped = SCALEXModel.load_query_data(query[:, ::-1].copy(), tmp_path / "model")
    assert mapped.batch_names == [*trained.batch_names, "new"]
    values = sx.pp.prepare_query(query, trained.preprocessing, batch_key="batch").X.toarray()
    with torch.inference_mode():
        right = trained.module.encoder(torch.from_numpy(values))
    np.testing.assert_allclose(mapped.get_latent_representation(), right[0].numpy(), atol=1e-5)
    again = SCALEXModel.load(tmp_path / "model", adata=cells.copy())
    assert again.adata is not None
    again.train(**FEW)  # with its cells it is a model of an AnnData


def changed(module: Counts, **changes: Any) -> Counts:
    """The same with other minibatches: each value is a function of what the model is given."""
    original = module.on_before_batch_transfer

    def other(batch: Any, index: int) -> dict[str, Any]:
        tensors = original(batch, index)
        return tensors | {name: change(tensors) for name, change in changes.items()}

    module.on_before_batch_transfer = other
    return module


FORMS = {
    "sparse": {"X": lambda tensors: tensors["X"].to_sparse_csr()},
    "whole numbers": {"X": lambda tensors: tensors["X"].long()},
    "an array": {"X": lambda tensors: tensors["X"].numpy()},
    "batches in a row": {"batch": lambda tensors: tensors["batch"].reshape(-1)},
}


@pytest.mark.parametrize("changes", FORMS.values(), ids=FORMS)
def test_minibatches_of_other_forms(
    trained: SCALEXModel, cells: AnnData, changes: dict[str, Any]
) -> None:
    model = of_module(changed(Counts(cells), **changes), n_top_features=30)
    model.train(datamodule=changed(Counts(cells), **changes), **FEW)
    np.testing.assert_array_equal(
        model.get_latent_representation(
            dataloader=changed(Counts(cells), **changes).inference_dataloader()
        ),
        trained.get_latent_representation(dataloader=Counts(cells).inference_dataloader()),
    )


def test_a_module_without_batches_and_one_with_names_by_number(cells: AnnData) -> None:
    module = changed(Counts(cells, batch_key=None), batch=lambda tensors: None)
    model = of_module(module)
    model.train(datamodule=module, **FEW)
    assert model.batch_names == ["0"]
    module = Counts(cells)
    state = module.registry["field_registries"]["batch"]["state_registry"]
    state["categorical_mapping"] = {"batch2": 2, "batch0": 0, "batch1": 1}  # as lamindb has it
    assert of_module(module).batch_names == ["batch0", "batch1", "batch2"]


def test_the_last_cell_alone_is_left_out(cells: AnnData) -> None:
    """Batch normalization has no variance of one cell."""
    module = Counts(cells, size=N_CELLS - 1)
    model = of_module(module)
    model.train(datamodule=module, **FEW)
    assert np.isfinite(model.history["train_loss"].to_numpy(float)).all()


def test_a_module_that_can_shuffle_is_told_to(cells: AnnData) -> None:
    """As by scvi-tools' training: `AnnbatchDataModule` gives cells as they lie otherwise."""
    module, told = Counts(cells), []
    module.set_split = lambda **split: told.append(split)
    of_module(module).train(datamodule=module, **FEW)
    assert told == [
        {
            "train_size": 1.0,
            "validation_size": None,
            "shuffle_set_split": True,
            "batch_size": None,
        }
    ]


def test_nothing_is_held(cells: AnnData) -> None:
    held = set(SCALEXModel._setup_adata_manager_store)
    module = Counts(cells)
    before = {key: value for key, value in module.registry.items() if key != "field_registries"}
    of_module(module)
    assert set(SCALEXModel._setup_adata_manager_store) == held
    assert {key: module.registry[key] for key in before} == before


def with_registry(module: Counts, **arguments: Any) -> Counts:
    module.registry["setup_args"] = module.registry["setup_args"] | arguments
    return module


def fractions(tensors: dict[str, Any]) -> Tensor:
    return torch.log1p(tensors["X"]) * 0.7


ERRORS: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "no module": (lambda m: m.x, {}, TypeError, "'ndarray' without.*inference_dataloader"),
    "covariates": (
        lambda m: with_registry(m, categorical_covariate_keys=["donor"]),
        {},
        ValueError,
        r"categorical_covariate_keys`=\['donor'\].*no covariates",
    ),
    "highly variable": (
        lambda m: m,
        {"n_top_features": "highly_variable"},
        ValueError,
        "number, or a list",
    ),
    "unknown feature": (lambda m: m, {"n_top_features": ["CD3"]}, ValueError, "CD3"),
    "logarithms": (lambda m: changed(m, X=fractions), {}, ValueError, "does not look like counts"),
    "negative": (lambda m: changed(m, X=lambda t: -t["X"]), {}, ValueError, "negative"),
    "other features": (
        lambda m: changed(m, X=lambda t: t["X"][:, :5]),
        {},
        ValueError,
        "has 5 features.*names 60",
    ),
    "unknown batch": (
        lambda m: changed(m, batch=lambda t: t["batch"] + 1),
        {},
        ValueError,
        "from 0 to 2",
    ),
    "no expression": (lambda m: changed(m, X=lambda t: None), {}, TypeError, "without 'X'"),
}


@pytest.mark.parametrize(("make", "setup", "error", "says"), ERRORS.values(), ids=ERRORS)
def test_mistakes_are_named(
    cells: AnnData, make: Any, setup: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=f"(?s){says}"):
        SCALEXModel.setup_datamodule(make(Counts(cells)), **setup)


def test_cells_that_were_looked_at_are_not_those_of_the_training(
    cells: AnnData, trained: SCALEXModel, tmp_path: Path
) -> None:
    """scvi-tools makes the first cells those of a model that has none."""
    trained.save(tmp_path / "model")
    states = []
    for looks in (False, True):
        model = SCALEXModel.load(tmp_path / "model")
        if looks:
            model.get_normalized_expression(cells[:60].copy())
            assert model.adata is not None
        model.train(datamodule=Counts(cells), **FEW)
        states.append(model.module.state_dict())
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value), name


@pytest.mark.parametrize("loader", [iter(()), []], ids=["no length", "empty"])
def test_a_loader_to_train_on_that_is_none(cells: AnnData, loader: Any) -> None:
    module = Counts(cells)
    model = of_module(module)
    module.train_dataloader = lambda: loader
    with pytest.raises(ValueError, match="without minibatches, or without a length"):
        model.train(datamodule=module, **FEW)


def test_an_empty_module(cells: AnnData) -> None:
    module = Counts(cells)
    module.inference_dataloader = lambda: iter(())
    with pytest.raises(ValueError, match="gives no cells"):
        SCALEXModel.setup_datamodule(module)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"batch_size": 32}, "`batch_size` cannot be had with `datamodule`"),
        ({"train_size": 0.9}, "`train_size` cannot"),
        ({"validation_size": 0.1}, "`validation_size` cannot"),
        ({"datamodule": None}, "`datamodule` is None, and must be"),
        ({"checkpoint": "here.ckpt"}, "whose order of cells is not known"),
    ],
)
def test_what_is_up_to_the_module(cells: AnnData, arguments: dict[str, Any], says: str) -> None:
    module = Counts(cells)
    with pytest.raises(ValueError, match=says):
        of_module(module).train(**({"datamodule": module} | FEW | arguments))


def test_a_registry_without_a_transform(cells: AnnData) -> None:
    """That of the module itself, as scvi-tools' models take it."""
    module = Counts(cells)
    model = SCALEXModel(registry=module.registry, **SMALL)
    with pytest.raises(ValueError, match=r"no transform.*setup_datamodule\(datamodule\)"):
        model.train(datamodule=module, **FEW)


def test_values_are_not_transformed_twice(trained: SCALEXModel, cells: AnnData) -> None:
    values = trained.manager_of(cells.copy())
    with pytest.raises(ValueError, match="hold values in.*counts"):
        trained.get_latent_representation(
            dataloader=scvi.dataloaders.AnnDataLoader(values, batch_size=40)
        )


def test_the_module_of_scvi_tools(cells: AnnData) -> None:
    """Theirs that can be had without a database: of annbatch, in scvi-tools 1.5."""
    annbatch = pytest.importorskip("annbatch")
    if not hasattr(scvi.dataloaders, "AnnbatchDataModule"):
        pytest.skip("scvi-tools 1.5 has AnnbatchDataModule")
    # `setup_annbatch` of scvi-tools 1.5.1 gives annbatch an argument that it no longer takes.
    reading = {"chunk_size": 8, "preload_nchunks": 16, "preload_to_gpu": False}
    loader = annbatch.Loader(batch_size=64, **reading)
    loader.add_adata(cells.copy())
    module = scvi.dataloaders.AnnbatchDataModule(
        loader, batch_key="batch", var_names=list(cells.var_names), **reading
    )
    model = of_module(module)
    right = of_cells(cells.copy())
    assert model.preprocessing == right.preprocessing
    pd.testing.assert_frame_equal(model.preprocessing.scale, right.preprocessing.scale)
    model.train(datamodule=module, **FEW)
    np.testing.assert_allclose(
        model.get_latent_representation(dataloader=module.inference_dataloader()),
        model.get_latent_representation(cells.copy()),
        atol=1e-6,
    )
