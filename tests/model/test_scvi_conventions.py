"""What scvi-tools' own public tests check of SCVI holds for the model, as far as it applies."""

from __future__ import annotations

import copy
import enum
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
from anndata import AnnData
from conftest import QUIET, simulate_counts
from scipy import sparse
from scvi.dataloaders import AnnDataLoader

import scalex_scvi as sx
from scalex_scvi import SCALEXModel

SMALL = {"n_hidden": 16, "n_latent": 5, "seed": 0}
FEW = {"max_epochs": 2} | QUIET
N_CELLS, N_GENES = 120, 40


@pytest.fixture
def adata() -> AnnData:
    adata = simulate_counts(N_CELLS, N_GENES)
    adata.layers["counts"] = adata.X.copy()
    return adata


def new_model(adata: AnnData, train: bool = True, **setup: Any) -> SCALEXModel:
    SCALEXModel.setup_anndata(adata, **({"batch_key": "batch"} | setup))
    model = SCALEXModel(adata, **SMALL)
    if train:
        model.train(**FEW)
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model that was trained once for all."""
    folder = tmp_path_factory.mktemp("conventions") / "model"
    new_model(simulate_counts(N_CELLS, N_GENES)).save(folder)
    return folder


@pytest.fixture
def model(saved: Path, adata: AnnData) -> SCALEXModel:
    """A trained model of a test's own."""
    return SCALEXModel.load(saved, adata=adata)


def new_query(n_cells: int = 60, batch: str | None = "new") -> AnnData:
    query = simulate_counts(n_cells, N_GENES, seed=4)
    if batch is not None:
        query.obs["batch"] = batch
    return query


# -- Setup


@pytest.mark.parametrize("batch_key", [None, "batch"])
@pytest.mark.parametrize("layer", [None, "counts"])
@pytest.mark.parametrize("labels_key", [None, "celltype"])
def test_setup_by_every_combination(
    adata: AnnData, batch_key: str | None, layer: str | None, labels_key: str | None
) -> None:
    model = new_model(adata, batch_key=batch_key, layer=layer, labels_key=labels_key)
    stats = model.adata_manager.summary_stats
    assert (stats.n_cells, stats.n_vars) == (N_CELLS, N_GENES)
    assert stats.n_batch == (1 if batch_key is None else 3)
    assert stats.n_labels == (1 if labels_key is None else 3)
    assert model.summary_stats == stats
    assert model.get_latent_representation().shape == (N_CELLS, 5)
    assert model.adata is adata


def test_registry(adata: AnnData) -> None:
    model = new_model(adata, train=False, layer="counts", labels_key="celltype")
    registry = model.registry
    assert registry["model_name"] == "SCALEXModel"
    assert registry["scvi_version"] == scvi.__version__
    expected = {"batch_key": "batch", "layer": "counts", "labels_key": "celltype"}
    assert expected.items() <= registry["setup_args"].items()
    assert not {"self", "cls", "adata"} & set(registry["setup_args"])
    assert {"X", "batch", "labels"} <= set(registry["field_registries"])
    fields = registry["field_registries"]
    assert list(fields["batch"]["state_registry"]["categorical_mapping"]) == [
        f"batch{i}" for i in range(3)
    ]
    assert fields["X"]["data_registry"]["attr_key"] == "counts"
    assert fields["X"]["summary_stats"]["n_vars"] == N_GENES
    manager = model.adata_manager
    np.testing.assert_array_equal(
        manager.get_from_registry("X").toarray(), adata.layers["counts"].toarray()
    )
    assert list(adata.obs["_scvi_batch"]) == list(adata.obs["batch"].cat.codes)
    assert model.get_setup_arg("batch_key") == "batch"


def test_registry_is_plain(adata: AnnData) -> None:
    registry = new_model(adata, train=False, n_top_features=20).registry
    allowed = (str, int, float, bool, type(None), np.generic, enum.Enum)

    def check(value: object, place: str) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                assert isinstance(key, str), place
                check(inner, f"{place}/{key}")
        elif isinstance(value, list | tuple):
            for inner in value:
                check(inner, place)
        elif isinstance(value, np.ndarray | pd.DataFrame):
            pass
        else:
            assert isinstance(value, allowed), (place, type(value))

    check(registry, "")
    copy.deepcopy(registry)


def test_setup_twice_takes_the_second(adata: AnnData) -> None:
    SCALEXModel.setup_anndata(adata, batch_key="batch")
    SCALEXModel.setup_anndata(adata, layer="counts")
    model = SCALEXModel(adata, **SMALL)
    assert model.summary_stats.n_batch == 1
    assert model.registry["setup_args"]["layer"] == "counts"
    model.train(**FEW)


def test_two_models_on_one_adata(adata: AnnData) -> None:
    first = new_model(adata, batch_key="batch")
    latent, imputed = first.get_latent_representation(), first.get_imputed_expression()
    second = new_model(adata, batch_key="celltype")
    second_latent = second.get_latent_representation()
    np.testing.assert_array_equal(first.get_latent_representation(), latent)
    pd.testing.assert_frame_equal(first.get_imputed_expression(), imputed)
    np.testing.assert_array_equal(second.get_latent_representation(), second_latent)
    assert first.batch_names == ["batch0", "batch1", "batch2"]
    assert second.batch_names == ["type0", "type1", "type2"]


