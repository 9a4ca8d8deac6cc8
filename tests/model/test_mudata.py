"""A model of one modality of a MuData: the modality's own model, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from conftest import QUIET, simulate_counts
from mudata import MuData
from scipy import sparse

import scalex_scvi as sx
from scalex_scvi import SCALEXModel

OF_RNA = {"layer": "rna"}
FEW = {"max_epochs": 2} | QUIET
SMALL = {"n_hidden": 16, "n_latent": 3}


def proteins(obs_names: pd.Index) -> AnnData:
    values = np.random.default_rng(1).poisson(5, size=(len(obs_names), 4)).astype(np.float32)
    obs = pd.DataFrame({"stain": ["a"] * len(obs_names)}, index=obs_names)
    return AnnData(values, obs=obs, var=pd.DataFrame(index=list("wxyz")))


def whole_of(adata: AnnData) -> MuData:
    """A MuData with the cells' RNA, and with their `obs` at its top, not in the modality."""
    rna = adata.copy()
    rna.obs = pd.DataFrame({"depth": np.arange(adata.n_obs)}, index=adata.obs_names)
    mdata = MuData({"protein": proteins(adata.obs_names), "rna": rna})
    mdata.obs = adata.obs.copy()
    return mdata


def trained(cells: AnnData | MuData, **setup: Any) -> SCALEXModel:
    if isinstance(cells, MuData):
        SCALEXModel.setup_mudata(cells, **({"batch_key": "batch", "modalities": OF_RNA} | setup))
    else:
        SCALEXModel.setup_anndata(cells, **({"batch_key": "batch"} | setup))
    model = SCALEXModel(cells, **SMALL)
    model.train(**FEW)
    return model


@pytest.fixture(scope="module")
def alone() -> SCALEXModel:
    """The model of the AnnData, which says what is right."""
    return trained(simulate_counts(90, 40))


@pytest.fixture(scope="module")
def of_whole() -> SCALEXModel:
    return trained(whole_of(simulate_counts(90, 40)), labels_key="celltype")


def query_cells() -> AnnData:
    cells = simulate_counts(50, 40, seed=5)
    cells.obs["batch"] = pd.Categorical(["new"] * 20 + ["batch1"] * 30)
    cells.obs_names = [f"query{i}" for i in range(50)]
    return cells


def test_the_model_is_that_of_the_modality(alone: SCALEXModel, of_whole: SCALEXModel) -> None:
    assert isinstance(of_whole.adata, MuData)
    assert of_whole.registry_["setup_method_name"] == "setup_mudata"
    assert of_whole.registry_["setup_args"]["modalities"] == OF_RNA
    assert list(of_whole.get_var_names()) == list(alone.adata.var_names)
    latent = of_whole.get_latent_representation()
    np.testing.assert_array_equal(latent, alone.get_latent_representation())
    of_whole.adata.obsm["X_scalex"] = latent  # rows are those of the whole
    np.testing.assert_array_equal(
        of_whole.get_latent_representation(indices=[5, 2]),
        alone.get_latent_representation(indices=[5, 2]),
    )
    pd.testing.assert_frame_equal(
        of_whole.get_normalized_expression(transform_batch="batch1"),
        alone.get_normalized_expression(transform_batch="batch1"),
    )
    pd.testing.assert_frame_equal(
        of_whole.get_imputed_expression(transform_batch="batch0"),
        alone.get_imputed_expression(transform_batch="batch0"),
    )
    assert of_whole.get_elbo() == alone.get_elbo()
    kwargs = {"groupby": "celltype", "group1": "type0", "batch_correction": True, "silent": True}
    pd.testing.assert_frame_equal(
        of_whole.differential_expression(n_samples_overall=200, **kwargs),
        alone.differential_expression(n_samples_overall=200, **kwargs),
    )


def test_prepared_cells_have_the_columns_of_the_whole(
    alone: SCALEXModel, of_whole: SCALEXModel
) -> None:
    ours, theirs = of_whole.get_prepared(), alone.get_prepared()
    assert (ours.X != theirs.X).nnz == 0
    pd.testing.assert_frame_equal(ours.obs, theirs.obs)
    assert set(ours.obsm) <= {"X_scalex"}  # and not the masks of the modalities


