"""Correlations of neighborhoods with labels, without dense expression."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from scalex_scvi.tl._misfits import _label_correlations
from scalex_scvi.tl._neighborhoods import averaging


@pytest.mark.parametrize("n_neighbors", [1, 7])
def test_they_are_those_of_dense_rows(n_neighbors: int) -> None:
    rng = np.random.default_rng(0)
    x = sparse.random(60, 30, 0.3, "csr", np.float32, random_state=0)
    others = rng.integers(60, size=(60, n_neighbors - 1))
    average = averaging(np.column_stack([np.arange(60), others]), 60)
    offset, means = rng.normal(scale=0.1, size=30), rng.gamma(0.5, size=(4, 30))
    found = _label_correlations(x, average, offset, means)
    dense = x.toarray().astype(np.float64)
    own = average.toarray() @ dense
    noise = ((average @ dense**2).mean(axis=1) - (own**2).mean(axis=1)) / max(n_neighbors - 1, 1)
    rows = own - offset
    variance = rows.var(axis=1)
    signal = np.clip((variance - noise) / variance, 0.05, 1) ** 0.25
    expected = np.corrcoef(rows, means)[:60, 60:] / signal[:, None]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_rows_that_do_not_vary_correlate_with_nothing() -> None:
    x = sparse.csr_matrix(np.vstack([np.full(30, 0.7), np.zeros(30)]).astype(np.float32))
    average = averaging(np.arange(2)[:, None], 2)
    means = np.random.default_rng(0).gamma(0.5, size=(3, 30))
    np.testing.assert_array_equal(_label_correlations(x, average, np.zeros(30), means), 0)
