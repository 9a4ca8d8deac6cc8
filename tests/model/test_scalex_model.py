"""SCALEXModel follows scvi-tools: setup, train, latent, imputation, minified mode."""

from __future__ import annotations

import logging
import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from anndata import AnnData
from conftest import QUIET, small_model, trained_model
from scipy import sparse

import scalex_scvi as sx


def test_published_defaults(prepared: AnnData) -> None:
    sx.SCALEXModel.setup_anndata(prepared, batch_key="batch", labels_key="celltype")
    model = sx.SCALEXModel(prepared)
    assert model.module.encoder.layers[0].linear.out_features == 1024
    assert model.module.n_latent == 10
    assert model.batch_names == ["batch0", "batch1", "batch2"]
    assert "n_latent: 10" in model.summary_string
    model.view_anndata_setup(prepared)


def test_untrained_model_refuses(prepared: AnnData) -> None:
    with pytest.raises(RuntimeError, match="untrained"):
        small_model(prepared).get_latent_representation()


def test_training_lowers_the_loss_and_records_it(model: sx.SCALEXModel) -> None:
    history = model.history
    parts = ("reconstruction_loss_train", "kl_local_train", "batch_offset_train")
    for key in ("train_loss", "elbo_train", *parts):
        assert len(history[key]) == 15, key
    loss = history["train_loss"]["train_loss"].to_numpy(dtype=float)
    assert loss[-1] < loss[0]
    reconstruction, kl, offset = (history[key].to_numpy(dtype=float)[:, 0] for key in parts)
    assert offset[0] == 0  # one minibatch, before which no cell was seen
    assert (offset[1:] > 0).all()
    np.testing.assert_allclose(loss, reconstruction + 0.5 * kl + offset, rtol=1e-6)


def test_latent_of_a_cell_depends_on_that_cell_alone(model: sx.SCALEXModel) -> None:
    latent = model.get_latent_representation()
    assert latent.shape == (150, 5)
    assert np.array_equal(latent, model.get_latent_representation())
    some = model.get_latent_representation(indices=[7, 3])
    np.testing.assert_allclose(some, latent[[7, 3]], atol=1e-5)
    np.testing.assert_allclose(model.get_latent_representation(batch_size=11), latent, atol=1e-5)
    mean, var = model.get_latent_representation(return_dist=True)
    assert np.array_equal(mean, latent)
    assert (var > 0).all()


def test_batch_stats_are_those_of_each_batch(model: sx.SCALEXModel) -> None:
    state = {k: v.clone() for k, v in model.module.state_dict().items()}
    latent = model.get_latent_representation(batch_stats="batch", batch_size=17)
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, state[name]), name

    # The independent implementation: torch's BatchNorm in train mode over a whole batch at once.
    encoder = model.module.encoder.train()
    x = torch.from_numpy(model.adata.X.toarray())
    for batch in model.batch_names:
        rows = (model.adata.obs["batch"] == batch).to_numpy()
        with torch.no_grad():
            expected, _ = encoder(x[rows])
        np.testing.assert_allclose(latent[rows], expected, atol=1e-4)


def test_batch_stats_of_deep_encoders(prepared: AnnData) -> None:
    sx.SCALEXModel.setup_anndata(prepared, batch_key="batch")
    model = sx.SCALEXModel(prepared, n_hidden=16, n_latent=3, n_layers=3)
    model.train(max_epochs=2, **QUIET)
    latent = model.get_latent_representation(batch_stats="batch")
    encoder = model.module.encoder.train()
    rows = (prepared.obs["batch"] == "batch1").to_numpy()
    with torch.no_grad():
        expected, _ = encoder(torch.from_numpy(prepared.X.toarray()[rows]))
    np.testing.assert_allclose(latent[rows], expected, atol=1e-4)


def test_batch_stats_of_few_cells_fall_back(
    model: sx.SCALEXModel, caplog: pytest.LogCaptureFixture
) -> None:
    few = model.get_latent_representation(indices=range(10), batch_stats="batch")
    assert "running statistics are used for: batch0 (4), batch1 (3), batch2 (3)" in caplog.text
    np.testing.assert_allclose(few, model.get_latent_representation()[:10], atol=1e-5)


def test_unknown_batch_stats(model: sx.SCALEXModel) -> None:
    with pytest.raises(ValueError, match="'running' or 'batch', got 'train'"):
        model.get_latent_representation(batch_stats="train")


