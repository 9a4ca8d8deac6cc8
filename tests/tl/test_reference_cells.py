"""Cells of a reference that labels are learned from: in memory, and of many a sample."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from conftest import QUIET, simulate_counts
from scipy import sparse

import scalex_scvi as sx
from scalex_scvi.tl import _reference_cells


@pytest.fixture(scope="module")
def cells() -> AnnData:
    return simulate_counts(900, n_batches=3)


@pytest.fixture(scope="module")
def model(cells: AnnData) -> sx.SCALEXModel:
    own = cells[cells.obs["batch"] != "batch2"].copy()
    return sx.integrate(own, "batch", max_epochs=30, **QUIET)


@pytest.fixture
def query(cells: AnnData) -> AnnData:
    return cells[cells.obs["batch"] == "batch2"].copy()


def on_disk(model: sx.SCALEXModel, folder: Path, kind: str) -> sx.SCALEXModel:
    """The same model, its cells in a file or a store."""
    model.save(folder / "model", save_anndata=False)
    own = model.adata
    counts = AnnData(own.X, obs=own.obs[["batch", "celltype"]], var=own.var)
    if kind == "lazy file":
        counts.write_h5ad(folder / "counts.h5ad")
        cells = sx.io.read_lazy(folder / "counts.h5ad", cells_in_block=64)
    else:
        sx.io.write_store(counts, folder / "counts.zarr")
        cells = sx.io.open_store(folder / "counts.zarr")
    return sx.SCALEXModel.load(folder / "model", adata=cells)


def test_of_few_cells_all_are_taken(model: sx.SCALEXModel) -> None:
    found, prepared = sx.tl.reference_cells(model, "celltype"), model.get_prepared()
    assert (found.X != prepared.X).nnz == 0
    assert found.obs.equals(prepared.obs)
    latent = model.get_latent_representation()
    np.testing.assert_allclose(found.obsm["X_scalex"], latent, atol=1e-6)


@pytest.mark.parametrize("kind", ["lazy file", "store"])
@pytest.mark.parametrize("most", [100_000, 300])
def test_labels_are_learned_wherever_the_reference_is(
    model: sx.SCALEXModel,
    query: AnnData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    most: int,
) -> None:
    pytest.importorskip("dask", reason="needs the extra 'scale'")
    monkeypatch.setattr(_reference_cells, "MOST_CELLS", most)
    other = query.copy()
    sx.map_query(query, model, labels="celltype")
    sx.map_query(other, on_disk(model, tmp_path, kind), labels="celltype")
    for column in ("transfer", "unknown"):
        name = f"celltype_{column}"
        assert list(other.obs[name]) == list(query.obs[name])
    columns = ["celltype_probability", "celltype_p_value"]
    np.testing.assert_allclose(other.obs[columns], query.obs[columns], atol=1e-4)


def test_a_reference_to_share_is_made_of_cells_on_disk(
    model: sx.SCALEXModel, query: AnnData, tmp_path: Path
) -> None:
    pytest.importorskip("dask", reason="needs the extra 'scale'")
    lazy = on_disk(model, tmp_path, "lazy file")
    folder = sx.references.save(lazy, tmp_path / "shared", "celltype", license="mit")
    sx.map_query(query, folder)
    assert (query.obs["celltype_transfer"].astype(str) == query.obs["celltype"]).mean() > 0.9


def test_a_sample_is_said_and_as_good(
    model: sx.SCALEXModel,
    query: AnnData,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(_reference_cells, "MOST_CELLS", 300)
    with caplog.at_level(logging.WARNING, logger="scalex_scvi"):  # shown without logging, too
        sx.map_query(query, model, labels="celltype")
    assert f"learned from 300 of {model.adata.n_obs} reference cells" in caplog.text
    assert (query.obs["celltype_transfer"].astype(str) == query.obs["celltype"]).mean() > 0.9
    first = sx.tl.reference_cells(model, "celltype")
    assert first.n_obs == 300
    assert list(first.obs_names) == list(sx.tl.reference_cells(model, "celltype").obs_names)
    where = model.adata.obs_names.get_indexer(first.obs_names)
    assert (first.X != model.get_prepared().X[where]).nnz == 0


def test_rare_labels_of_each_batch_stay_and_the_unlabeled_come_last() -> None:
    groups = pd.DataFrame(
        {"celltype": ["T"] * 1000 + ["B"] * 30 + [None] * 400, "batch": ["a", "b"] * 715}
    )
    labels, batch = groups[["celltype"]], groups["batch"].to_numpy()
    rows = _reference_cells.some_of_each(labels, batch, 300)
    chosen = groups.iloc[rows]
    assert (np.diff(rows) > 0).all()
    assert (chosen["celltype"] == "B").sum() == 30
    assert chosen["celltype"].notna().all()
    assert abs((chosen["batch"] == "a").mean() - 0.5) < 0.1
    more = groups.iloc[_reference_cells.some_of_each(labels, batch, 1100)]
    assert more["celltype"].isna().sum() == 70


def test_rare_labels_stay_where_batches_are_many() -> None:
    """Fifty of each label in each batch would be more than are taken."""
    labels = pd.DataFrame({"celltype": ["rare"] * 7 + ["T"] * 3000 + ["B"] * 993})
    batch = np.arange(len(labels)) % 100
    rows = _reference_cells.some_of_each(labels, batch, 500)
    assert labels["celltype"].iloc[rows].value_counts()["rare"] == 7
    of_each = pd.crosstab(labels["celltype"].iloc[rows], batch[rows])
    assert of_each.loc[["T", "B"]].min().min() >= 1
    assert of_each.max().max() <= 5


def test_each_label_has_as_many_where_labels_are_many() -> None:
    labels = pd.DataFrame({"celltype": np.repeat([f"T{i}" for i in range(40)], [9, 91] * 20)})
    rows = _reference_cells.some_of_each(labels, None, 400)
    n_cells = labels["celltype"].iloc[rows].value_counts()
    assert len(n_cells) == 40
    assert n_cells.between(9, 11).all()


def test_what_is_missing_is_named(model: sx.SCALEXModel) -> None:
    with pytest.raises(KeyError, match="'type' is not a column of the reference's obs"):
        sx.tl.reference_cells(model, "type")
    with pytest.raises(ValueError, match=r"`labels` is \[\]: name a column"):
        sx.tl.reference_cells(model, [])
    for shape in ((2, 7), (0, model.adata.n_vars)):
        with pytest.raises(ValueError, match=rf"has the shape \({shape[0]}, {shape[1]}\)"):
            model.get_latent_of_prepared(sparse.csr_matrix(shape, dtype=np.float32))


def test_latent_of_prepared_values_of_each_kind(model: sx.SCALEXModel) -> None:
    values = model.get_prepared(indices=range(20)).X
    expected = model.get_latent_representation(indices=range(20))
    for kind in (values, values.toarray(), values.tocsc(), values.tocoo()):
        np.testing.assert_allclose(model.get_latent_of_prepared(kind), expected, atol=1e-5)
    array = pytest.importorskip("dask.array", reason="needs the extra 'scale'")
    with pytest.raises(TypeError, match=r"is a 'Array'.*values\.compute"):
        model.get_latent_of_prepared(array.from_array(values))


@pytest.mark.parametrize("take", ["get_prepared", "get_latent_representation"])
def test_cells_that_are_not_there_are_refused(model: sx.SCALEXModel, take: str) -> None:
    n_cells = model.adata.n_obs
    for none in ([], np.array([], dtype=int), np.zeros(n_cells, dtype=bool)):
        with pytest.raises(ValueError, match="there are no cells"):
            getattr(model, take)(indices=none)
    for wrong in ([n_cells], np.ones(7, dtype=bool), [0.0, 1.0], ["cell1"], 3, [[0, 1]]):
        with pytest.raises(IndexError, match=f"whole numbers below {n_cells}.*mask"):
            getattr(model, take)(indices=wrong)


@pytest.mark.parametrize("kind", ["memory", "lazy file", "store"])
def test_some_prepared_cells_are_rows_of_all(
    model: sx.SCALEXModel, tmp_path: Path, kind: str
) -> None:
    if kind != "memory":
        pytest.importorskip("dask", reason="needs the extra 'scale'")
        model = on_disk(model, tmp_path, kind)
    all_of_them = model.get_prepared()
    whole = sparse.csr_matrix(all_of_them.X if kind != "lazy file" else all_of_them.X.compute())
    rows = np.random.default_rng(0).permutation(model.adata.n_obs)[:200]
    mask = np.isin(np.arange(model.adata.n_obs), rows)
    ends = np.array([3, -1, 3, 0])  # repeated, and from the end
    for indices, expected in ((rows, rows), (mask, np.flatnonzero(mask)), (ends, ends)):
        some = model.get_prepared(indices=indices)
        values = some.X if kind != "lazy file" else sparse.csr_matrix(some.X.compute())
        assert (values != whole[expected]).nnz == 0
        assert list(some.obs_names) == list(all_of_them.obs_names[expected])
