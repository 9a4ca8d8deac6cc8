"""Batches and labels of any type are compared and stored as text, everywhere alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from conftest import QUIET, simulate_counts

import scalex_scvi as sx
from scalex_scvi._core.columns import as_text

pytestmark = pytest.mark.usefixtures("narrow")

FAST = {
    "min_features": 0,
    "max_iteration": 8,
    "ignore_umap": True,
    "progress_bar": False,
    "show": False,
}

# What stands for the first and the second group, and their names.
TYPES: dict[str, tuple[Any, list[str]]] = {
    "text": (["1", "2"], ["1", "2"]),
    "integer": ([1, 2], ["1", "2"]),
    "float": ([1.0, 2.0], ["1", "2"]),
    "boolean": ([False, True], ["False", "True"]),
    "date": (pd.to_datetime(["2024-01-01", "2024-02-01"]), ["2024-01-01", "2024-02-01"]),
    "ordered": (pd.Categorical(["low", "high"], ["low", "high"], ordered=True), ["low", "high"]),
    "mixed": (np.array([1, "b"], dtype=object), ["1", "b"]),
}


def column(values: Any, codes: np.ndarray) -> Any:
    return pd.Series(values).iloc[codes].array


def with_groups(values: Any, n_cells: int = 60, seed: int = 0) -> AnnData:
    adata = simulate_counts(n_cells, n_batches=2, seed=seed)
    codes = np.arange(n_cells) % 2
    adata.obs["batch"] = column(values, codes)
    adata.obs["celltype"] = column(values, (np.arange(n_cells) // 2) % 2)
    return adata


@pytest.mark.parametrize("kind", TYPES)
def test_groups_as_text(kind: str) -> None:
    values, names = TYPES[kind]
    groups = as_text(column(values, np.array([1, 0, 0])))
    assert list(groups.categories) == names
    assert list(groups) == [names[1], names[0], names[0]]


def test_one_group_in_several_types_and_missing_ones() -> None:
    groups = as_text(np.array([1, "1", 1.0, None, "b", np.nan], dtype=object))
    assert list(groups.categories) == ["1", "b"]
    assert list(groups.codes) == [0, 0, 0, -1, 1, -1]
    assert list(as_text(pd.Categorical(["x"], ["y", "x"])).categories) == ["x"]
    assert list(as_text(pd.Series([10, 9, 2])).categories) == ["2", "9", "10"]


@pytest.mark.parametrize("kind", TYPES)
def test_a_model_its_file_and_its_queries(kind: str, tmp_path: Path) -> None:
    values, names = TYPES[kind]
    adata = with_groups(values)
    sx.SCALEXModel.setup_anndata(adata, batch_key="batch", labels_key="celltype")
    model = sx.SCALEXModel(adata, n_hidden=8, n_latent=2)
    model.train(max_epochs=1, **QUIET)
    assert model.batch_names == names
    model.save(tmp_path / "m")
    for reference in (model, sx.SCALEXModel.load(tmp_path / "m", adata)):
        same_in_text = with_groups(names)
        query = sx.SCALEXModel.load_query_data(same_in_text, reference)
        assert query.batch_names == names  # the same batches
        np.testing.assert_array_equal(
            query.get_latent_representation(), model.get_latent_representation()
        )
    imputed = model.get_imputed_expression(transform_batch=pd.Series(values)[0])
    expected = model.get_imputed_expression(transform_batch=names[0])
    pd.testing.assert_frame_equal(imputed, expected)


# No file holds dates or text beside numbers.
@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind not in ("date", "mixed")])
def test_one_call_and_label_transfer_with_unknown(kind: str, tmp_path: Path) -> None:
    values, names = TYPES[kind]
    sx.SCALEX(with_groups(values), outdir=tmp_path / "ref", **FAST)
    query = with_groups(names, seed=4)
    both = sx.SCALEX(
        query,
        projection=tmp_path / "ref",
        outdir=tmp_path / "both",
        label="celltype",
        unknown=True,
        assess=True,
        **FAST,
    )
    assert set(both.obs["batch"]) == set(names)
    assert set(both.obs["celltype_transfer"].dropna()) <= {*names, "unknown"}
    written = ad.read_h5ad(tmp_path / "both" / "adata.h5ad")
    assert set(written.obs["celltype_transfer"].dropna()) <= {*names, "unknown"}


@pytest.mark.parametrize("kind", TYPES)
def test_scores_and_pictures(kind: str) -> None:
    values, names = TYPES[kind]
    adata, text = with_groups(values), with_groups(names)
    for each in (adata, text):
        each.obsm["latent"] = np.random.default_rng(0).normal(size=(60, 3))
        each.obsm["X_umap"] = each.obsm["latent"][:, :2]
    assert sx.metrics.integration_scores(adata) == sx.metrics.integration_scores(text)
    assert sx.pl.confusion(adata.obs["celltype"], text.obs["celltype"], show=False)[0] == 1
    if kind != "float":  # continuous, by its type
        sx.pl.embedding(adata, color="celltype", groupby="batch", show=False)


def test_a_partly_labeled_reference(caplog: pytest.LogCaptureFixture) -> None:
    ref, query = with_groups([1, 2]), with_groups([1, 2], seed=4)
    for each in (ref, query):
        each.obsm["latent"] = np.asarray(each.X[:, :5].todense())
    half = ref[:30].copy()
    ref.obs["celltype"] = ref.obs["celltype"].astype("float").where(np.arange(60) < 30)
    found = sx.label_transfer(ref, query)
    expected = sx.label_transfer(half, query)
    assert list(found) == list(expected)
    assert "30 of 60 reference cells have no 'celltype': they are left out" in caplog.text


@pytest.mark.parametrize("n_cells", [1, 2, 3])
def test_queries_of_few_cells(
    n_cells: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ref = with_groups(["a", "b"], 80)
    options = FAST | {"ignore_umap": False}
    outdir = tmp_path / "ref"
    sx.SCALEX(ref, outdir=outdir, **FAST)
    query = with_groups(["new", "new"], 4, seed=4)[:n_cells].copy()
    alone = sx.SCALEX(
        query,
        projection=outdir,
        repeat=True,
        label="celltype",
        outdir=tmp_path / "alone",
        **options,
    )
    assert alone.obsm["latent"].shape == (n_cells, 10)
    assert alone.obs["celltype_transfer"].notna().all()
    assert "UMAP and clusters are left out" in caplog.text
    assert not (tmp_path / "alone" / "umap.png").exists()
    mapped = sx.map_query(query, outdir, labels="celltype", max_refused=0.5)
    np.testing.assert_array_equal(query.obsm["X_scalex"], mapped.get_latent_representation())
    assert mapped.get_imputed_expression().shape == (n_cells, 60)


def test_a_batch_of_one_cell_in_a_reference_is_named_with_the_way_out() -> None:
    adata = with_groups([1, 2])
    adata.obs.loc["cell0", "batch"] = 7
    for call in (
        lambda: sx.SCALEX(adata, **FAST),
        lambda: sx.SCALEXModel.setup_anndata(adata, batch_key="batch"),
        lambda: sx.pp.rna(adata, batch_key="batch"),
    ):
        with pytest.raises(ValueError, match=r"one cell: \['7'\].*Merge it .*, or remove it"):
            call()