def test_setup_by_scvi_does_not_disturb(adata: AnnData) -> None:
    first = new_model(adata)
    latent, imputed = first.get_latent_representation(), first.get_imputed_expression()
    scvi.model.SCVI.setup_anndata(adata, layer="counts", batch_key="celltype")
    other = scvi.model.SCVI(adata, n_hidden=8)
    other.train(1, **QUIET)
    other_latent = other.get_latent_representation()
    np.testing.assert_array_equal(first.get_latent_representation(), latent)
    pd.testing.assert_frame_equal(first.get_imputed_expression(), imputed)
    np.testing.assert_allclose(other.get_latent_representation(), other_latent, atol=1e-6)


def test_a_view_is_refused_with_scvi_s_message(adata: AnnData) -> None:
    view = adata[:60]
    with pytest.raises(ValueError) as of_scvi:
        scvi.model.SCVI.setup_anndata(view, batch_key="batch")
    with pytest.raises(ValueError) as ours:
        SCALEXModel.setup_anndata(adata[:60], batch_key="batch")
    assert str(ours.value) == str(of_scvi.value)


def test_a_model_needs_a_setup(adata: AnnData) -> None:
    with pytest.raises(ValueError, match="setup"):
        SCALEXModel(adata)


@pytest.mark.parametrize(
    ("setup", "name"),
    [
        ({"batch_key": "bach"}, "bach"),
        ({"layer": "conts"}, "conts"),
        ({"labels_key": "kind"}, "kind"),
    ],
    ids=["batch_key", "layer", "labels_key"],
)
def test_names_that_are_not_there(adata: AnnData, setup: dict, name: str) -> None:
    with pytest.raises((KeyError, ValueError), match=name):
        SCALEXModel.setup_anndata(adata, **setup)
    assert not [key for key in [*adata.uns, *adata.obs] if key.startswith("_scvi")]


def test_two_columns_of_one_name(adata: AnnData) -> None:
    adata.obs = pd.concat([adata.obs, adata.obs[["batch"]]], axis=1)
    with pytest.raises(ValueError, match=r"adata\.obs has 2 columns 'batch'\. Keep one: "):
        SCALEXModel.setup_anndata(adata, batch_key="batch")


USES_OF_LABELS = {
    "labels": lambda a: sx.label_transfer(a, a, "X_umap"),
    "scores": lambda a: sx.metrics.integration_scores(a, "X_umap"),
    "picture": lambda a: sx.pl.umap(a, "celltype", show=False),
    "query": lambda a: SCALEXModel.load_query_data(
        a, new_model(simulate_counts(N_CELLS, N_GENES), labels_key="celltype")
    ),
    "comparison": lambda a: new_model(a, layer="counts").differential_expression(
        groupby="celltype"
    ),
}


@pytest.mark.parametrize("use", USES_OF_LABELS)
def test_two_columns_of_labels(adata: AnnData, use: str) -> None:
    adata.obs = pd.concat([adata.obs, adata.obs[["celltype"]]], axis=1)
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(adata.n_obs, 2))
    with pytest.raises(ValueError, match=r"adata\.obs has 2 columns 'celltype'\. Keep one: "):
        USES_OF_LABELS[use](adata)


def test_a_latent_that_is_to_be_kept_is_written_first(model: SCALEXModel) -> None:
    with pytest.raises(KeyError, match=r"'X_latent_qzm' is not in adata\.obsm: \[\]\. Mean and"):
        model.minify_adata()
    model.adata.obsm["mean"] = model.get_latent_representation()
    with pytest.raises(KeyError, match=r"`use_latent_qzv_key` 'X_latent_qzv' is not in .*'mean'"):
        model.minify_adata(use_latent_qzm_key="mean")
    assert model.minified_data_type is None


def test_layers_that_there_are_are_named(adata: AnnData) -> None:
    with pytest.raises(KeyError, match=r"is not in adata\.layers: \['counts'\]\."):
        SCALEXModel.setup_anndata(adata, layer="conts")


# -- Other cells, copies, parts


def test_columns_of_the_registration_that_were_removed(model: SCALEXModel) -> None:
    adata, expected = model.adata, model.get_latent_representation()
    adata.obs = adata.obs[["batch", "celltype"]]
    for use in (model.get_latent_representation, model.get_elbo, model.get_normalized_expression):
        with pytest.raises(ValueError, match=r"'_scvi_batch'\] is gone: .* Register them again"):
            use()
    SCALEXModel.setup_anndata(adata, batch_key="batch")
    np.testing.assert_array_equal(model.get_latent_representation(), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [(slice(30), "40 genes .* has 30 now"), (slice(None, None, -1), "its genes in another order")],
    ids=["fewer", "another order"],
)
def test_genes_that_were_changed_in_place(
    model: SCALEXModel, adata: AnnData, change: slice, message: str
) -> None:
    """As scanpy's filter does. With as many genes the latent would be another, silently."""
    adata._inplace_subset_var(np.arange(N_GENES)[change])
    for use in (
        model.get_latent_representation,
        model.get_imputed_expression,
        model.get_elbo,
        lambda: model.train(**FEW),
    ):
        with pytest.raises(ValueError, match=message):
            use()