def test_elbo_and_reconstruction_error_repeat(model: sx.SCALEXModel) -> None:
    assert model.get_elbo() == model.get_elbo()
    error = model.get_reconstruction_error()
    assert error == model.get_reconstruction_error()
    assert -model.get_elbo() > error["reconstruction_loss"] > 0
    assert model.get_elbo(return_mean=False).shape == (150,)


def test_calls_leave_the_user_s_random_numbers_alone(prepared: AnnData) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    model = trained_model(prepared, max_epochs=1)
    model.get_elbo()
    assert torch.equal(torch.rand(3), expected)


def test_same_seed_same_weights(prepared: AnnData) -> None:
    def weights(**kwargs: object) -> torch.Tensor:
        torch.manual_seed(np.random.default_rng().integers(1000))  # the caller's does not matter
        model = small_model(prepared.copy(), seed=kwargs.get("seed"))
        model.train(max_epochs=3, **(QUIET | kwargs))
        return torch.cat([v.flatten().float() for v in model.module.state_dict().values()])

    first = weights()
    assert torch.equal(first, weights())
    assert torch.equal(first, weights(seed=124))
    assert torch.equal(first, weights(datasplitter_kwargs={"num_workers": 2}))
    assert not torch.equal(first, weights(seed=1))
    scvi.settings.seed = 1
    try:
        assert torch.equal(weights(), weights(seed=1))
    finally:
        scvi.settings.seed = None


def test_validation_split_is_reproducible_and_covers_all_cells(prepared: AnnData) -> None:
    model = trained_model(prepared, max_epochs=2, train_size=0.8, check_val_every_n_epoch=1)
    again = trained_model(prepared.copy(), max_epochs=2, train_size=0.8)
    assert len(model.train_indices) == 120
    assert len(model.validation_indices) == 30
    assert np.array_equal(model.train_indices, again.train_indices)
    assert "validation_loss" in model.history


def test_fewer_cells_than_a_minibatch(prepared: AnnData) -> None:
    model = trained_model(prepared[:20].copy(), max_epochs=2)
    assert np.isfinite(model.get_latent_representation()).all()


def test_imputed_expression_in_scaled_units(model: sx.SCALEXModel) -> None:
    own = model.get_imputed_expression()
    assert own.shape == model.adata.shape
    assert list(own.index) == list(model.adata.obs_names)
    assert own.to_numpy().min() >= 0
    assert own.to_numpy().max() <= 1
    as_batch1 = model.get_imputed_expression(transform_batch="batch1")
    rows = (model.adata.obs["batch"] == "batch1").to_numpy()
    np.testing.assert_allclose(own[rows], as_batch1[rows], atol=1e-6)
    assert not np.allclose(own[~rows], as_batch1[~rows], atol=1e-3)
    mean = model.get_imputed_expression(transform_batch=model.batch_names, return_numpy=True)
    parts = [model.get_imputed_expression(transform_batch=b) for b in model.batch_names]
    np.testing.assert_allclose(mean, np.mean(parts, axis=0), atol=1e-6)


def test_imputed_expression_in_log_normalized_units(model: sx.SCALEXModel) -> None:
    scaled = model.get_imputed_expression(transform_batch="batch2", gene_list=["gene3"])
    log = model.get_imputed_expression(
        transform_batch="batch2", gene_list=["gene3"], units="log_normalized"
    )
    raw = model.adata.raw[model.adata.obs["batch"] == "batch2", "gene3"].X
    np.testing.assert_allclose(log, scaled * raw.max(), rtol=1e-5)


BAD_IMPUTATION = {
    "batch": ({"transform_batch": "nowhere"}, "'nowhere'.*not a batch of the model"),
    "gene": ({"gene_list": ["nowhere"]}, "1 of `gene_list` are not genes"),
    "units": ({"units": "counts"}, "'scaled' or 'log_normalized', got 'counts'"),
}


