"""load_query_data: new cells into the same space, without training and without touching it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anndata import AnnData
from conftest import QUIET, simulate_counts, small_model, trained_model

import scalex_scvi as sx


@pytest.fixture
def query() -> AnnData:
    """Counts of two new batches and a known one."""
    adata = simulate_counts(90, seed=3)
    names = {"batch1": "new1", "batch2": "new2"}
    adata.obs["batch"] = adata.obs["batch"].cat.rename_categories(names)
    del adata.obs["celltype"]
    return adata


def test_latent_at_once_from_counts(model: sx.SCALEXModel, query: AnnData) -> None:
    before = query.copy()
    projected = sx.SCALEXModel.load_query_data(query, model)
    latent = projected.get_latent_representation()
    assert latent.shape == (90, 5)
    assert list(projected.adata.obs_names) == list(query.obs_names)
    assert projected.batch_names == ["batch0", "batch1", "batch2", "new1", "new2"]
    assert np.isfinite(projected.get_latent_representation(batch_stats="batch")).all()
    # The encoder is the reference's.
    assert projected.adata is query
    x = torch.from_numpy(projected.get_prepared().X.toarray())
    with torch.inference_mode():
        expected, _ = model.module.encoder(x)
    np.testing.assert_allclose(latent, expected, atol=1e-5)
    # The user's object is as it was.
    np.testing.assert_array_equal(query.X.toarray(), before.X.toarray())
    assert all(key.startswith("_scvi") for key in query.uns)
    assert [c for c in query.obs if not c.startswith("_scvi")] == list(before.obs)


def test_reference_cells_project_onto_themselves(model: sx.SCALEXModel, counts: AnnData) -> None:
    latent = model.get_latent_representation()
    projected = sx.SCALEXModel.load_query_data(counts, model)
    np.testing.assert_array_equal(projected.get_latent_representation(), latent)
    some = sx.SCALEXModel.load_query_data(counts[20:50].copy(), model)
    np.testing.assert_allclose(some.get_latent_representation(), latent[20:50], atol=1e-6)


@pytest.mark.parametrize(
    ("own", "like"), [("Batch1", True), ("batch1 ", True), ("batch_1", False), ("batch11", False)]
)
def test_batches_called_nearly_as_those_of_the_reference_are_named(
    model: sx.SCALEXModel, query: AnnData, caplog: pytest.LogCaptureFixture, own: str, like: bool
) -> None:
    query.obs["batch"] = query.obs["batch"].cat.rename_categories({"new1": own})
    projected = sx.SCALEXModel.load_query_data(query, model)
    said = [record.getMessage() for record in caplog.records if "nearly" in record.getMessage()]
    assert len(said) == like
    assert not like or (f"{own!r} ('batch1')" in said[0] and "same names" in said[0])
    assert own in projected.batch_names


def test_from_a_folder_given_as_string_or_path(
    model: sx.SCALEXModel, query: AnnData, tmp_path: object
) -> None:
    model.save(tmp_path / "m")
    expected = sx.SCALEXModel.load_query_data(query, model).get_latent_representation()
    for folder in (tmp_path / "m", str(tmp_path / "m")):
        projected = sx.SCALEXModel.load_query_data(query, folder)
        np.testing.assert_array_equal(projected.get_latent_representation(), expected)


def test_training_changes_the_new_rows_and_nothing_else(
    model: sx.SCALEXModel, query: AnnData
) -> None:
    reference = {name: value.clone() for name, value in model.module.state_dict().items()}
    reference_latent = model.get_latent_representation()
    projected = sx.SCALEXModel.load_query_data(query, model)
    latent = projected.get_latent_representation()
    little = sx.SCALEXModel.load_query_data(query, model)
    little.train(max_epochs=1, lr=0.02, **QUIET)
    error = little.get_reconstruction_error()["reconstruction_loss"]

    projected.train(max_epochs=20, lr=0.02, weight_decay=0.1, **QUIET)

    assert np.array_equal(projected.get_latent_representation(), latent)
    state = projected.module.state_dict()
    for name, value in reference.items():
        assert torch.equal(state[name][: len(value)] if value.ndim else state[name], value), name
    fresh = sx.SCALEXModel.load_query_data(query, model).module.decoder.norm
    for name in ("weight", "bias", "running_mean", "running_var"):
        new = state[f"decoder.norm.{name}"][3:]
        assert not torch.isclose(new, getattr(fresh, name)[3:]).all(dim=1).any(), name
    assert projected.get_reconstruction_error()["reconstruction_loss"] < error
    assert len(projected.history["train_loss"]) == 20
    assert np.array_equal(model.get_latent_representation(), reference_latent)
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, reference[name]), name


def test_trained_query_survives_saving_and_training_again(
    model: sx.SCALEXModel, query: AnnData, tmp_path: object
) -> None:
    projected = sx.SCALEXModel.load_query_data(query, model)
    projected.train(max_epochs=2, **QUIET)
    projected.save(tmp_path / "q", save_anndata=True)
    loaded = sx.SCALEXModel.load(tmp_path / "q")
    before = {name: value.clone() for name, value in loaded.module.state_dict().items()}
    loaded.train(max_epochs=3, lr=0.02, **QUIET)
    for name, value in loaded.module.state_dict().items():
        if name.startswith("decoder.norm"):
            assert torch.equal(value[:3], before[name][:3]), name
            assert not torch.equal(value[3:], before[name][3:]), name
        else:
            assert torch.equal(value, before[name]), name
    assert len(loaded.history["train_loss"]) == 5


def test_a_failed_training_leaves_the_query_usable(model: sx.SCALEXModel, query: AnnData) -> None:
    projected = sx.SCALEXModel.load_query_data(query, model)
    latent = projected.get_latent_representation()
    with pytest.raises(TypeError, match="Unknown training plan argument"):
        projected.train(max_epochs=1, plan_kwargs={"nonsense": 1}, **QUIET)
    np.testing.assert_array_equal(projected.get_latent_representation(), latent)


def test_a_query_can_be_the_reference_of_the_next(
    model: sx.SCALEXModel, query: AnnData, counts: AnnData
) -> None:
    first = sx.SCALEXModel.load_query_data(query, model)
    third = simulate_counts(60, n_batches=1, seed=9)
    third.obs["batch"] = "third"
    second = sx.SCALEXModel.load_query_data(third, first)
    assert second.batch_names[-2:] == ["new2", "third"]
    assert second.get_imputed_expression(units="log_normalized").shape == (60, 60)
    back = sx.SCALEXModel.load_query_data(counts, second)
    np.testing.assert_array_equal(
        back.get_latent_representation(), model.get_latent_representation()
    )


def test_nothing_to_train_for_known_batches(
    model: sx.SCALEXModel, counts: AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    projected = sx.SCALEXModel.load_query_data(counts, model)
    projected.train(max_epochs=1, **QUIET)
    assert "no new batches: there is nothing to train" in caplog.text


def labels_of(model: sx.SCALEXModel) -> list[str]:
    """Labels as they are registered."""
    state = model.adata_manager.get_state_registry("labels")
    codes = model.adata_manager.get_from_registry("labels").ravel()
    return [str(state["categorical_mapping"][code]) for code in codes]


def test_labels_of_the_query_may_be_absent_new_or_missing(
    prepared: AnnData, query: AnnData
) -> None:
    sx.SCALEXModel.setup_anndata(prepared, batch_key="batch", labels_key="celltype")
    model = sx.SCALEXModel(prepared, n_hidden=8, n_latent=2)
    model.train(max_epochs=1, **QUIET)
    absent = sx.SCALEXModel.load_query_data(query, model)
    assert "celltype" not in query.obs
    assert labels_of(absent)[:3] == ["unknown"] * 3
    query.obs["celltype"] = ["new type", None, "type1"] * 30
    projected = sx.SCALEXModel.load_query_data(query, model)
    assert labels_of(projected)[:3] == ["new type", "unknown", "type1"]
    assert query.obs["celltype"].isna().sum() == 30
    assert projected.get_latent_representation().shape == (90, 2)


def test_layer_of_reference_and_query(prepared: AnnData, query: AnnData) -> None:
    expected = trained_model(prepared, max_epochs=1)
    prepared.layers["scaled"] = prepared.X.copy()
    sx.SCALEXModel.setup_anndata(prepared, batch_key="batch", layer="scaled")
    model = sx.SCALEXModel(prepared, n_hidden=32, n_latent=5)
    model.train(max_epochs=1, lr_schedule="constant", **QUIET)
    query.layers["counts"] = query.X.copy()
    query.X = None
    projected = sx.SCALEXModel.load_query_data(query, model, layer="counts")
    query.X = query.layers["counts"]
    np.testing.assert_array_equal(
        projected.get_latent_representation(),
        sx.SCALEXModel.load_query_data(query, expected).get_latent_representation(),
    )


def test_prepare_query_anndata(model: sx.SCALEXModel, query: AnnData) -> None:
    expected = sx.SCALEXModel.load_query_data(query, model).get_latent_representation()
    genes = sx.SCALEXModel.prepare_query_anndata(query, model, return_reference_var_names=True)
    assert list(genes) == list(model.adata.var_names)
    new = sx.SCALEXModel.prepare_query_anndata(query, model, inplace=False)
    assert query.X.max() > 1
    sx.SCALEXModel.prepare_query_anndata(query, model)
    np.testing.assert_array_equal(query.X.toarray(), new.X.toarray())
    projected = sx.SCALEXModel.load_query_data(query, model)
    np.testing.assert_array_equal(projected.get_latent_representation(), expected)


def test_processed_query_of_a_reference_without_record(prepared: AnnData) -> None:
    del prepared.uns["scalex"]
    model = trained_model(prepared, max_epochs=1)
    query = prepared[:30, ::-1].copy()
    projected = sx.SCALEXModel.load_query_data(query, model)
    np.testing.assert_allclose(
        projected.get_latent_representation(),
        model.get_latent_representation()[:30],
        atol=1e-6,
    )
    query.X = query.X * 9
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        sx.SCALEXModel.load_query_data(query, model)
    with pytest.raises(ValueError, match="`processed=False` is impossible"):
        sx.SCALEXModel.load_query_data(query, model, processed=False)


def test_bad_queries(model: sx.SCALEXModel, query: AnnData, prepared: AnnData) -> None:
    with pytest.raises(RuntimeError, match="untrained"):
        sx.SCALEXModel.load_query_data(query, small_model(prepared.copy()))
    without = query.copy()
    del without.obs["batch"]
    with pytest.raises(KeyError, match="'batch' is not a column"):
        sx.SCALEXModel.load_query_data(without, model)
    other = query.copy()
    other.var_names = [f"ENSG{i}" for i in range(60)]
    with pytest.raises(ValueError, match="shares none"):
        sx.SCALEXModel.load_query_data(other, model)
    with pytest.raises(FileNotFoundError, match="no saved model"):
        sx.SCALEXModel.load_query_data(query, "nowhere")
