"""Large sparse matrices whose row pointers and column numbers are of different types."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

import scalex_scvi as sx
from scalex_scvi._core.matrices import with_one_index_type

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def mixed(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """The same matrix as many files hold it: 64-bit pointers, 32-bit column numbers."""
    other = matrix.copy()
    other.indptr = other.indptr.astype(np.int64)
    assert other.indices.dtype == np.int32
    return other


@pytest.fixture
def prepared() -> AnnData:
    counts = sparse.random(60, 40, density=0.3, format="csr", random_state=0, dtype=np.float32)
    return AnnData(counts, obs={"batch": ["a", "b"] * 30})


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csr_array])
def test_only_the_pointers_are_copied(kind: type) -> None:
    given = mixed(kind(sparse.random(50, 20, density=0.2, format="csr", random_state=0)))
    one = with_one_index_type(given)
    assert type(one) is kind
    assert one.indptr.dtype == one.indices.dtype == np.int32
    assert np.shares_memory(one.data, given.data)
    assert np.shares_memory(one.indices, given.indices)
    assert given.indptr.dtype == np.int64
    np.testing.assert_array_equal(one.toarray(), given.toarray())


def test_one_type_already_is_left_alone() -> None:
    given = sparse.random(50, 20, density=0.2, format="csr", random_state=0)
    assert with_one_index_type(given) is given


def test_training_and_latent_are_those_of_one_type(prepared: AnnData) -> None:
    latents = []
    for x in (prepared.X, mixed(prepared.X)):
        adata = AnnData(x, obs=prepared.obs)
        sx.SCALEXModel.setup_anndata(adata, batch_key="batch")
        model = sx.SCALEXModel(adata, n_hidden=16)
        model.train(max_steps=4, **QUIET)
        latents.append(model.get_latent_representation())
    np.testing.assert_array_equal(*latents)
    assert adata.X.indptr.dtype == np.int64  # the user's matrix stays as it is


def test_taking_some_rows_does_not_touch_all_values(prepared: AnnData) -> None:
    x = sparse.random(20_000, 40, density=0.5, format="csr", random_state=0, dtype=np.float32)
    adata = AnnData(mixed(x), obs={"batch": ["a", "b"] * 10_000})
    sx.SCALEXModel.setup_anndata(adata, batch_key="batch")
    model = sx.SCALEXModel(adata, n_hidden=16)
    model.is_trained_ = True
    model.get_latent_representation(indices=range(64))  # what is done once
    dataset = model.adata_manager.create_torch_dataset()
    dataset[np.arange(64)]
    tracemalloc.start()
    try:
        model.get_latent_representation(indices=range(64))
        dataset[np.arange(64)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < x.indices.nbytes  # 1.6 MB; as 64-bit numbers they are 3.2


def test_no_cells_are_an_error(prepared: AnnData) -> None:
    sx.SCALEXModel.setup_anndata(prepared, batch_key="batch")
    model = sx.SCALEXModel(prepared, n_hidden=16)
    model.is_trained_ = True
    with pytest.raises(ValueError, match="no cells"):
        model.get_latent_representation(indices=np.zeros(60, dtype=bool))
