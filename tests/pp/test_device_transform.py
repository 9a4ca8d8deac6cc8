"""The transform on a device against the plain one; a GPU where there is one, else the CPU."""

import anndata as ad
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

import scalex_scvi as sx
from scalex_scvi.pp import DeviceRows, on_device

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def counts(profile: str, n_cells: int = 90, n_features: int = 60) -> ad.AnnData:
    rng = np.random.default_rng(0)
    values = rng.poisson(0.7, (n_cells, n_features)).astype(np.float32)
    if profile == "ADT":
        values += 1
    values[3] = 0 if profile == "RNA" else values[3]
    adata = ad.AnnData(sparse.csr_matrix(values))
    adata.var_names = [f"{'MT-' if i == 5 else 'f'}{i}" for i in range(n_features)]
    adata.obs["batch"] = np.where(np.arange(n_cells) % 3 == 0, "a", "b")
    return adata


@pytest.mark.parametrize("profile", ["RNA", "ATAC", "ADT"])
@pytest.mark.parametrize("kind", [sparse.csr_matrix, np.asarray])
def test_values_are_those_of_the_plain_transform(profile: str, kind: object) -> None:
    adata = counts(profile)
    n_top = None if profile == "ADT" else 30
    sx.SCALEXModel.setup_anndata(adata, batch_key="batch", profile=profile, n_top_features=n_top)
    manager = sx.SCALEXModel(adata).adata_manager
    block = adata.X if kind is sparse.csr_matrix else adata.X.toarray()
    before = adata.X.copy()
    expected = manager.transform(adata.X, manager.codes).toarray()
    there = on_device(manager.transform, DEVICE)(block, manager.codes)
    assert_allclose(there.dense().cpu().numpy(), expected, atol=2e-7)
    assert (adata.X != before).nnz == 0


def test_a_gene_without_scale_in_its_batch_becomes_one() -> None:
    adata = counts("RNA")
    adata.X[np.flatnonzero(adata.obs["batch"] == "a"), 7] = 0
    adata.X.eliminate_zeros()
    sx.SCALEXModel.setup_anndata(adata, batch_key="batch")
    manager = sx.SCALEXModel(adata).adata_manager
    new = adata[adata.obs["batch"] == "a"].copy()
    new.X[:, 7] = 3
    codes = np.zeros(new.n_obs, dtype=np.int64)
    there = on_device(manager.transform, DEVICE)(new.X, codes).dense().cpu().numpy()
    gene = manager.transform(new.X, codes).toarray()
    assert_allclose(there, gene, atol=2e-7)
    assert (there == 1).any()


def test_rows_are_taken_in_any_order_and_more_than_once() -> None:
    matrix = sparse.random(20, 9, density=0.3, format="csr", dtype=np.float32, random_state=0)
    matrix[4] = 0
    rows = DeviceRows.stack([DeviceRows.of(matrix[:7], DEVICE), DeviceRows.of(matrix[7:], DEVICE)])
    wanted = torch.tensor([19, 4, 4, 0, 8])
    assert_array_equal(rows.take(wanted).cpu().numpy(), matrix[wanted.numpy()].toarray())
    assert_array_equal(rows.dense().cpu().numpy(), matrix.toarray())