def test_genes_and_cells_may_get_other_names(model: SCALEXModel, adata: AnnData) -> None:
    expected = model.get_latent_representation()
    adata.var_names = [f"ENSG{i}" for i in range(N_GENES)]
    adata.obs_names = [f"barcode{i}" for i in range(N_CELLS)]
    np.testing.assert_array_equal(model.get_latent_representation(), expected)


def test_a_copy_of_adata_after_training(adata: AnnData) -> None:
    model = new_model(adata)
    latent = model.get_latent_representation()
    np.testing.assert_array_equal(model.get_latent_representation(adata.copy()), latent)
    np.testing.assert_array_equal(model.get_latent_representation(adata), latent)
    assert model.adata is adata
    model.train(**FEW)


def test_parts_of_adata(model: SCALEXModel, adata: AnnData) -> None:
    latent = model.get_latent_representation()
    one = (adata.obs["batch"] == "batch1").to_numpy()
    for rows in (slice(20, 50), one, np.arange(N_CELLS)[::-1]):
        part = adata[rows]
        np.testing.assert_allclose(model.get_latent_representation(part), latent[rows], atol=1e-6)
        np.testing.assert_allclose(
            model.get_latent_representation(part.copy()), latent[rows], atol=1e-6
        )
    imputed = model.get_imputed_expression()
    pd.testing.assert_frame_equal(
        model.get_imputed_expression(adata[one].copy()), imputed[one], atol=1e-5
    )


def test_parts_of_adata_without_batches(adata: AnnData) -> None:
    model = new_model(adata, batch_key=None)
    latent = model.get_latent_representation()
    part = model.get_latent_representation(adata[:40])
    np.testing.assert_allclose(part, latent[:40], atol=1e-6)


def test_unregistered_cells(model: SCALEXModel) -> None:
    other = new_query(batch=None)
    assert model.get_latent_representation(other).shape == (60, 5)
    assert np.isfinite(model.get_elbo(other))
    assert model.get_imputed_expression(other).shape == (60, N_GENES)


def test_categories_in_another_order(model: SCALEXModel, adata: AnnData) -> None:
    imputed = model.get_imputed_expression()
    other = AnnData(adata.X.copy(), obs=adata.obs[["batch"]].copy(), var=adata.var.copy())
    other.obs["batch"] = other.obs["batch"].cat.reorder_categories(["batch2", "batch0", "batch1"])
    pd.testing.assert_frame_equal(model.get_imputed_expression(other), imputed, atol=1e-5)
    other.obs["batch"] = other.obs["batch"].astype(str)
    pd.testing.assert_frame_equal(model.get_imputed_expression(other), imputed, atol=1e-5)


def test_new_batch_on_the_reference_itself(model: SCALEXModel) -> None:
    query = new_query()
    latent = model.get_latent_representation(query)
    expected = SCALEXModel.load_query_data(query.copy(), model).get_latent_representation()
    np.testing.assert_allclose(latent, expected, atol=1e-6)
    for call in (model.get_imputed_expression, model.get_elbo, model.get_reconstruction_error):
        with pytest.raises(ValueError, match=r"does not know the batches \['new'\]"):
            call(query)
    # The model and the query are usable as before.
    np.testing.assert_array_equal(model.get_latent_representation(query), latent)
    assert model.batch_names == ["batch0", "batch1", "batch2"]


def test_query_of_one_cell(model: SCALEXModel) -> None:
    query = new_query()[:1].copy()
    projected = SCALEXModel.load_query_data(query, model)
    assert projected.adata is query
    latent = projected.get_latent_representation()
    assert latent.shape == (1, 5)
    assert np.isfinite(latent).all()
    np.testing.assert_allclose(model.get_latent_representation(query), latent, atol=1e-6)
    known = new_query(batch="batch1")[:1].copy()
    assert np.isfinite(model.get_imputed_expression(known)).to_numpy().all()


def test_genes_of_a_query_in_another_order(model: SCALEXModel) -> None:
    query = new_query()
    expected = SCALEXModel.load_query_data(query, model).get_latent_representation()
    order = np.random.default_rng(0).permutation(N_GENES)
    other = query[:, order].copy()
    projected = SCALEXModel.load_query_data(other, model)
    np.testing.assert_allclose(projected.get_latent_representation(), expected, atol=1e-5)
    np.testing.assert_allclose(model.get_latent_representation(other), expected, atol=1e-5)
    assert list(projected.adata.var_names) == list(other.var_names)


def test_extra_and_missing_genes_of_a_query(model: SCALEXModel) -> None:
    query = new_query()
    expected = SCALEXModel.load_query_data(query, model).get_latent_representation()
    extra = AnnData(
        sparse.csr_matrix(np.ones((60, 7), np.float32)),
        obs=query.obs[[]].copy(),
        var=pd.DataFrame(index=[f"extra{i}" for i in range(7)]),
    )
    more = ad.concat([extra, query], axis=1, merge="first")
    projected = SCALEXModel.load_query_data(more, model)
    assert projected.adata.n_vars == N_GENES + 7
    assert projected.summary_stats.n_vars == N_GENES
    np.testing.assert_allclose(projected.get_latent_representation(), expected, atol=1e-5)
    fewer = query[:, 5:].copy()
    padded = SCALEXModel.prepare_query_anndata(query[:, 5:].copy(), model, inplace=False)
    expected = SCALEXModel.load_query_data(fewer, model).get_latent_representation()
    for same in (
        SCALEXModel.load_query_data(padded, model).get_latent_representation(),
        model.get_latent_representation(fewer),
        model.get_latent_representation(padded),
    ):
        np.testing.assert_allclose(same, expected, atol=1e-5)


