"""pp.atac: peaks by variability, totals, logarithms by default."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from conftest import real_data
from scipy import sparse

import scalex_scvi as sx
from scalex_scvi.pp import Preprocessing


def by_hand(
    counts: np.ndarray,
    batch: np.ndarray,
    *,
    min_features: int,
    min_cells: int,
    n_top: int,
    log1p: bool,
    target_sum: float | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Cells, peaks, values and total of the same steps in plain numpy."""
    cells = np.flatnonzero((counts > 0).sum(axis=1) >= min_features)
    n_cells = (counts[cells] > 0).sum(axis=0)
    peaks = np.flatnonzero(n_cells >= min_cells)
    # in 1e-9: shares equally far from one half on both sides are ties
    score = np.round(1 - np.abs(n_cells[peaks] / len(cells) - 0.5), 9)
    if n_top < len(peaks):
        peaks = peaks[score >= np.sort(score)[::-1][n_top - 1]]
    values = counts[np.ix_(cells, peaks)].astype(np.float64)
    totals = values.sum(axis=1)
    target = np.median(totals[totals > 0]) if target_sum is None else target_sum
    values = values / np.where(totals > 0, totals, 1)[:, None] * target
    if log1p:
        values = np.log1p(values)
    for name in np.unique(batch[cells]):
        rows = batch[cells] == name
        maxima = values[rows].max(axis=0)
        values[rows] /= np.where(maxima > 0, maxima, 1)
    return cells, peaks, values, target


DEFAULT = {"log1p": True, "target_sum": 1e4}
DOCUMENTATION = {"log1p": False, "target_sum": None}


def agrees(adata: AnnData, **options: float | None) -> AnnData:
    counts, batch = adata.X.toarray(), adata.obs["batch"].to_numpy().astype(str)
    cells, peaks, values, target = by_hand(counts, batch, **options)
    names = {"n_top": "n_top_features"}
    prepared = sx.pp.atac(
        adata, batch_key="batch", **{names.get(key, key): value for key, value in options.items()}
    )
    assert list(prepared.obs_names) == list(adata.obs_names[cells])
    assert list(prepared.var_names) == list(adata.var_names[peaks])
    np.testing.assert_allclose(prepared.X.toarray(), values, rtol=1e-5)
    assert Preprocessing.from_adata(prepared).target_sum == target
    return prepared


@pytest.mark.parametrize("way", [DEFAULT, DOCUMENTATION], ids=["default", "documentation"])
def test_equals_plain_numpy(peaks: AnnData, way: dict[str, float | None]) -> None:
    prepared = agrees(peaks, min_features=15, min_cells=20, n_top=25, **way)
    assert prepared.n_obs < peaks.n_obs
    assert 25 <= prepared.n_vars < 40


@pytest.mark.real_data
def test_equals_plain_numpy_on_granja() -> None:
    adata = real_data("granja_bmmc_atac_peaks")
    prepared = agrees(adata, min_features=30, min_cells=3, n_top=1000, **DEFAULT)
    assert prepared.n_vars >= 1000
    agrees(adata, min_features=100, min_cells=3, n_top=30_000, **DOCUMENTATION)


def test_scores_and_ties() -> None:
    n_cells = [50, 30, 70, 70, 10, 90, 95]
    matrix = np.array([np.arange(100) < n for n in n_cells]).T.astype(np.float32)
    options = {"min_features": 0, "min_cells": 0}
    all_of_them = sx.pp.atac(AnnData(matrix), **options, n_top_features=-1)
    np.testing.assert_allclose(all_of_them.var["prop_shared_cells"], np.array(n_cells) / 100)
    np.testing.assert_allclose(
        all_of_them.var["variability_score"], [1, 0.8, 0.8, 0.8, 0.6, 0.6, 0.55]
    )
    kept = [sx.pp.atac(AnnData(matrix), **options, n_top_features=n).n_vars for n in range(1, 8)]
    assert kept == [1, 4, 4, 4, 6, 6, 7]


def test_binary_peaks_are_selected_like_counts(peaks: AnnData) -> None:
    options = {"batch_key": "batch", "min_features": 0, "n_top_features": 20}
    binary = AnnData((peaks.X > 0).astype(np.float32), obs=peaks.obs, var=peaks.var)
    prepared = sx.pp.atac(binary, **options)
    assert list(prepared.var_names) == list(sx.pp.atac(peaks, **options).var_names)
    one_cell = prepared.X[:, [0]].toarray().ravel()
    assert len(np.unique(one_cell)) > 2  # totals differ between cells


def test_the_default_is_that_way(peaks: AnnData) -> None:
    default = sx.pp.atac(peaks, min_features=0)
    declared = sx.pp.atac(peaks, min_features=0, **DEFAULT)
    assert (default.X != declared.X).nnz == 0


def test_target_sum_is_used_and_recorded(peaks: AnnData) -> None:
    prepared = sx.pp.atac(peaks, min_features=0, target_sum=500, log1p=False)
    record = Preprocessing.from_adata(prepared)
    assert record.target_sum == 500
    values = prepared.X.toarray() * record.scale["0"].to_numpy()
    np.testing.assert_allclose(values.sum(axis=1), 500, rtol=1e-5)
    with pytest.raises(ValueError, match="`target_sum` must be positive"):
        sx.pp.atac(peaks, min_features=0, target_sum=0)


def test_listed_peaks_that_no_cell_has(peaks: AnnData, caplog) -> None:
    peaks.X = sparse.hstack([peaks.X[:, 1:], 0 * peaks.X[:, :1]], format="csr")
    options = {"min_features": 0, "min_cells": 0, "n_top_features": [peaks.var_names[-1]]}
    sx.pp.atac(peaks, **options)
    assert "150 of 150 cells have none of the 1 selected peaks" in caplog.text
    with pytest.raises(ValueError, match="No cell has a count in any of the selected"):
        sx.pp.atac(peaks, **options, target_sum=None)


def test_normalized_totals_are_recognized(peaks: AnnData) -> None:
    totals = peaks.X.toarray().sum(axis=1)
    peaks.X = sparse.csr_matrix(sparse.diags(1e4 / totals) @ peaks.X)
    assert peaks.X.max() > 20  # too large for logarithms
    with pytest.raises(ValueError, match="does not look like counts of peaks"):
        sx.pp.atac(peaks, min_features=0)


@pytest.mark.real_data
def test_log_normalized_peaks_of_a549_are_refused() -> None:
    with pytest.raises(ValueError, match="does not look like counts of peaks"):
        sx.pp.atac(real_data("a549_scicar_atac_peaks"))
    declared = sx.pp.atac(real_data("a549_scicar_atac_peaks"), log_normalized=True)
    assert 30_000 <= declared.n_vars < 52_761
