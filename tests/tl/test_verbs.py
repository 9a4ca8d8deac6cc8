"""`integrate` and `map_query`: in place, on the object at hand."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from conftest import QUIET, real_data, simulate_counts
from scipy import sparse
from sklearn.neighbors import KNeighborsClassifier

import scalex_scvi as sx

pytestmark = pytest.mark.usefixtures("narrow")

FEW = {"max_epochs": 8} | QUIET


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model that was trained once for all."""
    folder = tmp_path_factory.mktemp("verbs") / "model"
    sx.integrate(simulate_counts(), "batch", **FEW).save(folder)
    return folder


@pytest.fixture
def reference(saved: Path, counts: AnnData) -> sx.SCALEXModel:
    """As `integrate` leaves it, with a map; of a test's own."""
    model = sx.SCALEXModel.load(saved, adata=counts)
    counts.obsm["X_scalex"] = model.get_latent_representation()
    counts.obsm["X_umap"] = counts.obsm["X_scalex"][:, :2].copy()
    return model


@pytest.fixture
def query() -> AnnData:
    query = simulate_counts(80, n_batches=1, seed=5)
    query.obs["batch"] = "new"
    return query[:, ::-1][:, 5:].copy()


def test_integrate_says_that_one_batch_leaves_nothing_to_remove(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sx.integrate(simulate_counts(n_batches=1), "batch", **FEW)
    assert "All cells are of one batch in obs['batch']" in caplog.text
    caplog.clear()
    sx.integrate(simulate_counts(), "batch", **FEW)
    assert "one batch" not in caplog.text


def test_integrate_adds_the_latent_and_nothing_else(counts: AnnData) -> None:
    counts.layers["counts"] = counts.X.copy()
    before = counts.copy()
    model = sx.integrate(counts, "batch", layer="counts", **FEW)
    assert model.adata is counts
    assert counts.obsm["X_scalex"].shape == (150, 10)
    np.testing.assert_array_equal(counts.obsm["X_scalex"], model.get_latent_representation())
    assert list(counts.obsm) == ["X_scalex"]
    assert (counts.X != before.X).nnz == 0
    assert [c for c in counts.obs if not c.startswith("_scvi")] == list(before.obs)
    assert list(counts.var_names) == list(before.var_names)


def test_arguments_that_nothing_takes(counts: AnnData) -> None:
    before = list(counts.obs), list(counts.uns)
    with pytest.raises(TypeError, match=r"`integrate` takes no \['batch'\]\. .* \['batch_key'\]"):
        sx.integrate(counts, batch="batch")
    assert (list(counts.obs), list(counts.uns)) == before
    sx.SCALEXModel.setup_anndata(counts, batch_key="batch")
    with pytest.raises(TypeError, match=r"`train` takes no \['n_epochs', 'max_step'\]"):
        sx.SCALEXModel(counts).train(n_epochs=3, max_step=4, precision="32-true")


def test_integrate_uses_the_genes_that_scanpy_marked(counts: AnnData) -> None:
    counts.var["highly_variable"] = np.arange(60) < 25
    model = sx.integrate(counts, "batch", **FEW)
    assert list(model.get_var_names()) == list(counts.var_names[:25])
    assert len(sx.integrate(counts, "batch", n_top_features=-1, **FEW).get_var_names()) == 60
    counts.var["highly_variable"] = False
    with pytest.raises(ValueError, match=r"adata.var\['highly_variable'\] marks no gene"):
        sx.integrate(counts, "batch", **FEW)


def test_map_query_adds_latent_labels_and_position(
    reference: sx.SCALEXModel, query: AnnData
) -> None:
    umap = reference.adata.obsm["X_umap"].copy()
    before = query.copy()
    mapped = sx.map_query(query, reference, labels="celltype")
    assert mapped.adata is query
    np.testing.assert_array_equal(query.obsm["X_scalex"], mapped.get_latent_representation())
    assert query.obs["celltype_probability"].between(0, 1).all()
    assert query.obs["celltype_unknown"].dtype == bool
    assert query.uns["scalex_mapping"] == {"genes_found": 55, "genes_of_reference": 60}
    np.testing.assert_array_equal(reference.adata.obsm["X_umap"], umap)
    assert (query.X != before.X).nnz == 0
    assert list(query.obs_names) == list(before.obs_names)
    assert list(query.obs["celltype"]) == list(before.obs["celltype"])


def test_labels_of_a_batch_of_the_same_types_are_right() -> None:
    whole = simulate_counts(240, n_batches=4)
    is_query = (whole.obs["batch"] == "batch3").to_numpy()
    reference, query = whole[~is_query].copy(), whole[is_query].copy()
    model = sx.integrate(reference, "batch", **FEW)
    reference.obsm["X_umap"] = reference.obsm["X_scalex"][:, :2].copy()
    sx.map_query(query, model, labels="celltype")
    assert (query.obs["celltype_transfer"] == query.obs["celltype"]).mean() > 0.8


@pytest.mark.parametrize("change", ["renamed", "removed"])
def test_batches_are_those_that_the_reference_was_registered_with(
    reference: sx.SCALEXModel, query: AnnData, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    expected = query.copy()
    sx.map_query(expected, reference, labels="celltype")
    assert "was changed after" not in caplog.text
    before = reference.get_prepared().obs["batch"]
    names = reference.adata.obs.pop("batch")
    if change == "renamed":
        reference.adata.obs["batch"] = names.cat.rename_categories({"batch0": "first"})
    sx.map_query(query, reference, labels="celltype")
    assert "adata.obs['batch'] was changed after these cells were registered" in caplog.text
    for name in ("celltype_transfer", "celltype_probability", "celltype_p_value"):
        assert list(query.obs[name]) == list(expected.obs[name])
    some = reference.get_prepared(indices=[149, 0])
    assert list(some.obs["batch"]) == list(before.iloc[[149, 0]])
    assert ("batch" in reference.adata.obs) == (change == "renamed")


def test_a_batch_without_counts_gets_labels(counts: AnnData, query: AnnData) -> None:
    is_empty = (counts.obs["batch"] == "batch0").to_numpy()
    counts.X = sparse.diags_array((~is_empty).astype(np.float32)) @ counts.X
    model = sx.integrate(counts, "batch", **FEW)
    sx.map_query(query, model, labels="celltype")
    assert query.obs["celltype_transfer"].notna().all()
    sx.map_query(counts, model, labels="celltype")  # cells without counts in the query
    assert counts.obs["celltype_transfer"].notna().all()


def test_cells_whose_index_is_numbers(reference: sx.SCALEXModel, query: AnnData) -> None:
    query.obs["cluster"] = "a"
    plain = query.copy()
    plain.obs_names = [str(cell) for cell in range(plain.n_obs)]
    query.obs.reset_index(drop=True, inplace=True)  # numbers, where AnnData has text
    with pytest.warns(UserWarning, match="Transforming to str index"):
        sx.map_query(query, reference, labels="celltype", vote_by="cluster")
    sx.map_query(plain, reference, labels="celltype", vote_by="cluster")
    pd.testing.assert_frame_equal(query.obs.set_index(plain.obs.index), plain.obs)


def test_cells_of_the_reference_are_where_they_were(
    reference: sx.SCALEXModel, counts: AnnData
) -> None:
    again = counts[10:40].copy()
    again.obsm.clear()
    sx.map_query(again, reference)
    np.testing.assert_allclose(again.obsm["X_scalex"], counts.obsm["X_scalex"][10:40], atol=1e-5)
    np.testing.assert_allclose(again.obsm["X_umap"], counts.obsm["X_umap"][10:40], atol=1e-3)


@pytest.mark.parametrize("n_cells", [1, 2, 3])
def test_a_query_of_few_cells(reference: sx.SCALEXModel, query: AnnData, n_cells: int) -> None:
    few = query[:n_cells].copy()
    sx.map_query(few, reference, labels=["celltype"])
    assert few.obs["celltype_transfer"].notna().all()
    assert np.isfinite(few.obsm["X_umap"]).all()


def test_a_reference_that_is_partly_labeled(
    reference: sx.SCALEXModel, query: AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    labels = reference.adata.obs["celltype"].astype(object)
    labels.iloc[:50] = None
    reference.adata.obs["partly"] = labels
    sx.map_query(query, reference, labels="partly")
    assert "50 of 150 reference cells have no 'partly'" in caplog.text
    assert query.obs["partly_transfer"].notna().all()


@pytest.mark.parametrize("name", ["", "nan", "Unknown", "unassigned"])
def test_a_label_that_reads_as_none_is_pointed_to(
    reference: sx.SCALEXModel, query: AnnData, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    obs = reference.adata.obs
    obs["partly"] = obs["celltype"].cat.rename_categories({"type1": name})
    n_named = int((obs["partly"] == name).sum())
    sx.map_query(query, reference, labels="partly")
    assert f"{n_named} of 150 reference cells have the 'partly' {name!r}" in caplog.text
    assert name in list(query.obs["partly_transfer"])
    caplog.clear()
    obs["partly"] = obs["partly"].where(obs["partly"] != name)  # as the message says
    sx.map_query(query, reference, labels="partly")
    assert f"{n_named} of 150 reference cells have no 'partly'" in caplog.text
    assert "have the 'partly'" not in caplog.text
    assert name not in list(query.obs["partly_transfer"])


@pytest.mark.parametrize("reference_is", ["model", "by name"])
def test_a_batch_of_one_label_is_pointed_to(
    counts: AnnData, caplog: pytest.LogCaptureFixture, tmp_path: Path, reference_is: str
) -> None:
    model = sx.integrate(counts, "batch", **FEW)
    source = model
    if reference_is == "by name":
        sx.references.save(model, tmp_path / "ref", labels=["celltype"], license="mit")
        source = sx.references.load(tmp_path / "ref")
    mixed = counts[counts.obs["batch"] == "batch0"].copy()
    mixed.obs["batch"] = "whole"
    caplog.clear()
    sx.map_query(mixed, source, labels="celltype")
    assert "get one celltype" not in caplog.text
    of_one = counts[counts.obs["celltype"] == "type1"].copy()
    of_one.obs["batch"] = "sorted"
    sx.map_query(of_one, source, labels="celltype")
    assert caplog.text.count("one celltype: 'sorted' 'type1'.") == 1
    caplog.clear()
    if reference_is == "by name":
        mapped = sx.SCALEXModel.load_query_data(of_one, source.model)
        prepared = mapped.get_prepared()
        prepared.obsm["latent"] = mapped.get_latent_representation()
        source.label_scores(prepared, "celltype", use_rep="latent")
        assert caplog.text.count("one celltype: 'sorted' 'type1'.") == 1
        caplog.clear()
    both = sc.concat([mixed, of_one], index_unique="-")
    both.obs["batch"] = "together"
    sx.map_query(both, source, labels="celltype")
    assert "get one celltype" not in caplog.text


@pytest.mark.parametrize("kind", ["model", "run"])
def test_a_reference_in_a_folder(
    counts: AnnData, query: AnnData, tmp_path: Path, kind: str
) -> None:
    if kind == "model":
        model = sx.integrate(counts, "batch", **FEW)
        counts.obsm["X_umap"] = counts.obsm["X_scalex"][:, :2].copy()
        model.save(tmp_path / "ref", save_anndata=True)
    else:
        sx.SCALEX(
            counts,
            outdir=tmp_path / "ref",
            min_features=0,
            max_iteration=10,
            show=False,
            progress_bar=False,
        )
    mapped = sx.map_query(query, tmp_path / "ref", labels="celltype")
    assert {"X_scalex", "X_umap"} <= set(query.obsm)
    assert mapped.batch_names[-1] == "new"


def test_mistakes(reference: sx.SCALEXModel, query: AnnData, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="'type' is not a column of the reference's obs"):
        sx.map_query(query, reference, labels="type")
    reference.save(tmp_path / "ref")
    with pytest.raises(ValueError, match=r"no cells to take \['celltype'\] from.*save_anndata"):
        sx.map_query(query, tmp_path / "ref", labels="celltype")
    with pytest.raises(TypeError, match=r"`reference` is a 'AnnData'; allowed.*integrate"):
        sx.map_query(query, reference.adata)
    with pytest.raises(ValueError, match="`max_refused` is a share .*: '0.1'"):
        sx.map_query(query, reference, labels="celltype", max_refused="0.1")
    with pytest.raises(ValueError, match="`vote_by` 'batch': no labels .* Give `labels`"):
        sx.map_query(query, reference, vote_by="batch")
    assert not query.obsm


@pytest.mark.parametrize("matrix", ["csr", "csc", "dense", "layer"])
def test_counts_that_were_normalized_in_place_are_not_taken_for_counts(
    counts: AnnData, query: AnnData, matrix: str
) -> None:
    if matrix != "csr":
        counts.X = counts.X.tocsc() if matrix == "csc" else counts.X.toarray()
    if matrix == "layer":
        counts.layers["counts"] = counts.X.copy()
    model = sx.integrate(counts, "batch", layer="counts" if matrix == "layer" else None, **FEW)
    latent, kept = counts.obsm["X_scalex"], counts.X.copy()
    sc.pp.normalize_total(counts)
    sc.pp.log1p(counts)
    if matrix == "layer":
        np.testing.assert_array_equal(model.get_latent_representation(), latent)
        return
    for use in (
        model.get_latent_representation,
        model.get_prepared,
        model.get_imputed_expression,
        lambda: model.train(**FEW),
        lambda: sx.map_query(query, model, labels="celltype"),
    ):
        with pytest.raises(ValueError, match="X held counts .* normalized in place.*layer="):
            use()
    counts.X = kept
    np.testing.assert_array_equal(model.get_latent_representation(), latent)


def test_cells_of_a_reference_without_a_place_are_counted(
    reference: sx.SCALEXModel, query: AnnData
) -> None:
    reference.adata.obsm["X_umap"][:2] = np.nan
    with pytest.raises(ValueError, match=r"reference\.adata\.obsm\['X_umap'\] has .* in 2 of"):
        sx.map_query(query, reference)
    assert not query.obsm


def test_a_view_is_refused_by_its_name(reference: sx.SCALEXModel, query: AnnData) -> None:
    for call, name in (
        (lambda view: sx.integrate(view, "batch", **FEW), "adata"),
        (lambda view: sx.map_query(view, reference), "query"),
    ):
        view = query[:60]
        with pytest.raises(ValueError, match=rf"`{name}` is a view .*`{name} = {name}.copy\(\)`"):
            call(view)
        assert view.is_view
        assert list(query.obs) == list(view.obs)


def test_log_normalized_values_are_declared(counts: AnnData, query: AnnData) -> None:
    """A query lies where its counts lie; a reference of them is used as it is."""
    log = query.copy()
    sc.pp.normalize_total(log, target_sum=1e4)
    sc.pp.log1p(log)
    reference = sx.integrate(counts, "batch", **FEW)
    with pytest.raises(ValueError, match=r"does not look like counts.*log_normalized=True"):
        sx.map_query(log, reference)
    sx.map_query(log, reference, labels="celltype", log_normalized=True)
    sx.map_query(query, reference, labels="celltype")
    np.testing.assert_allclose(log.obsm["X_scalex"], query.obsm["X_scalex"], atol=1e-4)
    assert log.obs["celltype_transfer"].equals(query.obs["celltype_transfer"])

    counts = counts.copy()
    sc.pp.normalize_total(counts)
    sc.pp.log1p(counts)
    with pytest.raises(ValueError, match=r"does not look like counts.*log_normalized=True"):
        sx.integrate(counts, "batch", **FEW)
    model = sx.integrate(counts, "batch", log_normalized=True, **FEW)
    assert model.preprocessing.log_normalized


def test_what_was_found_is_said(
    reference: sx.SCALEXModel, query: AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "scalex_scvi")
    sx.map_query(query, reference)
    assert "Found 55 of 60 genes of the reference" in caplog.text


@pytest.mark.real_data
def test_a_left_out_technology_of_the_pancreas() -> None:
    adata = real_data("embedded/pancreas_5tech")
    is_query = (adata.obs["batch"].astype(str) == "indrop").to_numpy()  # the only droplets
    ref, query = adata[~is_query].copy(), adata[is_query].copy()
    recipe = sx.train.QUICK.but(max_steps=400)
    model = sx.integrate(ref, "batch", n_top_features=1000, recipe=recipe, **QUIET)
    sx.tl.embed(ref, use_rep="X_scalex")
    sx.map_query(query, model, labels="celltype")
    right = query.obs["celltype_transfer"].astype(str) == query.obs["celltype"].astype(str)
    assert right.mean() > 0.9
    truth = query.obs["celltype"].astype(str).to_numpy()
    found = {}
    for key in ("X_scalex", "X_umap"):
        by_neighbors = KNeighborsClassifier(15).fit(ref.obsm[key], ref.obs["celltype"].astype(str))
        found[key] = (by_neighbors.predict(query.obsm[key]) == truth).mean()
    # The map is as right as the latent that it shows: 0.73 and 0.67.
    assert found["X_umap"] >= found["X_scalex"] - 0.05
    assert found["X_umap"] >= 0.65


def test_labels_of_nested_columns_agree(reference: sx.SCALEXModel, query: AnnData) -> None:
    """Two columns of which one is nested in the other; the coarse one sums what lies within it."""
    obs = reference.adata.obs
    halves = pd.Series(np.arange(len(obs)) // 3 % 2, index=obs.index).astype(str)
    obs["fine"] = obs["celltype"].astype(str) + "/" + halves
    obs["coarse"] = obs["celltype"].astype(str).replace("type2", "type1")
    sx.map_query(query, reference, labels=["fine", "coarse"])
    found = query.obs
    kinds = found["fine_transfer"].astype(str).str.split("/").str[0].replace("type2", "type1")
    assert (kinds == found["coarse_transfer"].astype(str)).all()
    assert (found["coarse_probability"] >= found["fine_probability"] - 1e-9).all()
    assert found["coarse_probability"].mean() > found["fine_probability"].mean() + 0.1
    assert not (found["coarse_unknown"] & ~found["fine_unknown"]).any()


def test_columns_that_are_not_nested_are_labeled_as_if_alone(
    reference: sx.SCALEXModel, query: AnnData
) -> None:
    obs = reference.adata.obs
    obs["other"] = pd.Series(np.arange(len(obs)) // 2 % 2, index=obs.index).astype(str)
    alone = query.copy()
    sx.map_query(query, reference, labels=["celltype", "other"])
    sx.map_query(alone, reference, labels="celltype")
    for column in ("transfer", "probability", "unknown"):
        assert query.obs[f"celltype_{column}"].equals(alone.obs[f"celltype_{column}"])


def test_clusters_of_the_query_vote(reference: sx.SCALEXModel, query: AnnData) -> None:
    query.obs["cluster"] = np.arange(query.n_obs) % 4  # numbers, as of k-means
    sx.map_query(query, reference, labels="celltype", vote_by="cluster")
    called = query.obs["celltype_transfer"].astype(str)
    called[query.obs["celltype_unknown"]] = "unknown"
    for _, cells in query.obs.groupby("cluster"):
        counts = called[cells.index].value_counts(normalize=True)
        assert cells["celltype_voted"].nunique() == 1
        assert cells["celltype_voted"].iloc[0] in list(counts[counts == counts.max()].index)
        assert cells["celltype_vote_share"].to_numpy() == pytest.approx(counts.max())
    obs = reference.adata.obs
    obs["celltype"] = obs["celltype"].astype(str)
    obs.loc[obs.index[:5], "celltype"] = "unknown"  # as a label that no cell of the query gets
    with pytest.raises(ValueError, match="has a label 'unknown' already"):
        sx.map_query(query.copy(), reference, labels="celltype", vote_by="cluster")
    with pytest.raises(KeyError, match="'leiden' is not a column of the query's obs"):
        sx.map_query(query.copy(), reference, labels="celltype", vote_by="leiden")
    with pytest.raises(KeyError, match=r"`vote_by` \['cluster'\] is not a column"):
        sx.map_query(query.copy(), reference, labels="celltype", vote_by=["cluster"])