@pytest.mark.parametrize(
    "names",
    [[0, 1, 2], [10, 2, 33], [True, False], ["b", "a"]],
    ids=["integers", "unsorted integers", "boolean", "text"],
)
@pytest.mark.parametrize("categorical", [True, False], ids=["categorical", "plain"])
def test_batch_columns_of_any_type(
    adata: AnnData, tmp_path: Path, names: list, categorical: bool
) -> None:
    column = pd.Series(np.resize(names, N_CELLS), index=adata.obs_names)
    adata.obs["batch"] = column.astype("category") if categorical else column
    model = new_model(adata)
    assert model.summary_stats.n_batch == len(names)
    imputed = model.get_imputed_expression(transform_batch=names[0])
    latent = model.get_latent_representation()
    model.save(tmp_path / "m", save_anndata=True)
    loaded = SCALEXModel.load(tmp_path / "m")
    np.testing.assert_allclose(loaded.get_latent_representation(), latent, atol=1e-6)
    pd.testing.assert_frame_equal(
        loaded.get_imputed_expression(transform_batch=names[0]), imputed, atol=1e-5
    )
    query = adata[:50].copy()
    np.testing.assert_allclose(
        SCALEXModel.load_query_data(query, loaded).get_latent_representation(),
        latent[:50],
        atol=1e-6,
    )
    assert model.get_imputed_expression(query).shape == (50, N_GENES)


# -- Saving and loading


def test_save_and_load(model: SCALEXModel, adata: AnnData, tmp_path: Path) -> None:
    latent = model.get_latent_representation()
    folder = str(tmp_path / "m")
    model.save(folder, save_anndata=True, prefix="SCALEX_")
    with pytest.raises(ValueError, match="exist"):
        model.save(folder)
    model.save(folder, overwrite=True, save_anndata=True, prefix="SCALEX_")
    for given in (None, adata, adata.copy()):
        loaded = SCALEXModel.load(folder, adata=given, prefix="SCALEX_")
        np.testing.assert_allclose(loaded.get_latent_representation(), latent, atol=1e-6)
        assert loaded.is_trained
        for key, values in model.history.items():
            np.testing.assert_array_equal(loaded.history[key].to_numpy(), values.to_numpy())
        assert loaded.summary_stats == model.summary_stats
        assert list(loaded.get_var_names()) == list(adata.var_names)
    loaded.train(**FEW)
    assert len(loaded.history["train_loss"]) == 4
    with pytest.raises((FileNotFoundError, ValueError)):
        SCALEXModel.load(folder, adata=adata)
    with pytest.raises((FileNotFoundError, ValueError), match="nowhere"):
        SCALEXModel.load(tmp_path / "nowhere", adata=adata)


def test_load_without_cells(model: SCALEXModel, adata: AnnData, tmp_path: Path) -> None:
    latent = model.get_latent_representation()
    model.save(tmp_path / "m")
    for given in (None, False):
        loaded = SCALEXModel.load(tmp_path / "m", adata=given)
        assert loaded.adata is None
        np.testing.assert_allclose(loaded.get_latent_representation(adata), latent, atol=1e-6)
    with pytest.raises(ValueError, match="adata"):
        SCALEXModel.load(tmp_path / "m", adata=False).get_latent_representation()


