"""A query on disk gets the labels of the same cells in memory, in parts that fit there."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from conftest import QUIET, real_data, simulate_counts
from scipy import sparse

import scalex_scvi as sx
from scalex_scvi._core.csr_in_parts import CsrInParts
from scalex_scvi.tl import _query_parts, _reference_cells

pytest.importorskip("dask", reason="needs the extra 'scale'")


@pytest.fixture(scope="module")
def cells() -> AnnData:
    """Two batches for the reference, two for the query, whose cells lie between each other's."""
    return simulate_counts(800, n_batches=4)


@pytest.fixture(scope="module")
def reference(cells: AnnData) -> sx.SCALEXModel:
    own = cells[cells.obs["batch"].isin(["batch0", "batch1"])].copy()
    own.obs["lineage"] = own.obs["celltype"].astype(str).replace({"type1": "type0"})
    return sx.integrate(own, "batch", max_epochs=30, **QUIET)


@pytest.fixture
def query(cells: AnnData) -> AnnData:
    own = cells[cells.obs["batch"].isin(["batch2", "batch3"])].copy()
    own.X = own.X.multiply(np.arange(own.n_obs)[:, None] != 5).tocsr()  # a cell without counts
    return own


def on_disk(query: AnnData, folder: Path) -> AnnData:
    query.write_h5ad(folder / "query.h5ad")
    return sx.io.read_lazy(folder / "query.h5ad", cells_in_block=64)


def check_same(found: AnnData, expected: AnnData, labels: str = "celltype") -> None:
    for name in ("transfer", "unknown"):
        column = f"{labels}_{name}"
        assert list(found.obs[column]) == list(expected.obs[column])
    for name in ("probability", "p_value"):
        column = f"{labels}_{name}"
        np.testing.assert_allclose(found.obs[column], expected.obs[column], atol=1e-4)


def test_labels_are_those_of_the_same_cells_in_memory(
    reference: sx.SCALEXModel, query: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_query_parts, "MOST_CELLS", 200)  # one batch in each part
    lazy = on_disk(query, tmp_path)
    sx.map_query(query, reference, labels=["lineage", "celltype"])
    mapped = sx.map_query(lazy, reference, labels=["lineage", "celltype"])
    for labels in ("lineage", "celltype"):
        check_same(lazy, query, labels)
    assert lazy.obs["celltype_transfer"].nunique() == 3
    assert mapped.adata is lazy
    assert list(lazy.obs_names) == list(query.obs_names)
    assert not isinstance(lazy.X, sparse.csr_matrix | np.ndarray)


def test_a_reference_by_name_labels_them_too(
    reference: sx.SCALEXModel, query: AnnData, tmp_path: Path
) -> None:
    folder = tmp_path / "named"
    sx.references.save(reference, folder, labels=["celltype"], license="CC-BY-4.0")
    lazy = on_disk(query, tmp_path)
    sx.map_query(query, folder)
    sx.map_query(lazy, folder)
    check_same(lazy, query)