@pytest.mark.parametrize(("kwargs", "message"), BAD_IMPUTATION.values(), ids=BAD_IMPUTATION.keys())
def test_bad_imputation(model: sx.SCALEXModel, kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.get_imputed_expression(**kwargs)


def test_no_log_units_without_a_record(prepared: AnnData) -> None:
    del prepared.uns["scalex"]
    model = trained_model(prepared, max_epochs=1)
    assert model.preprocessing is None
    with pytest.raises(ValueError, match="does not know how its input was scaled"):
        model.get_imputed_expression(units="log_normalized")


def test_without_batch_key(counts: AnnData) -> None:
    prepared = sx.pp.rna(counts, min_features=0)
    sx.SCALEXModel.setup_anndata(prepared)
    model = sx.SCALEXModel(prepared, n_hidden=8, n_latent=2)
    model.train(max_epochs=1, **QUIET)
    assert model.get_latent_representation(batch_stats="batch").shape == (150, 2)
    assert model.get_imputed_expression(units="log_normalized").shape == (150, 60)


@pytest.mark.parametrize("labels", [[1, 2, 3], [True, False]], ids=["integers", "booleans"])
def test_batch_labels_of_any_type(counts: AnnData, labels: list[object]) -> None:
    counts.obs["batch"] = [labels[i % len(labels)] for i in range(counts.n_obs)]
    model = trained_model(sx.pp.rna(counts, batch_key="batch", min_features=0), max_epochs=1)
    assert model.get_imputed_expression(transform_batch=labels[0]).shape == (150, 60)
    assert model.get_imputed_expression(units="log_normalized").shape == (150, 60)


def _layer(adata: AnnData, make: object) -> AnnData:
    return AnnData(make(adata.X), obs=adata.obs, var=adata.var)


FORMATS = {
    "csc": sparse.csc_matrix,
    "dense": lambda x: x.toarray(),
    "dense Fortran": lambda x: np.asfortranarray(x.toarray()),
    "float64": lambda x: x.astype(np.float64),
}


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS.keys())
def test_every_matrix_gives_the_same_and_stays_as_it_is(prepared: AnnData, make: object) -> None:
    expected = trained_model(prepared, max_epochs=2).get_latent_representation()
    other = _layer(prepared, make)
    before = other.X.copy()
    latent = trained_model(other, max_epochs=2).get_latent_representation()
    np.testing.assert_allclose(latent, expected, atol=1e-5)
    assert type(other.X) is type(before)
    assert other.X.dtype == before.dtype


@pytest.mark.parametrize("make", [None, sparse.csc_matrix, lambda x: x.toarray()])
def test_backed_data_keep_their_order(prepared: AnnData, tmp_path: object, make: object) -> None:
    if make is not None:
        prepared.X = make(prepared.X)
    expected = trained_model(prepared, max_epochs=2)
    prepared.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    model = trained_model(backed, max_epochs=2)
    np.testing.assert_allclose(
        model.get_latent_representation(), expected.get_latent_representation(), atol=1e-5
    )
    order = np.array([50, 3, 100, 7])
    np.testing.assert_allclose(
        model.get_latent_representation(indices=order),
        expected.get_latent_representation()[order],
        atol=1e-5,
    )


def test_layer(prepared: AnnData) -> None:
    expected = trained_model(prepared, max_epochs=1).get_latent_representation()
    prepared.layers["scaled"] = prepared.X.copy()
    prepared.X = prepared.X * 50
    sx.SCALEXModel.setup_anndata(prepared, batch_key="batch", layer="scaled")
    model = sx.SCALEXModel(prepared, n_hidden=32, n_latent=5)
    model.train(max_epochs=1, lr_schedule="constant", **QUIET)
    assert np.array_equal(model.get_latent_representation(), expected)


def _counts(adata: AnnData) -> None:
    adata.X = adata.X * 7


def _nan(adata: AnnData) -> None:
    adata.X = adata.X.toarray()
    adata.X[0, 0] = np.nan


def _negative(adata: AnnData) -> None:
    adata.X = -adata.X


def _missing(column: str) -> object:
    def spoil(adata: AnnData) -> None:
        adata.obs[column] = adata.obs[column].astype(object)
        adata.obs.loc["cell0", column] = np.nan

    return spoil


def _lone(adata: AnnData) -> None:
    adata.obs["batch"] = ["alone"] + ["others"] * (adata.n_obs - 1)


def _repeat(adata: AnnData) -> None:
    adata.var_names = ["gene1", *adata.var_names[1:]]