def test_train_without_cells(model: SCALEXModel, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    loaded = SCALEXModel.load(tmp_path / "m")
    with pytest.raises(ValueError, match=r"loaded without cells.*SCALEXModel.load\(folder, adata"):
        loaded.train(**FEW)


def test_load_an_untrained_model(
    adata: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is saved with a warning, and is no reference."""
    model = new_model(adata, train=False)
    assert not model.is_trained
    model.save(tmp_path / "m")
    assert [(r.levelname, r.message[:27]) for r in caplog.records] == [
        ("WARNING", "The model was never trained")
    ]
    loaded = SCALEXModel.load(tmp_path / "m", adata=adata)
    assert not loaded.is_trained
    for reference in (loaded, tmp_path / "m"):
        with pytest.raises(RuntimeError, match="untrained model"):
            SCALEXModel.load_query_data(adata.copy(), reference)
        with pytest.raises(RuntimeError, match="untrained model"):
            sx.map_query(adata.copy(), reference)
    loaded.train(**FEW)
    assert loaded.is_trained
    caplog.clear()
    loaded.save(tmp_path / "trained")
    assert not caplog.records


def test_load_with_other_cells(model: SCALEXModel, adata: AnnData, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    wrong = simulate_counts(N_CELLS, N_GENES)
    wrong.var_names = [f"other{i}" for i in range(N_GENES)]
    with pytest.raises(ValueError, match="genes"):
        SCALEXModel.load(tmp_path / "m", adata=wrong)
    without = simulate_counts(N_CELLS, N_GENES)
    del without.obs["batch"]
    with pytest.raises(KeyError, match="batch"):
        SCALEXModel.load(tmp_path / "m", adata=without)
    # An object of the same cells under another layer set is the same to the model.
    del adata.layers["counts"]
    SCALEXModel.load(tmp_path / "m", adata=adata).get_latent_representation()


def test_load_with_cells_of_new_batches_is_refused_or_named(
    model: SCALEXModel, tmp_path: Path
) -> None:
    """scvi-tools refuses categories that are not in the registry."""
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match="new"):
        SCALEXModel.load(tmp_path / "m", adata=new_query())


def test_another_class_cannot_load(model: SCALEXModel, adata: AnnData, tmp_path: Path) -> None:
    class OtherModel(SCALEXModel):
        pass

    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match="SCALEXModel.*OtherModel"):
        OtherModel.load(tmp_path / "m", adata=adata)
    scvi.model.SCVI.setup_anndata(adata)
    scvi.model.SCVI(adata, n_hidden=8).save(tmp_path / "scvi")
    with pytest.raises(ValueError):
        SCALEXModel.load(tmp_path / "scvi", adata=adata)


def test_registry_of_a_saved_model(model: SCALEXModel, tmp_path: Path) -> None:
    model.save(tmp_path / "m", prefix="p_")
    registry = SCALEXModel.load_registry(str(tmp_path / "m"), prefix="p_")
    assert registry["model_name"] == "SCALEXModel"
    assert registry["setup_args"]["batch_key"] == "batch"


def test_view_setup_args_of_a_saved_model(
    model: SCALEXModel, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model.save(tmp_path / "m")
    SCALEXModel.view_setup_args(str(tmp_path / "m"))
    assert "batch_key" in capsys.readouterr().out


def test_views_of_the_setup(model: SCALEXModel, capsys: pytest.CaptureFixture) -> None:
    model.view_anndata_setup()
    model.view_anndata_setup(hide_state_registries=True)
    assert "batch" in capsys.readouterr().out
    model.adata_manager.view_registry()
    assert "Summary Statistics" in capsys.readouterr().out


# -- Training


def test_history(adata: AnnData) -> None:
    model = new_model(adata)
    assert model.is_trained
    expected = {"train_loss", "elbo_train", "reconstruction_loss_train", "kl_local_train"}
    assert expected <= set(model.history)
    assert all(isinstance(values, pd.DataFrame) for values in model.history.values())
    assert len(model.history["elbo_train"]) == 2
    model.train(3, **QUIET)
    assert len(model.history["elbo_train"]) == 5


def test_validation(adata: AnnData) -> None:
    model = new_model(adata, train=False)
    model.train(2, train_size=0.5, validation_size=0.25, check_val_every_n_epoch=1, **QUIET)
    sets = [model.train_indices, model.validation_indices, model.test_indices]
    assert [len(s) for s in sets] == [60, 30, 30]
    assert sorted(np.concatenate(sets)) == list(range(N_CELLS))
    assert {"elbo_validation", "validation_loss", "reconstruction_loss_validation"} <= set(
        model.history
    )
    assert len(model.history["elbo_validation"]) == 2
    model = new_model(adata, train=False)
    model.train(2, train_size=0.5, **QUIET)
    assert len(model.validation_indices) == 60


def test_check_val_every_n_epoch(adata: AnnData) -> None:
    model = new_model(adata, train=False)
    model.train(4, train_size=0.5, check_val_every_n_epoch=2, **QUIET)
    assert len(model.history["elbo_validation"].dropna()) == 2


@pytest.mark.parametrize(
    "wanted",
    [{"check_val_every_n_epoch": 1}, {"enable_checkpointing": True}, {"fast_dev_run": True}],
    ids=lambda wanted: next(iter(wanted)),
)
def test_nothing_to_validate_on_is_no_obstacle(
    adata: AnnData,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wanted: dict[str, Any],
) -> None:
    monkeypatch.setattr(scvi.settings, "logging_dir", str(tmp_path))
    model = new_model(adata, train=False)
    with caplog.at_level(logging.WARNING):
        model.train(2, **wanted, **QUIET)
    assert model.is_trained
    is_said = "has no effect: all cells are trained on. .*`train_size=0.9`"
    assert bool(re.search(is_said, caplog.text)) is ("fast_dev_run" not in wanted)


def test_early_stopping(adata: AnnData) -> None:
    model = new_model(adata, train=False)
    model.train(
        300,
        train_size=0.9,
        early_stopping=True,
        early_stopping_patience=2,
        lr=0.05,
        lr_schedule="constant",
        **QUIET,
    )
    assert len(model.history["elbo_train"]) < 300
    assert "elbo_validation" in model.history
    model = new_model(adata, train=False)
    model.train(3, train_size=0.9, early_stopping=True, **QUIET)
    names = [type(callback).__name__ for callback in model.trainer.callbacks]
    assert any("EarlyStopping" in name for name in names)


def test_early_stopping_without_validation_is_not_silent(
    adata: AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    model = new_model(adata, train=False)
    with caplog.at_level(logging.WARNING):
        model.train(1, early_stopping=True, **QUIET)
    assert "train_size=0.9" in caplog.text


def test_training_arguments(adata: AnnData) -> None:
    model = new_model(adata, train=False)
    model.train(1, batch_size=32, plan_kwargs={"lr": 1e-3, "weight_decay": 0.0}, **QUIET)
    assert model.trainer.global_step == N_CELLS // 32
    assert model.trainer.optimizers[0].defaults["lr"] == 1e-3
    model.train(1, datasplitter_kwargs={"drop_last": False}, **QUIET)
    model.train(1, gradient_clip_val=1.0, devices=1, **QUIET)
    model.train(np.int64(1), batch_size=np.int64(32), **QUIET)
    assert model.trainer.global_step == N_CELLS // 32
    with pytest.raises(TypeError, match="learning_rate"):
        model.train(1, plan_kwargs={"learning_rate": 1e-3}, **QUIET)
    with pytest.raises(TypeError, match="max_epoch"):
        model.train(max_epoch=1, **QUIET)


def test_no_train_size(adata: AnnData) -> None:
    new_model(adata, train=False).train(1, train_size=None, **QUIET)


def test_external_indexing(adata: AnnData) -> None:
    model = new_model(adata, train=False)
    order = np.random.default_rng(0).permutation(N_CELLS)
    sets = [order[:70], order[70:100], order[100:]]
    model.train(1, datasplitter_kwargs={"external_indexing": sets}, **QUIET)
    found = [model.train_indices, model.validation_indices, model.test_indices]
    for indices, expected in zip(found, sets, strict=True):
        np.testing.assert_array_equal(np.sort(indices), np.sort(expected))


# -- Inference


def test_inference_arguments(model: SCALEXModel, adata: AnnData) -> None:
    latent = model.get_latent_representation()
    for indices in ([5, 1, 70], np.array([3, 3]), np.arange(N_CELLS) % 2 == 0):
        some = model.get_latent_representation(indices=indices)
        np.testing.assert_allclose(some, latent[indices], atol=1e-6)
        some = model.get_latent_representation(adata, indices)
        np.testing.assert_allclose(some, latent[indices], atol=1e-6)
    np.testing.assert_allclose(model.get_latent_representation(batch_size=7), latent, atol=1e-6)
    mean, var = model.get_latent_representation(give_mean=False, return_dist=True)
    np.testing.assert_allclose(mean, latent, atol=1e-6)
    assert (var > 0).all()
    draw = model.get_latent_representation(give_mean=False, mc_samples=10)
    assert draw.shape == latent.shape
    assert not np.allclose(draw, latent)


@pytest.mark.parametrize("name", ["get_elbo", "get_reconstruction_error"])
def test_likelihoods(model: SCALEXModel, adata: AnnData, name: str) -> None:
    method: Callable[..., Any] = getattr(model, name)
    for value in (method(), method(adata), method(indices=[1, 2, 3]), method(batch_size=10)):
        number = value["reconstruction_loss"] if isinstance(value, dict) else value
        assert np.isfinite(float(number))


def test_the_marginal_likelihood_is_refused_by_name(model: SCALEXModel) -> None:
    with pytest.raises(NotImplementedError, match="SCALEX has no marginal likelihood: it is"):
        model.get_marginal_ll(n_mc_samples=3)


def test_a_data_loader_instead_of_adata(model: SCALEXModel) -> None:
    loader = AnnDataLoader(model.adata_manager, batch_size=32)
    np.testing.assert_allclose(
        model.get_latent_representation(dataloader=loader),
        model.get_latent_representation(),
        atol=1e-5,
    )
    assert np.isfinite(float(model.get_elbo(dataloader=loader)))


def test_device_moves(model: SCALEXModel, tmp_path: Path) -> None:
    latent = model.get_latent_representation()
    model.to_device("cpu")
    assert model.device.type == "cpu"
    np.testing.assert_allclose(model.get_latent_representation(), latent, atol=1e-6)
    model.save(tmp_path / "m")
    loaded = SCALEXModel.load(tmp_path / "m", adata=model.adata, accelerator="cpu", device=1)
    np.testing.assert_allclose(loaded.get_latent_representation(), latent, atol=1e-6)


# -- Kinds of matrices


def _as(kind: str, adata: AnnData, folder: Path) -> AnnData:
    """The same counts in another matrix."""
    dense = adata.X.toarray()
    made = {
        "csr": sparse.csr_matrix,
        "csr_array": sparse.csr_array,
        "csc": sparse.csc_matrix,
        "dense": np.asarray,
        "int64": lambda x: sparse.csr_matrix(x.astype(np.int64)),
        "int32 dense": lambda x: x.astype(np.int32),
        "uint16 dense": lambda x: x.astype(np.uint16),
        "float64": lambda x: sparse.csr_matrix(x.astype(np.float64)),
        "float64 dense": lambda x: x.astype(np.float64),
        "Fortran order": np.asfortranarray,
        "backed csr": sparse.csr_matrix,
        "backed csc": sparse.csc_matrix,
        "backed dense": np.asarray,
        "dask": sparse.csr_matrix,
        "dask dense": np.asarray,
    }[kind](dense)
    other = AnnData(made, obs=adata.obs[["batch", "celltype"]].copy(), var=adata.var.copy())
    path = folder / "cells.h5ad"
    if "backed" in kind or "dask" in kind:
        other.write_h5ad(path)
    if "backed" in kind:
        return ad.read_h5ad(path, backed="r")
    if "dask" in kind:
        pytest.importorskip("dask")
        return sx.io.read_lazy(path, cells_in_block=50)
    return other


KINDS = [
    "csr_array",
    "csc",
    "dense",
    "int64",
    "int32 dense",
    "uint16 dense",
    "float64",
    "float64 dense",
    "Fortran order",
    "backed csr",
    "backed csc",
    "backed dense",
    "dask",
    "dask dense",
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_matrix_gives_the_same_latent(
    model: SCALEXModel, adata: AnnData, tmp_path: Path, kind: str
) -> None:
    latent = model.get_latent_representation()
    other = _as(kind, adata, tmp_path)
    np.testing.assert_allclose(model.get_latent_representation(other), latent, atol=1e-6)
    again = _as(kind, adata, tmp_path / "..") if "backed" not in kind else other
    projected = SCALEXModel.load_query_data(again, model)
    np.testing.assert_allclose(projected.get_latent_representation(), latent, atol=1e-6)
    # Setup and training, too: the same model.
    SCALEXModel.setup_anndata(other, batch_key="batch")
    trained = SCALEXModel(other, **SMALL)
    trained.train(**FEW)
    np.testing.assert_allclose(trained.get_latent_representation(), latent, atol=1e-4)


# -- Features and profiles


def _listed(names: pd.Index) -> str:
    Path("genes.txt").write_text("\n".join(names))
    return "genes.txt"


SELECTIONS: dict[str, Callable[[pd.Index], object]] = {
    "number": lambda names: 20,
    "number of numpy": lambda names: np.int64(20),
    "list": list,
    "array": np.asarray,
    "index": lambda names: names,
    "file": lambda names: _listed(names),
    "highly_variable": lambda names: "highly_variable",
}


@pytest.mark.parametrize("how", SELECTIONS)
def test_selected_features(
    adata: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = list(adata.var_names[3:23])
    adata.var["highly_variable"] = adata.var_names.isin(wanted if how == "highly_variable" else [])
    chosen = SELECTIONS[how](pd.Index(wanted))
    model = new_model(adata, n_top_features=chosen)
    genes = list(model.get_var_names())
    assert len(genes) == model.summary_stats.n_vars == 20
    if "number" not in how:
        assert set(genes) == set(wanted)
    assert model.adata is adata
    assert adata.n_vars == N_GENES
    latent = model.get_latent_representation()
    assert list(model.get_imputed_expression().columns) == genes
    model.save(tmp_path / "m", save_anndata=True)
    for given in (None, adata.copy()):
        loaded = SCALEXModel.load(tmp_path / "m", adata=given)
        np.testing.assert_allclose(loaded.get_latent_representation(), latent, atol=1e-6)
    query = AnnData(adata.X.copy(), obs=adata.obs[["batch"]].copy(), var=adata.var[[]].copy())
    projected = SCALEXModel.load_query_data(query[:, ::-1].copy(), loaded)
    np.testing.assert_allclose(projected.get_latent_representation(), latent, atol=1e-5)


def test_selection_that_cannot_be(adata: AnnData) -> None:
    for wrong in ("highly_variable", ["no such gene"]):
        with pytest.raises((KeyError, ValueError), match="highly_variable|no such gene"):
            SCALEXModel.setup_anndata(adata, n_top_features=wrong)
        assert not [key for key in [*adata.uns, *adata.obs] if key.startswith("_scvi")]


@pytest.mark.parametrize("dtype", ["bool", "boolean"])
def test_a_mask_is_no_selection(adata: AnnData, dtype: str) -> None:
    mask = pd.Series(np.arange(N_GENES) < 9, index=adata.var_names).astype(dtype)
    with pytest.raises(TypeError, match=r"`n_top_features` is a mask.*adata\.var_names\[mask\]"):
        SCALEXModel.setup_anndata(adata, n_top_features=mask)


def test_number_of_numpy_selects_as_a_number(adata: AnnData) -> None:
    records = []
    for number in (20, np.int64(20), "20"):
        SCALEXModel.setup_anndata(adata, batch_key="batch", n_top_features=number)
        records.append(SCALEXModel(adata, **SMALL).preprocessing)
    assert records[0] == records[1] == records[2]


@pytest.mark.parametrize("mark", [np.nan, None, "False"])
def test_genes_without_a_clear_mark_are_not_highly_variable(adata: AnnData, mark: object) -> None:
    adata.var["highly_variable"] = pd.Series([True, mark] * 20, index=adata.var_names, dtype=object)
    select = {"batch_key": "batch", "n_top_features": "highly_variable"}
    with pytest.raises(ValueError, match="must be True or False for each gene") as error:
        SCALEXModel.setup_anndata(adata, **select)
    (advice,) = re.findall("`(adata.var.*)`", str(error.value))
    exec(advice, {"adata": adata})
    SCALEXModel.setup_anndata(adata, **select)
    assert list(SCALEXModel(adata, **SMALL).get_var_names()) == list(adata.var_names[::2])


def test_prepared_cells_are_a_copy_of_cells_that_came_prepared(adata: AnnData) -> None:
    scaled = sx.pp.batch_scale(adata, "batch")
    before = scaled.X.toarray()
    SCALEXModel.setup_anndata(scaled, batch_key="batch")
    prepared = SCALEXModel(scaled, **SMALL).get_prepared()
    np.testing.assert_array_equal(prepared.X.toarray(), before)
    prepared.X *= 2
    np.testing.assert_array_equal(scaled.X.toarray(), before)


@pytest.mark.parametrize("profile", ["ATAC", "ADT"])
def test_other_profiles(adata: AnnData, tmp_path: Path, profile: str) -> None:
    counts = adata.X.toarray()
    if profile == "ATAC":
        adata.X = sparse.csr_matrix((counts > np.median(counts, axis=0)) * 2.0, dtype=np.float32)
        adata.X[:, 0] = 1
    else:
        adata.X = counts * 10
    model = new_model(adata, profile=profile)
    latent = model.get_latent_representation()
    assert np.isfinite(latent).all()
    assert model.registry["setup_args"]["profile"] == profile
    values = model.get_prepared().X
    assert values.min() >= 0
    assert values.max() <= 1
    model.save(tmp_path / "m")
    query = AnnData(adata.X.copy(), obs=adata.obs[["batch"]].copy(), var=adata.var[[]].copy())
    projected = SCALEXModel.load_query_data(query, tmp_path / "m")
    np.testing.assert_allclose(projected.get_latent_representation(), latent, atol=1e-5)


# -- Minified mode


def _minified(model: SCALEXModel, **kwargs: Any) -> None:
    qzm, qzv = model.get_latent_representation(give_mean=False, return_dist=True)
    model.adata.obsm["X_latent_qzm"], model.adata.obsm["X_latent_qzv"] = qzm, qzv
    model.minify_adata(**kwargs)


def test_minified(model: SCALEXModel, adata: AnnData, tmp_path: Path) -> None:
    latent, counts = model.get_latent_representation(), adata.X.toarray().copy()
    imputed = model.get_imputed_expression()
    _minified(model)
    assert model.minified_data_type == "latent_posterior_parameters"
    assert model.adata is not adata
    np.testing.assert_array_equal(adata.X.toarray(), counts)
    assert not any("minify" in key for key in adata.uns)
    np.testing.assert_allclose(model.get_latent_representation(), latent, atol=1e-6)
    pd.testing.assert_frame_equal(model.get_imputed_expression(), imputed, atol=1e-5)
    with pytest.raises(ValueError, match="minified"):
        model.train(**FEW)
    with pytest.raises(ValueError, match="minified"):
        model.get_reconstruction_error()
    some = model.get_latent_representation(indices=[4, 2])
    np.testing.assert_allclose(some, latent[[4, 2]], atol=1e-6)

    model.save(tmp_path / "m", save_anndata=True)
    for given in (None, model.adata.copy()):
        loaded = SCALEXModel.load(tmp_path / "m", adata=given)
        assert loaded.minified_data_type == "latent_posterior_parameters"
        np.testing.assert_allclose(loaded.get_latent_representation(), latent, atol=1e-6)
        pd.testing.assert_frame_equal(loaded.get_imputed_expression(), imputed, atol=1e-5)


def test_minified_then_loaded_with_counts(
    model: SCALEXModel, adata: AnnData, tmp_path: Path
) -> None:
    latent = model.get_latent_representation()
    _minified(model)
    model.save(tmp_path / "m", save_anndata=True)
    loaded = SCALEXModel.load(tmp_path / "m", adata=adata)
    assert loaded.minified_data_type is None
    np.testing.assert_allclose(loaded.get_latent_representation(), latent, atol=1e-6)
    loaded.train(**FEW)


def test_minified_with_counts(model: SCALEXModel, adata: AnnData) -> None:
    latent = model.get_latent_representation()
    _minified(model, minified_data_type="latent_posterior_parameters_with_counts")
    np.testing.assert_array_equal(model.adata.X.toarray(), adata.X.toarray())
    np.testing.assert_allclose(model.get_latent_representation(), latent, atol=1e-6)


def test_likelihood_of_a_model_minified_with_counts(model: SCALEXModel) -> None:
    error = model.get_reconstruction_error()["reconstruction_loss"]
    _minified(model, minified_data_type="latent_posterior_parameters_with_counts")
    found = model.get_reconstruction_error()["reconstruction_loss"]
    np.testing.assert_allclose(found, error, rtol=0.05)  # but for the noise


def test_minified_reference_takes_queries(model: SCALEXModel, tmp_path: Path) -> None:
    query = new_query()
    expected = SCALEXModel.load_query_data(query, model).get_latent_representation()
    _minified(model)
    for given in (model, tmp_path / "m"):
        if given is not model:
            model.save(given, save_anndata=True)
        fresh = new_query()
        projected = SCALEXModel.load_query_data(fresh, given)
        assert projected.minified_data_type is None
        np.testing.assert_allclose(projected.get_latent_representation(), expected, atol=1e-6)
