"""Principal components for label transfer, beside scikit-learn's."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import PCA

from scalex_scvi.tl._components import _covariance_pays, principal_directions


def cells(n_cells: int, density: float) -> sparse.csr_matrix:
    """Expression of 40 genes with five clear directions, and noise."""
    generator = np.random.default_rng(0)
    means = generator.normal(size=(n_cells, 5)) @ generator.normal(size=(5, 40))
    values = (means + generator.normal(scale=0.1, size=means.shape) + 3).astype(np.float32)
    values[generator.uniform(size=values.shape) > density] = 0
    return sparse.csr_matrix(values)


@pytest.mark.parametrize(("n_cells", "by_covariance"), [(3000, True), (30, False)])
def test_directions_are_those_of_scikit_learn(n_cells: int, by_covariance: bool) -> None:
    x = cells(n_cells, density=0.8)
    assert _covariance_pays(x) is by_covariance
    mean, directions = principal_directions(x, 4)
    expected = PCA(4, svd_solver="full").fit(x.toarray())
    assert mean == pytest.approx(expected.mean_, rel=1e-5)
    assert np.abs(directions.T @ expected.components_.T) == pytest.approx(np.eye(4), abs=1e-3)


@pytest.mark.parametrize("n_cells", [10, 3000])
@pytest.mark.parametrize("value", [0, 1.5])
def test_cells_that_are_all_alike_have_no_directions(n_cells: int, value: float) -> None:
    x = sparse.csr_matrix(np.full((n_cells, 40), value, dtype=np.float32))
    mean, directions = principal_directions(x, 4)
    assert mean == pytest.approx(np.full(40, value))
    assert np.array_equal(directions, np.zeros((40, 4)))


def test_directions_repeat_bit_for_bit() -> None:
    x = cells(3000, density=0.8)
    (_, one), (_, two) = principal_directions(x, 4), principal_directions(x, 4)
    assert np.array_equal(one, two)


@pytest.mark.parametrize(
    ("shape", "density"), [((1_000, 2_000), 0.5), ((20_000, 2_000), 0.05), ((40_000, 6_000), 0.2)]
)
def test_few_or_sparse_cells_or_many_genes_are_left_to_scikit_learn(
    shape: tuple[int, int], density: float
) -> None:
    n_values = int(shape[0] * shape[1] * density)
    assert not _covariance_pays(SimpleNamespace(shape=shape, nnz=n_values))
