"""Compiled loops, used for many cells, give what NumPy and SciPy give, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad
from conftest import simulate_counts
from scipy import sparse

import scalex_scvi as sx
from scalex_scvi.pp import Preprocessing, _many


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Switch: whether there are so many cells that loops are compiled."""
    return lambda on: monkeypatch.setattr(_many, "VALUES_BEFORE", -1 if on else np.inf)


@pytest.fixture(scope="module")
def cells() -> AnnData:
    """Sparse counts of 600 cells in 5 batches: empty and poor cells, spike-ins, a rare gene."""
    counts = simulate_counts(600, 70, 5)
    x = counts.X.toarray() * (np.random.default_rng(0).random(counts.shape) < 0.4)
    x[[0, 77, 599]] = 0
    x[40:80, 10:] = 0
    x[:, 5] = 0
    x[300, 5] = 7
    counts.X = sparse.csr_matrix(x, dtype=np.float32)
    names = list(counts.var_names)
    names[:2] = ["ERCC-0001", "MT-CO1"]
    counts.var_names = names
    return counts


def with_stored_zeros(x: sparse.csr_matrix) -> sparse.csr_matrix:
    x = x.copy()
    x.data[::7] = 0
    return x


def with_repeated_entries(x: sparse.csr_matrix) -> sparse.csr_matrix:
    """Each value in two halves, columns in no order."""
    order = np.concatenate(
        [np.random.default_rng(0).permutation(np.repeat(np.arange(*ends), 2)) for ends in _ends(x)]
    ).astype(int)
    parts = (x.data[order] / 2, x.indices[order], 2 * x.indptr)
    return sparse.csr_matrix(parts, shape=x.shape)


def _ends(x: sparse.csr_matrix) -> zip:
    return zip(x.indptr[:-1], x.indptr[1:], strict=True)


def with_long_indices(x: sparse.csr_matrix) -> sparse.csr_matrix:
    x = x.copy()
    x.indices, x.indptr = x.indices.astype(np.int64), x.indptr.astype(np.int64)
    return x


def read_only(x: sparse.csr_matrix) -> sparse.csr_matrix:
    x = x.copy()
    for part in (x.data, x.indices, x.indptr):
        part.flags.writeable = False
    return x


MATRICES: dict[str, Callable[[sparse.csr_matrix], Any]] = {
    "float32": lambda x: x,
    "float64": lambda x: x.astype(np.float64),
    "integers": lambda x: x.astype(np.int64),
    "fractional": lambda x: x * np.float32(1.7),
    "csc": sparse.csc_matrix,
    "array": sparse.csr_array,
    "dense": lambda x: x.toarray(),
    "stored zeros": with_stored_zeros,
    "repeated entries": with_repeated_entries,
    "64-bit indices": with_long_indices,
    "read-only": read_only,
}

OPTIONS: dict[str, dict[str, Any]] = {
    "all genes": {"n_top_features": -1},
    "filters": {"n_top_features": 20, "min_features": 20, "min_cells": 60},
    "median": {"n_top_features": 20, "target_sum": None},
    "one batch": {"n_top_features": 20, "batch_key": None},
    "global": {"n_top_features": 20, "scale_by": "global"},
    "as they are": {"n_top_features": 20, "log_normalized": True},
    "peaks": {"profile": "ATAC", "n_top_features": 20},
    "peaks without logarithms": {"profile": "ATAC", "n_top_features": -1, "log1p": False},
    "proteins": {"profile": "ADT", "n_top_features": -1},
}


def assert_equal(found: AnnData, expected: AnnData) -> None:
    x, y = (a.X.compute() if hasattr(a.X, "compute") else a.X for a in (found, expected))
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(x, part), getattr(y, part))
    pd.testing.assert_frame_equal(found.obs, expected.obs, check_exact=True)
    pd.testing.assert_frame_equal(found.var, expected.var, check_exact=True)
    assert Preprocessing.from_adata(found) == Preprocessing.from_adata(expected)
    for key in expected.varm:
        pd.testing.assert_frame_equal(found.varm[key], expected.varm[key], check_exact=True)


def both_ways(
    many: Callable[[bool], None], function: Callable[[], AnnData]
) -> tuple[AnnData, AnnData]:
    many(True)
    compiled = function()
    many(False)
    return compiled, function()