def from_modality(mdata: MuData) -> None:
    mdata["rna"].obs["batch"] = mdata.obs["batch"]
    mdata.obs["batch"] = "of the whole"


def in_layer(mdata: MuData) -> None:
    mdata["rna"].layers["counts"] = mdata["rna"].X.copy()
    mdata["rna"].X = mdata["rna"].X * 0.5


def as_view(mdata: MuData) -> None:
    mdata.mod["rna"] = mdata["rna"][:, :]
    assert mdata["rna"].is_view


def lacking_proteins(mdata: MuData) -> None:
    mdata.mod["protein"] = mdata["protein"][:60].copy()
    mdata.update()


def with_proteins_reversed(mdata: MuData) -> MuData:
    other = MuData({"rna": mdata["rna"], "protein": mdata["protein"][::-1].copy()})
    other.obs = mdata.obs.copy()
    return other


FORMS: dict[str, tuple[Callable[[MuData], MuData | None], dict[str, Any]]] = {
    "batches of a modality": (from_modality, {"modalities": OF_RNA | {"batch_key": "rna"}}),
    "batches of the whole": (lambda mdata: None, {"modalities": OF_RNA | {"batch_key": None}}),
    "labels of another modality": (
        lambda mdata: None,
        {"labels_key": "stain", "modalities": OF_RNA | {"labels_key": "protein"}},
    ),
    "counts in a layer": (in_layer, {"layer": "counts"}),
    "a modality that is a view": (as_view, {}),
    "another modality lacks cells": (lacking_proteins, {}),
    "another modality in another order": (with_proteins_reversed, {}),
}


@pytest.mark.parametrize(("change", "setup"), FORMS.values(), ids=FORMS)
def test_whatever_form_it_has(
    alone: SCALEXModel, change: Callable[[MuData], MuData | None], setup: dict[str, Any]
) -> None:
    mdata = whole_of(simulate_counts(90, 40))
    mdata = change(mdata) or mdata
    assert list(mdata.obs_names) == list(alone.adata.obs_names)
    model = trained(mdata, **setup)
    np.testing.assert_array_equal(
        model.get_latent_representation(), alone.get_latent_representation()
    )
    # Both the batch and what was asked for are there for those who read the cells.
    assert list(model.get_prepared().obs["batch"]) == list(alone.adata.obs["batch"])
    assert list(model.without_counts().adata.obs["batch"]) == list(alone.adata.obs["batch"])


def test_a_file_may_stay_on_disk(alone: SCALEXModel, tmp_path: Path) -> None:
    path = tmp_path / "whole.h5mu"
    whole_of(simulate_counts(90, 40)).write_h5mu(path)
    before = path.read_bytes()
    mdata = mudata.read_h5mu(path, backed=True)
    model = trained(mdata)
    np.testing.assert_allclose(
        model.get_latent_representation(), alone.get_latent_representation(), atol=1e-6
    )
    model.save(tmp_path / "model", save_anndata=True)
    assert mdata.isbacked
    assert path.read_bytes() == before
    again = SCALEXModel.load(tmp_path / "model")
    np.testing.assert_allclose(
        again.get_latent_representation(), alone.get_latent_representation(), atol=1e-6
    )


def test_without_batches_and_of_proteins() -> None:
    """Another modality is another model, of another kind of data."""
    mdata = whole_of(simulate_counts(90, 40))
    whole, single = {}, {}
    for profile, name in (("RNA", "rna"), ("ADT", "protein")):
        setup = {"batch_key": None, "profile": profile}
        single[name] = trained(mdata[name].copy(), **setup)
        whole[name] = trained(mdata, modalities={"layer": name}, **setup)
    for name in whole:  # each after the other was set up: the marks are of the last
        np.testing.assert_array_equal(
            whole[name].get_latent_representation(), single[name].get_latent_representation()
        )


