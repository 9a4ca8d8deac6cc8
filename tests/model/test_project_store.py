"""project_store and dask arrays: the latent of cells that are never in memory all at once."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from anndata import AnnData
from conftest import simulate_counts, trained_model
from scipy import sparse

import scalex_scvi as sx

pytest.importorskip("dask")

READ = {".h5ad": ad.read_h5ad, ".zarr": ad.read_zarr}


@pytest.fixture
def query() -> AnnData:
    """Counts of two new batches and a known one; the batches lie mixed."""
    adata = simulate_counts(330, seed=3)
    names = {"batch1": "new1", "batch2": "new2"}
    adata.obs["batch"] = adata.obs["batch"].cat.rename_categories(names)
    return adata[:, ::-1].copy()


def write(adata: AnnData, path: Path) -> Path:
    adata.write_h5ad(path) if path.suffix == ".h5ad" else adata.write_zarr(path)
    return path


def in_memory(query: AnnData, model: sx.SCALEXModel, batch_stats: str) -> np.ndarray:
    projected = sx.SCALEXModel.load_query_data(query, model)
    return projected.get_latent_representation(batch_stats=batch_stats)


@pytest.mark.parametrize("batch_stats", ["running", "batch"])
@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("make", [sparse.csr_matrix, lambda x: x.toarray()], ids=["csr", "dense"])
def test_equals_the_projection_in_memory(
    model: sx.SCALEXModel,
    query: AnnData,
    tmp_path: Path,
    batch_stats: str,
    suffix: str,
    make: object,
) -> None:
    expected = in_memory(query, model, batch_stats)
    query.X = make(query.X)
    path = write(query, tmp_path / f"counts{suffix}")
    out = tmp_path / f"latent{suffix}"
    for _ in range(2):  # the second replaces the first
        model.project_store(path, out, batch_stats=batch_stats, cells_in_block=70)
    written = READ[suffix](out)
    assert list(written.obs_names) == list(query.obs_names)
    assert list(written.obs["batch"]) == list(query.obs["batch"])
    np.testing.assert_allclose(written.obsm["latent"], expected, atol=1e-5)
    assert {p.name for p in tmp_path.iterdir()} == {path.name, out.name}


def test_layer_and_saved_model(model: sx.SCALEXModel, query: AnnData, tmp_path: Path) -> None:
    expected = in_memory(query, model, "running")
    query.layers["counts"] = query.X.copy()
    query.X = query.X * 0
    path = write(query, tmp_path / "counts.h5ad")
    model.save(tmp_path / "model")
    sx.SCALEXModel.load(tmp_path / "model", adata=False).project_store(
        path, tmp_path / "z.h5ad", layer="counts"
    )
    latent = ad.read_h5ad(tmp_path / "z.h5ad").obsm["latent"]
    np.testing.assert_allclose(latent, expected, atol=1e-5)


def test_processed_cells(model: sx.SCALEXModel, tmp_path: Path) -> None:
    prepared = AnnData(model.adata.X, model.adata.obs[["batch"]], model.adata.var[[]])
    path = write(prepared, tmp_path / "prepared.h5ad")
    out = tmp_path / "z.h5ad"
    model.project_store(path, out, processed=True, cells_in_block=40)
    np.testing.assert_allclose(
        ad.read_h5ad(out).obsm["latent"], model.get_latent_representation(), atol=1e-5
    )
    other = write(prepared[:, ::-1].copy(), tmp_path / "other.h5ad")
    model.project_store(other, out, processed=True)
    np.testing.assert_allclose(
        ad.read_h5ad(out).obsm["latent"], model.get_latent_representation(), atol=1e-5
    )


def test_what_is_said_of_a_file_of_registered_cells_counts(counts: AnnData, tmp_path: Path) -> None:
    """Its registration is that of the object that it was written from, whose values were others."""
    model = trained_model(counts)
    expected = model.get_latent_representation()
    log = counts.copy()
    log.X = (log.X / log.X.sum(axis=1) * 1e4).tocsr().log1p()
    path, out = write(log, tmp_path / "log.h5ad"), tmp_path / "z.h5ad"
    assert "_scvi_uuid" in ad.read_h5ad(path).uns
    model.project_store(path, out, log_normalized=True)
    np.testing.assert_allclose(ad.read_h5ad(out).obsm["latent"], expected, atol=1e-4)
    assert model.adata_manager is model.get_anndata_manager(counts)
    np.testing.assert_array_equal(model.get_latent_representation(), expected)


def test_mistakes_leave_an_earlier_result(
    model: sx.SCALEXModel, query: AnnData, tmp_path: Path
) -> None:
    path = write(query, tmp_path / "counts.h5ad")
    out = tmp_path / "z.h5ad"
    model.project_store(path, out)
    before = out.read_bytes()
    with pytest.raises(ValueError, match="is what `adata` is read from"):
        model.project_store(path, path)
    with pytest.raises(ValueError, match="'running' or 'batch', got 'train'"):
        model.project_store(path, out, batch_stats="train")
    with pytest.raises(ValueError, match="must end in one of"):
        model.project_store(path, tmp_path / "z.csv")
    query.X = query.X.log1p()
    path = write(query, tmp_path / "log.h5ad")
    with pytest.raises(ValueError, match="does not look like counts"):
        model.project_store(path, out)
    assert out.read_bytes() == before


@pytest.mark.parametrize("batch_stats", ["running", "batch"])
def test_latent_of_a_dask_array(model: sx.SCALEXModel, batch_stats: str) -> None:
    import dask.array as da

    expected = model.get_latent_representation(batch_stats=batch_stats)
    lazy = AnnData(
        da.from_array(model.adata.X.toarray(), chunks=(40, -1)),
        obs=model.adata.obs[["batch"]].copy(),
        var=model.adata.var[[]].copy(),
    )
    latent = model.get_latent_representation(lazy, batch_stats=batch_stats)
    assert isinstance(latent, np.ndarray)
    np.testing.assert_allclose(latent, expected, atol=1e-5)
    order = [120, 3, 3, 77]
    np.testing.assert_allclose(
        model.get_latent_representation(lazy, indices=order),
        model.get_latent_representation(indices=order),
        atol=1e-5,
    )