@pytest.mark.parametrize("kind", MATRICES)
def test_any_matrix(cells: AnnData, many: Callable[[bool], None], kind: str) -> None:
    counts = cells.copy()
    counts.X = MATRICES[kind](cells.X)
    options = {"batch_key": "batch", "n_top_features": 20, "log_normalized": False}
    assert_equal(*both_ways(many, lambda: sx.pp.rna(counts, **options)))


@pytest.mark.parametrize("name", OPTIONS)
def test_any_options(cells: AnnData, many: Callable[[bool], None], name: str) -> None:
    options = {"batch_key": "batch"} | OPTIONS[name]
    counts = cells.copy()
    if name == "as they are":
        counts.X = counts.X.log1p()
    assert_equal(*both_ways(many, lambda: sx.pp.preprocess(counts, **options)))


@pytest.mark.parametrize("where", ["backed", "h5ad", "gzip", "zarr", "store"])
def test_wherever_cells_are(
    cells: AnnData, many: Callable[[bool], None], where: str, tmp_path: Path
) -> None:
    options = {"batch_key": "batch", "n_top_features": 20}
    if where in ("zarr", "store"):
        pytest.importorskip("dask.array")
        path = tmp_path / "cells.zarr"
        cells.write_zarr(path) if where == "zarr" else sx.io.write_store(cells, path)
    else:
        path = tmp_path / "cells.h5ad"
        cells.write_h5ad(path, compression="gzip" if where == "gzip" else None)
    many(True)
    if where == "backed":
        counts = read_h5ad(path, backed="r")
    elif where == "store":
        counts = sx.io.open_store(path)
    else:
        counts = sx.io.read_lazy(path, cells_in_block=270)
    found = sx.pp.rna(counts, **options)
    many(False)
    assert_equal(found, sx.pp.rna(cells, **options))


@pytest.mark.parametrize("new_batches", ["reference", "own"])
def test_queries(cells: AnnData, many: Callable[[bool], None], new_batches: str) -> None:
    many(False)
    preparation = sx.pp.Preparation(n_top_features=20, new_batches=new_batches)
    record = Preprocessing.fit(cells, preparation, batch_key="batch")
    query = simulate_counts(300, 70, 3, seed=1)[:, ::-1].copy()
    query.obs["batch"] = query.obs["batch"].cat.rename_categories({"batch1": "new"})
    query.X[7] = 0
    prepare = lambda: sx.pp.prepare_query(query, record, batch_key="batch")  # noqa: E731
    assert_equal(*both_ways(many, prepare))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1, "negative values (minimum -1)"),
        (np.nan, "1 values that are NaN or infinite"),
        (np.inf, "1 values that are NaN or infinite"),
        (0.5, "values are not integers and the largest is 2"),
    ],
)
def test_errors(cells: AnnData, many: Callable[[bool], None], value: float, message: str) -> None:
    counts = cells.copy()
    counts.X.data = np.minimum(counts.X.data, 2)
    counts.X.data[1000] = value
    for on in (True, False):
        many(on)
        with pytest.raises(ValueError) as caught:
            sx.pp.rna(counts, batch_key="batch")
        assert message in str(caught.value)


@pytest.mark.parametrize("part", ["indices", "indptr"])
def test_a_damaged_matrix_is_an_error_not_a_crash(
    cells: AnnData, many: Callable[[bool], None], part: str
) -> None:
    counts = cells.copy()
    getattr(counts.X, part)[100] = 10_000_000
    many(True)
    with pytest.raises(ValueError, match="must be|should|exceed|less than"):
        sx.pp.rna(counts, batch_key="batch")


def test_few_cells_do_not_wait_for_a_compiler(
    cells: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many values as 30 000 cells have: a process that is done before compiles nothing."""
    monkeypatch.setattr(_many, "_worked", _many.Worked())
    assert _many.VALUES_BEFORE > 30_000 * 500
    few = cells.X
    assert not any(_many.worth_compiling(few) for _ in range(100))
    for _ in range(int(_many.VALUES_BEFORE / few.nnz)):
        _many.worth_compiling(few)
    assert _many.worth_compiling(few)
    assert not _many.worth_compiling(few.toarray())