def test_nothing_of_the_whole_changes() -> None:
    mdata, untouched = (whole_of(simulate_counts(90, 40)) for _ in range(2))
    matrix = mdata["rna"].X
    model = trained(mdata, labels_key="celltype")
    model.get_latent_representation()
    model.get_normalized_expression()
    SCALEXModel.load_query_data(mdata, model)
    assert mdata["rna"].X is matrix
    assert {key for key in mdata.uns if not key.startswith("_scvi")} == set(untouched.uns)
    pd.testing.assert_frame_equal(mdata.obs, untouched.obs)
    pd.testing.assert_frame_equal(mdata.var, untouched.var)
    assert set(mdata.obsm) == set(untouched.obsm)
    for name in ("rna", "protein"):
        pd.testing.assert_frame_equal(mdata[name].obs, untouched[name].obs)
        pd.testing.assert_frame_equal(mdata[name].var, untouched[name].var)
        assert not mdata[name].uns
        assert list(mdata[name].layers) == list(untouched[name].layers)
        assert abs(mdata[name].X - untouched[name].X).sum() == 0


def test_saved_and_loaded(alone: SCALEXModel, of_whole: SCALEXModel, tmp_path: Path) -> None:
    right = alone.get_latent_representation()
    of_whole.save(tmp_path / "model")
    mdata = whole_of(simulate_counts(90, 40))
    for cells in (mdata, simulate_counts(90, 40)):
        model = SCALEXModel.load(tmp_path / "model", adata=cells)
        assert model.adata is cells
        np.testing.assert_array_equal(model.get_latent_representation(), right)
    for cells in (mdata.copy(), simulate_counts(90, 40)):
        model = SCALEXModel.load(tmp_path / "model")  # no cells were saved
        assert model.adata is None
        assert model.get_elbo(cells) == alone.get_elbo()
        assert model.adata is cells  # as with scvi-tools: the first cells become the model's
        model = SCALEXModel.load(tmp_path / "model", adata=False)
        np.testing.assert_array_equal(model.get_latent_representation(cells), right)
    of_whole.save(tmp_path / "model", overwrite=True, save_anndata=True)
    model = SCALEXModel.load(tmp_path / "model")
    assert isinstance(model.adata, MuData)
    assert list(model.adata.mod) == ["protein", "rna"]
    np.testing.assert_array_equal(model.get_latent_representation(), right)
    (tmp_path / "model" / "mdata.h5mu").write_bytes(b"no file of MuData")
    with pytest.raises(ValueError, match="mdata.h5mu' is no .h5mu file, or is damaged"):
        SCALEXModel.load(tmp_path / "model")


@pytest.mark.parametrize("query_is_whole", [False, True], ids=["AnnData", "MuData"])
@pytest.mark.parametrize("reference", ["alone", "of_whole"])
def test_queries_of_either_kind(
    reference: str, query_is_whole: bool, request: pytest.FixtureRequest, alone: SCALEXModel
) -> None:
    right = SCALEXModel.load_query_data(query_cells(), alone)
    ref = request.getfixturevalue(reference)
    query = whole_of(query_cells()) if query_is_whole else query_cells()
    # Only a MuData that meets a model of an AnnData must be told of.
    told = {"modalities": OF_RNA} if query_is_whole and reference == "alone" else {}
    model = SCALEXModel.load_query_data(query, ref, **told)
    assert model.adata is query
    assert model.batch_names == ["batch0", "batch1", "batch2", "new"]
    latent = right.get_latent_representation()
    np.testing.assert_array_equal(model.get_latent_representation(), latent)
    pd.testing.assert_frame_equal(
        model.get_normalized_expression(transform_batch="batch0"),
        right.get_normalized_expression(transform_batch="batch0"),
    )
    if not told:
        np.testing.assert_array_equal(ref.get_latent_representation(query), latent)
    for of_query in (model, right):
        of_query.train(**FEW)
    pd.testing.assert_frame_equal(model.get_imputed_expression(), right.get_imputed_expression())
    np.testing.assert_array_equal(model.get_latent_representation(), latent)


def test_a_query_needs_no_preparation(of_whole: SCALEXModel) -> None:
    with pytest.raises(NotImplementedError, match=r"no need .* `SCALEXModel.load_query_data"):
        SCALEXModel.prepare_query_mudata(of_whole.adata, of_whole)


