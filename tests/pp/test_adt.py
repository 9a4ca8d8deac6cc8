"""pp.adt: centered log-ratio of each cell."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from conftest import real_data
from scipy.stats import gmean

import scalex_scvi as sx
from scalex_scvi.pp import Preprocessing


def clr(counts: np.ndarray) -> np.ndarray:
    """Formula of Seurat (margin = 2) and muon (axis=1), by another route."""
    return np.log(1 + counts / gmean(1 + counts.astype(np.float64), axis=1, keepdims=True))


def agrees(proteins: AnnData) -> AnnData:
    prepared = sx.pp.adt(proteins, batch_key="batch")
    counts = proteins[:, prepared.var_names].X
    expected = clr(counts if isinstance(counts, np.ndarray) else counts.toarray())
    np.testing.assert_allclose(prepared.raw.X.toarray(), expected, rtol=1e-5, atol=1e-7)
    for batch in proteins.obs["batch"].unique():
        rows = (proteins.obs["batch"] == batch).to_numpy()
        maxima = np.maximum(expected[rows].max(axis=0), 1e-30)
        np.testing.assert_allclose(
            prepared.X[rows].toarray(), expected[rows] / maxima, rtol=1e-5, atol=1e-7
        )
    return prepared


def test_equals_the_formula(proteins: AnnData) -> None:
    assert agrees(proteins).shape == proteins.shape


@pytest.mark.real_data
def test_equals_the_formula_on_cite_seq() -> None:
    adata = real_data("pbmc_cite_5k_10k_scvi_testdata")
    prepared = agrees(AnnData(adata.obsm["protein_expression"], obs=adata.obs))
    assert prepared.shape == (400, 14)


def test_a_protein_that_no_cell_has_is_removed(proteins: AnnData) -> None:
    values = proteins.X.toarray()
    values[:, 4] = 0
    proteins.X = values
    assert "CD4" not in agrees(proteins).var_names


def test_selection_keeps_the_log_ratios_over_all_proteins(proteins: AnnData) -> None:
    everything = sx.pp.adt(proteins, batch_key="batch")
    for selection in (["CD7", "CD2"], 4):
        some = sx.pp.adt(proteins, batch_key="batch", n_top_features=selection)
        assert some.raw.n_vars == 15
        expected = everything[:, some.var_names].X.toarray()
        np.testing.assert_array_equal(some.X.toarray(), expected)


def test_a_number_selects_by_variance_within_batches(proteins: AnnData) -> None:
    prepared = sx.pp.adt(proteins, batch_key="batch", n_top_features=4)
    values, batch = clr(proteins.X.toarray()), proteins.obs["batch"].cat.codes.to_numpy()
    variance = sum((batch == b).mean() * values[batch == b].var(axis=0) for b in range(3))
    best = sorted(np.argsort(-variance)[:4])
    assert list(prepared.var_names) == list(proteins.var_names[best])
    np.testing.assert_allclose(prepared.var["variance_within_batches"], variance[best], rtol=1e-5)


def test_additional_proteins_do_not_matter_and_missing_ones_are_no_zeros(
    proteins: AnnData,
) -> None:
    reference = sx.pp.adt(proteins[:, :12], batch_key="batch")
    record = Preprocessing.from_adata(reference)
    more = sx.pp.prepare_query(proteins[:, ::-1], record, batch_key="batch")
    np.testing.assert_allclose(more.X.toarray(), reference.X.toarray(), rtol=1e-6)

    fewer = sx.pp.prepare_query(proteins[:, :10], record, batch_key="batch")
    assert fewer.X[:, 10:].nnz == 0
    expected = clr(proteins.X[:, :10].toarray())
    scale = record.scale.to_numpy()[:10, proteins.obs["batch"].cat.codes].T
    np.testing.assert_allclose(
        fewer.X[:, :10].toarray(), np.minimum(expected / scale, 1), rtol=1e-5
    )


def test_there_is_no_target_sum(proteins: AnnData) -> None:
    assert Preprocessing.from_adata(sx.pp.adt(proteins)).target_sum is None