BAD_SETUP = {
    "counts": (_counts, ValueError, r"must lie in \[0, 1\], but holds values from .* to 7"),
    "NaN": (_nan, ValueError, r"must lie in \[0, 1\]"),
    "negative": (_negative, ValueError, r"must lie in \[0, 1\]"),
    "missing batch": (_missing("batch"), ValueError, "the batch of each cell"),
    "missing label": (_missing("celltype"), ValueError, "the label of each cell"),
    "batch of one cell": (_lone, ValueError, r"one cell: \['alone'\]"),
    "duplicate genes": (_repeat, ValueError, "more than once"),
    "no batch column": (lambda a: a.obs.drop(columns="batch", inplace=True), KeyError, "'batch'"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("spoil", "error", "message"), BAD_SETUP.values(), ids=BAD_SETUP.keys())
def test_bad_setup_gives_one_clear_error_and_registers_nothing(
    prepared: AnnData, spoil: object, error: type[Exception], message: str
) -> None:
    spoil(prepared)
    columns, uns = list(prepared.obs.columns), set(prepared.uns)
    with pytest.raises(error, match=message):
        sx.SCALEXModel.setup_anndata(prepared, batch_key="batch", labels_key="celltype")
    assert set(prepared.uns) == uns
    assert list(prepared.obs.columns) == columns


@pytest.mark.parametrize(
    ("profile", "n_features", "said"),
    [
        ("RNA", 6_000, "all 6000 genes of `adata`.*`n_top_features=2000`"),
        ("ATAC", 6_000, None),
        ("ATAC", 31_000, "all 31000 peaks of `adata`.*`n_top_features=30000`"),
    ],
)
def test_more_features_than_usual(
    profile: str, n_features: int, said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    counts = np.random.default_rng(0).poisson(1, size=(20, n_features))
    adata = AnnData(sparse.csr_matrix(counts, dtype=np.float32))
    adata.obs["batch"] = pd.Categorical(["a", "b"] * 10)
    with caplog.at_level(logging.WARNING, "scalex_scvi"):
        sx.SCALEXModel.setup_anndata(adata, batch_key="batch", profile=profile)
    assert bool(caplog.text) == (said is not None)
    assert said is None or re.search(said, caplog.text)


def test_setup_of_a_view_is_refused_as_by_scvi_tools(prepared: AnnData) -> None:
    with pytest.raises(ValueError, match="copy"):
        sx.SCALEXModel.setup_anndata(prepared[:50], batch_key="batch")


def test_empty_selection(prepared: AnnData) -> None:
    with pytest.raises(ValueError, match="`adata` is empty: 0 cells"):
        sx.SCALEXModel.setup_anndata(prepared[:0].copy(), batch_key="batch")


def test_other_cells_may_have_their_genes_in_any_order(
    model: sx.SCALEXModel, counts: AnnData
) -> None:
    other = sx.pp.rna(counts[:60], batch_key="batch", min_features=0, min_cells=0)
    np.testing.assert_array_equal(model.get_latent_representation(other).shape, (60, 5))
    np.testing.assert_array_equal(
        model.get_latent_representation(other[:, ::-1].copy()),
        model.get_latent_representation(other),
    )


def test_minified_mode(model: sx.SCALEXModel, tmp_path: object) -> None:
    latent = model.get_latent_representation()
    imputed = model.get_imputed_expression(transform_batch="batch1")
    mean, var = model.get_latent_representation(return_dist=True)
    model.adata.obsm["X_latent_qzm"], model.adata.obsm["X_latent_qzv"] = mean, var
    model.minify_adata()
    assert model.minified_data_type == "latent_posterior_parameters"
    assert model.adata.X.nnz == 0
    np.testing.assert_allclose(model.get_latent_representation(), latent, atol=1e-6)
    pd.testing.assert_frame_equal(
        model.get_imputed_expression(transform_batch="batch1"), imputed, atol=1e-5
    )
    with pytest.raises(ValueError, match="unminified"):
        model.get_latent_representation(batch_stats="batch")
    with pytest.raises(ValueError, match="minified"):
        model.get_elbo()

    model.save(tmp_path / "m", save_anndata=True)
    loaded = sx.SCALEXModel.load(tmp_path / "m")
    assert loaded.minified_data_type == model.minified_data_type
    np.testing.assert_allclose(loaded.get_latent_representation(), latent, atol=1e-6)


def test_progress_can_be_silenced(prepared: AnnData, capsys: pytest.CaptureFixture) -> None:
    trained_model(prepared, max_epochs=2)
    out, err = capsys.readouterr()
    assert not out
    assert not err
    trained_model(prepared.copy(), max_epochs=2, enable_progress_bar=True)
    out, err = capsys.readouterr()
    assert "Epoch 2/2" in out + err