def test_labels_are_transferred_from_the_whole(alone: SCALEXModel, of_whole: SCALEXModel) -> None:
    found = {}
    for name, reference in (("alone", alone), ("whole", of_whole)):
        found[name] = query_cells()
        sx.map_query(found[name], reference, labels="celltype")
    columns = ["celltype_transfer", "celltype_probability", "celltype_unknown"]
    pd.testing.assert_frame_equal(found["whole"].obs[columns], found["alone"].obs[columns])


def test_imputed_into_the_modality(alone: SCALEXModel, tmp_path: Path) -> None:
    mdata = whole_of(simulate_counts(90, 40))
    model = trained(mdata)
    model.impute(layer="imputed", transform_batch="batch0")
    right = alone.get_imputed_expression(transform_batch="batch0").to_numpy()
    np.testing.assert_array_equal(mdata["rna"].layers["imputed"], right)
    model.impute(path=tmp_path / "imputed.h5ad", transform_batch="batch0")
    written = sx.io.read(tmp_path / "imputed.h5ad")
    np.testing.assert_array_equal(written.X, right)
    assert list(written.obs["celltype"]) == list(mdata.obs["celltype"])
    assert list(written.var_names) == list(mdata["rna"].var_names)


def test_the_matrix_is_read_as_it_is_now(alone: SCALEXModel) -> None:
    """As that of an AnnData: other values in its place are other cells."""
    mdata = whole_of(simulate_counts(90, 40))
    model = trained(mdata)
    mdata["rna"].X = sparse.csr_matrix(mdata["rna"].X[::-1])
    changed = alone.adata.copy()
    changed.X = sparse.csr_matrix(changed.X[::-1])
    np.testing.assert_array_equal(
        model.get_latent_representation(), alone.get_latent_representation(changed)
    )


def test_a_copy_and_a_view_are_other_cells(alone: SCALEXModel) -> None:
    mdata = whole_of(simulate_counts(90, 40))
    model, right = trained(mdata), alone.get_latent_representation()
    np.testing.assert_array_equal(model.get_latent_representation(mdata.copy()), right)
    np.testing.assert_array_equal(model.get_latent_representation(mdata[:30]), right[:30])
    model.adata = mdata.copy()
    np.testing.assert_array_equal(model.get_latent_representation(), right)


def test_what_is_left_of_it_without_counts(of_whole: SCALEXModel) -> None:
    light = of_whole.without_counts(obs="celltype")
    assert isinstance(light.adata, AnnData)
    assert list(light.adata.obs["celltype"]) == list(of_whole.adata.obs["celltype"])
    np.testing.assert_allclose(
        light.get_latent_representation(), of_whole.get_latent_representation(), atol=1e-6
    )
    with pytest.raises(NotImplementedError, match="without_counts"):
        of_whole.minify_adata()


def short(mdata: MuData) -> MuData:
    mdata.mod["rna"] = mdata["rna"][:70].copy()
    mdata.update()
    return mdata


def disordered(mdata: MuData) -> MuData:
    mdata.mod["rna"] = mdata["rna"][::-1].copy()
    mdata.update()
    return mdata


def outdated(mdata: MuData) -> MuData:
    more = simulate_counts(90, 40)
    more.obs_names = [f"other{i}" for i in range(90)]
    mdata.mod["rna"] = _both(mdata["rna"], more)
    return mdata


def _both(first: AnnData, second: AnnData) -> AnnData:
    return AnnData(
        sparse.vstack([first.X, second.X]).tocsr(),
        obs=pd.DataFrame(index=[*first.obs_names, *second.obs_names]),
        var=first.var,
    )


def two_columns(mdata: MuData) -> MuData:
    mdata["protein"].obs["batch"] = "another"
    return mdata


