"""The public scvi-tools tutorials for SCVI run line by line with the class name replaced."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path

import anndata
import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from conftest import QUIET, simulate_counts

import scalex_scvi as sx

FLAVOR = "seurat_v3" if find_spec("skmisc") else "cell_ranger"
SMALL = {"n_hidden": 32, "seed": 0}
FEW = {"max_epochs": 3} | QUIET
LATENT_KEY = "X_scVI"


@pytest.fixture
def adata() -> AnnData:
    adata = simulate_counts(150, 60)
    adata.obs["percent_mito"] = np.linspace(0, 0.1, adata.n_obs)
    sc.pp.filter_genes(adata, min_counts=3)
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    adata.raw = adata
    return adata


def counts_of(adata: AnnData) -> np.ndarray:
    return adata.layers["counts"].toarray().copy()


def test_introduction_to_scvi_tools(
    adata: AnnData, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    n_genes = adata.n_vars
    sc.pp.highly_variable_genes(
        adata, n_top_genes=40, subset=True, layer="counts", flavor=FLAVOR, batch_key="batch"
    )
    counts, logarithms = counts_of(adata), adata.X.toarray().copy()
    sx.SCALEXModel.setup_anndata(adata, layer="counts", batch_key="batch")
    model = sx.SCALEXModel(adata, **SMALL)
    repr(model)  # scvi-tools prints
    assert "SCALEX model" in capsys.readouterr().out
    model.view_anndata_setup()
    model.view_anndata_setup(adata)
    model.train(**FEW)
    repr(model)
    assert "status: Trained" in " ".join(capsys.readouterr().out.split())

    model_dir = tmp_path / "scvi_model"
    latent = model.get_latent_representation()
    for _ in range(2):
        model.save(str(model_dir), overwrite=True)
    model = sx.SCALEXModel.load(str(model_dir), adata=adata)
    assert model.adata is adata
    adata.obsm[LATENT_KEY] = model.get_latent_representation()
    assert adata.obsm[LATENT_KEY].shape == (150, 10)
    np.testing.assert_allclose(adata.obsm[LATENT_KEY], latent, atol=1e-6)

    mask = adata.obs["celltype"] == "type1"
    adata_subset = adata[mask]
    latent_subset = model.get_latent_representation(adata_subset)
    np.testing.assert_allclose(latent_subset, latent[mask.to_numpy()], atol=1e-6)

    denoised = model.get_normalized_expression(adata_subset, library_size=1e4)
    assert denoised.shape == adata_subset.shape
    adata.layers["scvi_normalized"] = model.get_normalized_expression(library_size=10e4)
    # The order of size that was asked for: decoded from logarithms after three epochs.
    total = np.asarray(adata.layers["scvi_normalized"]).sum(axis=1)
    assert 0.2e5 < np.median(total) < 1.1e5

    sc.pp.neighbors(adata, use_rep=LATENT_KEY)
    sc.tl.umap(adata, min_dist=0.3, maxiter=5)
    sc.tl.leiden(adata, key_added="leiden_scVI", resolution=0.5, flavor="igraph", n_iterations=2)
    assert {"X_umap", LATENT_KEY} <= set(adata.obsm)
    assert "leiden_scVI" in adata.obs

    de_df = model.differential_expression(groupby="celltype", group1="type1", group2="type2")
    assert list(de_df["comparison"].unique()) == ["type1 vs type2"]
    de_df = model.differential_expression(groupby="celltype", mode="change", batch_correction=True)
    for c in adata.obs["celltype"].cat.categories:
        cid = f"{c} vs Rest"
        cell_type_df = de_df.loc[de_df.comparison == cid]
        assert len(cell_type_df) == 40
        cell_type_df = cell_type_df[cell_type_df.lfc_mean > 0]
        cell_type_df = cell_type_df[cell_type_df["bayes_factor"] > -20]
        cell_type_df = cell_type_df[cell_type_df["non_zeros_proportion1"] > 0.1]
        assert len(cell_type_df)
    # Nothing of the object went.
    assert adata.raw.n_vars == n_genes
    np.testing.assert_array_equal(counts_of(adata), counts)
    np.testing.assert_array_equal(adata.X.toarray(), logarithms)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("categorical_covariate_keys", ["celltype"]),
        ("continuous_covariate_keys", ["percent_mito"]),
        ("size_factor_key", "percent_mito"),
    ],
)
def test_covariates_are_refused_by_name(adata: AnnData, name: str, value: object) -> None:
    columns = list(adata.obs)
    with pytest.raises((TypeError, ValueError), match=f"{name}.*batch_key"):
        sx.SCALEXModel.setup_anndata(adata, layer="counts", batch_key="batch", **{name: value})
    assert list(adata.obs) == columns
    assert not [key for key in adata.uns if key.startswith("_scvi")]
    for nothing in (None, []):
        if name == "size_factor_key" and nothing is not None:
            continue
        sx.SCALEXModel.setup_anndata(adata, layer="counts", batch_key="batch", **{name: nothing})


def test_harmonization(adata: AnnData) -> None:
    adata.raw = adata  # keep full dimension safe
    sc.pp.highly_variable_genes(
        adata, flavor=FLAVOR, n_top_genes=40, layer="counts", batch_key="batch", subset=True
    )
    sx.SCALEXModel.setup_anndata(adata, layer="counts", batch_key="batch")
    model = sx.SCALEXModel(adata, n_layers=2, n_latent=30, gene_likelihood="nb", **SMALL)
    model.train(**FEW)
    adata.obsm[LATENT_KEY] = model.get_latent_representation()
    assert adata.obsm[LATENT_KEY].shape == (150, 30)
    assert np.isfinite(adata.obsm[LATENT_KEY]).all()
    sc.pp.neighbors(adata, use_rep=LATENT_KEY)
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2)


def test_arguments_of_scvi_without_effect_are_named(
    adata: AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    sx.SCALEXModel.setup_anndata(adata, layer="counts", batch_key="batch")
    with caplog.at_level(logging.WARNING):
        sx.SCALEXModel(adata, gene_likelihood="nb", dispersion="gene-batch", **SMALL)
    assert "gene_likelihood" in caplog.text
    assert "dispersion" in caplog.text
    with pytest.raises(TypeError, match="gene_likelyhood"):
        sx.SCALEXModel(adata, gene_likelyhood="nb", **SMALL)


# -- Reference mapping with scvi-tools (scArches)


@pytest.fixture
def split(adata: AnnData) -> tuple[AnnData, AnnData]:
    """Two batches as reference, one as query with all genes, in another order."""
    query = np.array(["batch2"])
    adata_ref = adata[~adata.obs["batch"].isin(query)].copy()
    adata_query = adata[adata.obs["batch"].isin(query)].copy()
    sc.pp.highly_variable_genes(adata_ref, n_top_genes=40, batch_key="batch", subset=True)
    return adata_ref, adata_query


def reference(adata_ref: AnnData) -> sx.SCALEXModel:
    sx.SCALEXModel.setup_anndata(adata_ref, batch_key="batch", layer="counts")
    model = sx.SCALEXModel(
        adata_ref,
        use_layer_norm="both",
        use_batch_norm="none",
        encode_covariates=True,
        dropout_rate=0.2,
        n_layers=2,
        **SMALL,
    )
    model.train(**FEW)
    return model


def test_reference_mapping(split: tuple[AnnData, AnnData], tmp_path: Path) -> None:
    adata_ref, adata_query = split
    adata_query = adata_query[:, adata_ref.var_names].copy()
    scvi_ref = reference(adata_ref)
    adata_ref.obsm[LATENT_KEY] = scvi_ref.get_latent_representation()
    sc.pp.neighbors(adata_ref, use_rep=LATENT_KEY)
    sc.tl.leiden(adata_ref, flavor="igraph", n_iterations=2)

    path = str(tmp_path / "pancreas_model")
    scvi_ref.save(path, overwrite=True)
    # both are valid
    sx.SCALEXModel.prepare_query_anndata(adata_query, path)
    sx.SCALEXModel.prepare_query_anndata(adata_query, scvi_ref)
    # both are valid
    scvi_query = sx.SCALEXModel.load_query_data(adata_query, path)
    at_once = scvi_query.get_latent_representation()
    scvi_query = sx.SCALEXModel.load_query_data(adata_query, scvi_ref)
    np.testing.assert_allclose(scvi_query.get_latent_representation(), at_once, atol=1e-6)
    assert scvi_query.adata is adata_query

    scvi_query.train(max_epochs=2, plan_kwargs={"weight_decay": 0.0}, **QUIET)
    adata_query.obsm[LATENT_KEY] = scvi_query.get_latent_representation()
    np.testing.assert_allclose(adata_query.obsm[LATENT_KEY], at_once, atol=1e-6)
    sc.pp.neighbors(adata_query, use_rep=LATENT_KEY)

    adata_full = anndata.concat([adata_query, adata_ref])
    adata_full.obsm[LATENT_KEY] = scvi_query.get_latent_representation(adata_full)
    both = np.concatenate([adata_query.obsm[LATENT_KEY], adata_ref.obsm[LATENT_KEY]])
    np.testing.assert_allclose(adata_full.obsm[LATENT_KEY], both, atol=1e-5)
    full = scvi_query.get_latent_representation(anndata.concat([adata_query, adata_ref]))
    np.testing.assert_allclose(full, both, atol=1e-5)


@pytest.mark.parametrize("from_folder", [True, False], ids=["folder", "model"])
def test_prepare_query_pads_and_orders_in_place(
    split: tuple[AnnData, AnnData], tmp_path: Path, from_folder: bool
) -> None:
    adata_ref, adata_query = split
    model = reference(adata_ref)
    given = model
    if from_folder:
        model.save(tmp_path / "m")
        given = str(tmp_path / "m")
    names = list(adata_ref.var_names)
    absent = names[3]
    adata_query = adata_query[:, [n for n in adata_query.var_names[::-1] if n != absent]].copy()
    adata_query.obsm["mine"] = np.arange(adata_query.n_obs)[:, None]
    before, original = adata_query.to_df("counts"), adata_query.obs.copy()

    assert (
        list(
            sx.SCALEXModel.prepare_query_anndata(
                adata_query, given, return_reference_var_names=True
            )
        )
        == names
    )
    new = sx.SCALEXModel.prepare_query_anndata(adata_query, given, inplace=False)
    assert list(new.var_names) == names
    assert list(adata_query.var_names) == list(before.columns)

    assert sx.SCALEXModel.prepare_query_anndata(adata_query, given) is None
    assert list(adata_query.var_names) == names
    after = adata_query.to_df("counts")
    assert (after[absent] == 0).all()
    present = [n for n in names if n != absent]
    np.testing.assert_array_equal(after[present], before[present])
    assert list(adata_query.obs_names) == list(original.index)
    assert "mine" in adata_query.obsm
    query_model = sx.SCALEXModel.load_query_data(adata_query, given)
    assert query_model.get_latent_representation().shape == (adata_query.n_obs, 10)


def test_prepare_query_with_repeated_names_of_cells_and_raw(
    split: tuple[AnnData, AnnData],
) -> None:
    adata_ref, adata_query = split
    model = reference(adata_ref)
    query = adata_query[:, adata_ref.var_names.delete(3)].copy()
    query.raw = query.copy()
    names = ["same", "same", *query.obs_names[2:]]
    query.obs_names = names
    expected = query.to_df("counts").to_numpy()
    new = sx.SCALEXModel.prepare_query_anndata(query, model, inplace=False)
    assert list(new.obs_names) == names
    np.testing.assert_array_equal(new[:, query.var_names].to_df("counts").to_numpy(), expected)
    assert list(new.raw.var_names) == list(query.var_names)


def test_prepare_query_is_not_needed(split: tuple[AnnData, AnnData]) -> None:
    """Genes are found by name; extra genes do not touch a reference normalized over its own."""
    adata_ref, adata_query = split
    model = reference(adata_ref)
    absent = adata_ref.var_names[3]
    adata_query = adata_query[:, adata_query.var_names[::-1] != absent].copy()
    adata_query = adata_query[:, adata_query.var_names != absent].copy()
    padded = adata_query.copy()
    sx.SCALEXModel.prepare_query_anndata(padded, model)
    latents = [
        sx.SCALEXModel.load_query_data(q, model).get_latent_representation()
        for q in (padded, adata_query)
    ]
    np.testing.assert_allclose(latents[1], latents[0], atol=1e-5)


def test_query_without_common_genes_is_refused(split: tuple[AnnData, AnnData]) -> None:
    adata_ref, adata_query = split
    model = reference(adata_ref)
    adata_query.var_names = [f"other{i}" for i in range(adata_query.n_vars)]
    with pytest.raises(ValueError, match="none of the 40 genes"):
        sx.SCALEXModel.prepare_query_anndata(adata_query, model)
    with pytest.raises(ValueError, match="genes"):
        sx.SCALEXModel.load_query_data(adata_query, model)


@pytest.mark.parametrize(
    "switches",
    [
        {"freeze_dropout": True},
        {"freeze_expression": True, "freeze_decoder_first_layer": True},
        {"freeze_batchnorm_encoder": True, "freeze_batchnorm_decoder": False},
        {"freeze_classifier": True, "transfer_batch": True},
        {"inplace_subset_query_vars": True},
        {"accelerator": "cpu", "device": "auto"},
    ],
    ids=lambda switches: next(iter(switches)),
)
def test_switches_of_scarches(split: tuple[AnnData, AnnData], switches: dict) -> None:
    adata_ref, adata_query = split
    model = reference(adata_ref)
    query_model = sx.SCALEXModel.load_query_data(adata_query, model, **switches)
    before = query_model.get_latent_representation()
    query_model.train(plan_kwargs={"weight_decay": 0.0}, **FEW)
    np.testing.assert_allclose(query_model.get_latent_representation(), before, atol=1e-6)


def test_unfrozen_trains_the_latent_too(split: tuple[AnnData, AnnData]) -> None:
    adata_ref, adata_query = split
    model = reference(adata_ref)
    query_model = sx.SCALEXModel.load_query_data(adata_query, model, unfrozen=True)
    before = query_model.get_latent_representation()
    assert all(p.requires_grad for p in query_model.module.parameters())
    query_model.train(plan_kwargs={"weight_decay": 0.0}, **FEW)
    assert np.abs(query_model.get_latent_representation() - before).max() > 1e-3


def test_an_unknown_switch_is_refused(split: tuple[AnnData, AnnData]) -> None:
    adata_ref, adata_query = split
    with pytest.raises(TypeError, match="freeze_drop_out"):
        sx.SCALEXModel.load_query_data(adata_query, reference(adata_ref), freeze_drop_out=True)