def test_a_batch_of_too_many_cells_is_divided_at_random(
    reference: sx.SCALEXModel, cells: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells of one type after the other: pieces in this order would hold a type or two each."""
    monkeypatch.setattr(_query_parts, "MOST_CELLS", 70)
    query = cells[cells.obs["batch"] == "batch2"].copy()
    query = query[np.argsort(query.obs["celltype"].to_numpy(), kind="stable")].copy()
    lazy = on_disk(query, tmp_path)
    sx.map_query(lazy, reference, labels="celltype")
    sx.map_query(query, reference, labels="celltype")
    same = np.asarray(lazy.obs["celltype_transfer"]) == np.asarray(query.obs["celltype_transfer"])
    assert same.mean() > 0.95
    assert lazy.obs["celltype_unknown"].mean() < 0.15
    again = on_disk(query, tmp_path)
    sx.map_query(again, reference, labels="celltype")
    pd.testing.assert_frame_equal(again.obs, lazy.obs)


def test_batches_stay_whole_where_they_fit() -> None:
    batch = np.array([0, 1, 0, 1, 2, 2, 0, 1, 2, 0])
    parts = _query_parts.divided(batch, most=7)
    assert [len(np.unique(parts[batch == code])) for code in range(3)] == [1, 1, 1]
    assert np.bincount(parts).tolist() == [7, 3]
    sizes = np.bincount(_query_parts.divided(np.zeros(100, int), most=30))
    assert sizes.tolist() == [25, 25, 25, 25]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that temporary files go to."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def test_no_temporary_file_is_left(
    reference: sx.SCALEXModel,
    query: AnnData,
    tmp_path: Path,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    read = CsrInParts.read

    def read_and_look(self: CsrInParts, part: int) -> sparse.csr_matrix:
        seen.append(len(list(temporary.iterdir())))
        return read(self, part)

    monkeypatch.setattr(CsrInParts, "read", read_and_look)
    sx.map_query(on_disk(query, tmp_path), reference, labels="celltype")
    assert seen == [1]
    assert list(temporary.iterdir()) == []


def test_an_error_in_a_part_arrives_and_leaves_nothing(
    reference: sx.SCALEXModel,
    query: AnnData,
    tmp_path: Path,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(self: CsrInParts, part: int) -> sparse.csr_matrix:
        raise MemoryError("no room")

    monkeypatch.setattr(CsrInParts, "read", full)
    lazy = on_disk(query, tmp_path)
    with pytest.raises(MemoryError, match="no room"):
        sx.map_query(lazy, reference, labels="celltype")
    assert list(temporary.iterdir()) == []
    assert "celltype_transfer" not in lazy.obs


def test_a_disk_that_is_full_says_where(tmp_path: Path) -> None:
    rows = sparse.csr_matrix(np.ones((2, 3), np.float32))
    with pytest.raises(OSError) as caught:
        CsrInParts(tmp_path / "absent", [rows], np.zeros(2, int), 3)
    assert "TMPDIR" in caught.value.__notes__[0]


def test_too_few_held_out_cells_are_found_before_anything_is_read(
    reference: sx.SCALEXModel, query: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_query_parts, "CsrInParts", None)  # not reached
    lazy = on_disk(query, tmp_path)
    with pytest.raises(ValueError, match="held-out"):
        sx.map_query(lazy, reference, labels="celltype", max_refused=0.0001)
    with pytest.raises(ValueError, match="max_refused"):
        sx.map_query(lazy, reference, labels="celltype", max_refused=5)


def test_a_reference_without_a_record_is_refused_before_its_cells_are_read(
    cells: AnnData, tmp_path: Path
) -> None:
    import dask.array as da

    prepared = sx.pp.rna(cells, batch_key="batch", min_features=0)
    prepared.uns.clear()
    own, query = (prepared[prepared.obs["batch"] == name].copy() for name in ("batch0", "batch1"))
    sx.SCALEXModel.setup_anndata(own, batch_key="batch", processed=True)
    reference = sx.SCALEXModel(own, n_hidden=16)
    reference.train(max_steps=2, **QUIET)

    def unreadable(block: np.ndarray) -> np.ndarray:
        raise AssertionError("read")

    lazy = da.from_array(own.X.toarray(), chunks=(64, -1)).map_blocks(unreadable, dtype=np.float32)
    own.X = lazy.map_blocks(sparse.csr_matrix, dtype=np.float32)
    query = on_disk(query, tmp_path)
    before = list(query.obs)
    with pytest.raises(ValueError, match="need a reference of counts"):
        sx.map_query(query, reference, labels="celltype")
    assert "X_scalex" not in query.obsm
    assert [name for name in query.obs if not name.startswith("_scvi")] == before


def test_other_columns_and_representations_do_not_matter(
    reference: sx.SCALEXModel, query: AnnData, tmp_path: Path
) -> None:
    """Labels take the batch and the latent alone; batches may be numbers, one of them unused."""
    numbers = query.obs["batch"].astype(str).map({"batch2": 2, "batch3": 3}).astype("category")
    query.obs["batch"] = numbers.cat.add_categories([9])
    query.obs["cluster"] = query.obs["celltype"].astype(str)
    query.obsm["counts"] = sparse.csr_matrix(query.X)
    query.obsm["table"] = pd.DataFrame({"a": np.arange(query.n_obs)}, index=query.obs_names)
    lazy = on_disk(query, tmp_path)
    for cells in (query, lazy):
        sx.map_query(cells, reference, labels="celltype", vote_by="cluster")
    check_same(lazy, query)
    assert list(lazy.obs["celltype_voted"]) == list(query.obs["celltype_voted"])


def test_counts_of_a_layer_are_opened_as_x(cells: AnnData, query: AnnData, tmp_path: Path) -> None:
    own = cells[cells.obs["batch"].isin(["batch0", "batch1"])].copy()
    for each in (own, query):
        each.layers["counts"] = each.X
        each.X = each.X.log1p()
    model = sx.integrate(own, "batch", layer="counts", max_epochs=30, **QUIET)
    query.write_h5ad(tmp_path / "query.h5ad")
    lazy = sx.io.read_lazy(tmp_path / "query.h5ad", layer="counts", cells_in_block=64)
    with pytest.raises(KeyError, match="'counts' is not in adata.layers.*layer='X'"):
        sx.map_query(lazy, model, labels="celltype")
    sx.map_query(lazy, model, labels="celltype", layer="X")
    sx.map_query(query, model, labels="celltype")
    check_same(lazy, query)


@pytest.mark.parametrize("kind", ["dense", "repeated"])
def test_blocks_of_other_kinds_count_as_in_memory(tmp_path: Path, kind: str) -> None:
    if kind == "dense":
        block = np.arange(6.0).reshape(2, 3)
    else:
        block = sparse.csr_matrix(([1.0, 2.0, 3.0], [1, 1, 0], [0, 2, 3]), shape=(2, 3))
    found = CsrInParts(tmp_path, [block], np.zeros(2, int), 3).read(0)
    np.testing.assert_array_equal(found.toarray(), np.asarray(block @ np.eye(3)))
    assert found.has_canonical_format


@pytest.mark.parametrize("n_parts", [1, 3])
def test_rows_come_back_in_their_parts(tmp_path: Path, n_parts: int) -> None:
    rng = np.random.default_rng(0)
    matrix = sparse.random(50, 9, 0.3, "csr", np.float32, random_state=0)
    parts = rng.integers(n_parts, size=50)
    blocks = [matrix[:20], matrix[20:21], matrix[21:]]
    stored = CsrInParts(tmp_path, blocks, parts, 9)
    for part in range(n_parts):
        found = stored.read(part)
        assert found.has_sorted_indices
        np.testing.assert_array_equal(found.toarray(), matrix[parts == part].toarray())


@pytest.mark.real_data
def test_real_donors_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, narrow: None) -> None:
    """In parts as in memory, and by a sample of half of the reference nearly as well."""
    counts = real_data("kang_pbmc_ctrl_8donors")[::4]
    donors = list(counts.obs["batch"].astype(str).unique())
    own = counts[counts.obs["batch"].isin(donors[:4])].copy()
    query = counts[counts.obs["batch"].isin(donors[5:7])].copy()
    model = sx.integrate(own, "batch", n_top_features=500, max_steps=100, **QUIET)
    lazy = on_disk(query, tmp_path)
    sx.map_query(query, model, labels="celltype")
    sx.map_query(lazy, model, labels="celltype")
    check_same(lazy, query)
    monkeypatch.setattr(_reference_cells, "MOST_CELLS", own.n_obs // 2)
    sx.map_query(query, model, labels="celltype")
    by_all, by_half = (
        np.mean(np.asarray(cells.obs["celltype_transfer"]) == np.asarray(query.obs["celltype"]))
        for cells in (lazy, query)
    )
    assert by_all > 0.85
    assert by_half > by_all - 0.03