ERRORS: dict[str, tuple[Callable[[MuData], Any], dict[str, Any], type[Exception], str]] = {
    "an AnnData": (lambda m: m["rna"], {}, TypeError, "'AnnData'; allowed is a MuData.*setup_ann"),
    "no modalities": (
        lambda m: m,
        {"modalities": None},
        TypeError,
        r"mdata\['rna'\].*modalities=\{'layer': …\}`, one of \['protein', 'rna'\]",
    ),
    "no modality of the matrix": (
        lambda m: m,
        {"modalities": {"batch_key": "rna"}},
        ValueError,
        "'layer'.*needed",
    ),
    "not a dictionary": (lambda m: m, {"modalities": "rna"}, ValueError, "'rna'. It is a dict"),
    "unknown argument": (
        lambda m: m,
        {"modalities": OF_RNA | {"rna_layer": "rna"}},
        ValueError,
        "rna_layer.*'layer'",
    ),
    "unknown modality": (
        lambda m: m,
        {"modalities": {"layer": "RNA"}},
        KeyError,
        r"'RNA' is not a modality of the MuData: \['protein', 'rna'\]",
    ),
    "column of a modality": (
        lambda m: m,
        {"batch_key": "stain"},
        KeyError,
        r"'stain' is not a column of mdata.obs.*\['protein'\] have it: `modalities",
    ),
    "column of the whole": (
        lambda m: m,
        {"modalities": OF_RNA | {"batch_key": "protein"}},
        KeyError,
        r"mdata.mod\['protein'\].obs: \['stain'\]. The MuData itself has it",
    ),
    "no such layer": (lambda m: m, {"layer": "counts"}, KeyError, "'counts' is not in adata.lay"),
    "cells are missing": (
        short,
        {},
        ValueError,
        "'rna' lacks 20 of the 90 cells.*muon.pp.intersect_obs",
    ),
    "another order": (disordered, {}, ValueError, r"another order.*mdata\[mdata.obs_names\]"),
    "changed since": (outdated, {}, ValueError, "has 180 cells, the MuData 90.*mdata.update"),
    "a view": (lambda m: m[:50], {}, ValueError, "copy"),
    "one name, two columns": (
        two_columns,
        {"labels_key": "batch", "modalities": OF_RNA | {"labels_key": "protein"}},
        ValueError,
        "both 'batch'",
    ),
    "several columns": (lambda m: m, {"batch_key": ["batch"]}, TypeError, "one column"),
    "covariates": (
        lambda m: m,
        {"categorical_covariate_keys": ["depth"]},
        ValueError,
        "no covariates",
    ),
}


@pytest.mark.parametrize(("change", "setup", "error", "says"), ERRORS.values(), ids=ERRORS)
def test_mistakes_are_named(
    change: Callable[[MuData], Any], setup: dict[str, Any], error: type[Exception], says: str
) -> None:
    cells = change(whole_of(simulate_counts(90, 40)))
    setup = {"batch_key": "batch", "modalities": OF_RNA} | setup
    with pytest.raises(error, match=f"(?s){says}"):
        SCALEXModel.setup_mudata(cells, **setup)
    assert not [key for key in cells.uns if key.startswith("_scvi")]


def test_the_way_out_leads_out(alone: SCALEXModel) -> None:
    """What the messages advise works."""
    mdata = disordered(whole_of(simulate_counts(90, 40)))
    mdata = mdata[mdata.obs_names].copy()
    right = alone.get_latent_representation()
    place = [list(alone.adata.obs_names).index(name) for name in mdata.obs_names]
    SCALEXModel.setup_mudata(mdata, batch_key="batch", modalities=OF_RNA)
    model = SCALEXModel.load_query_data(mdata, alone, modalities=OF_RNA)
    np.testing.assert_allclose(model.get_latent_representation(), right[place], atol=1e-6)
    mdata = short(whole_of(simulate_counts(90, 40)))
    mdata = mdata[mdata.obs_names.isin(mdata["rna"].obs_names)].copy()
    model = SCALEXModel.load_query_data(mdata, alone, modalities=OF_RNA)
    np.testing.assert_allclose(model.get_latent_representation(), right[:70], atol=1e-6)


def test_one_that_was_not_set_up(alone: SCALEXModel) -> None:
    mdata = whole_of(simulate_counts(90, 40))
    with pytest.raises(ValueError, match=r"setup_mudata\(.*\['protein', 'rna'\]"):
        SCALEXModel(mdata, **SMALL)
    with pytest.raises(TypeError, match=r"'MuData'.*mdata\['rna'\].*modalities"):
        SCALEXModel.load_query_data(mdata, alone)
    with pytest.raises(TypeError, match="'MuData'"):
        SCALEXModel.load_query_data(mdata, alone, modalities=OF_RNA, layer="raw")
