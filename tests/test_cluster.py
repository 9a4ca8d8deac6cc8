"""On a Dask cluster of two workers: the same as in memory, whatever happens to a worker."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from conftest import simulate_counts, trained_model

import scalex_scvi as sx

da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")

OPTIONS = {"batch_key": "batch", "min_features": 20, "n_top_features": 30}
SECONDS_PER_BLOCK = 0.1
SECONDS_TO_WAIT = 300


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two workers, each a process of its own, and a client that dask uses from here on."""
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with (
        distributed.LocalCluster(silence_logs=logging.CRITICAL, **options) as cluster,
        distributed.Client(cluster),
    ):
        yield cluster


@pytest.fixture
def counts(counts: AnnData) -> AnnData:
    """Some cells are too poor to be kept."""
    x = counts.X.tolil()
    x[40:50, 10:] = 0
    counts.X = x.tocsr()
    return counts


def assert_same(found: AnnData, expected: AnnData) -> None:
    assert expected.shape == (140, 30)
    np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    pd.testing.assert_frame_equal(found.var, expected.var)
    pd.testing.assert_frame_equal(found.varm["scalex_scale"], expected.varm["scalex_scale"])
    assert sx.pp.Preprocessing.from_adata(found) == sx.pp.Preprocessing.from_adata(expected)


def with_traces(x: Any, folder: Path) -> Any:
    """The same dask array; each block takes its time and leaves a trace of who worked on it."""

    def slowly(block: Any) -> Any:
        (folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        time.sleep(SECONDS_PER_BLOCK)
        return block

    return x.map_blocks(slowly, dtype=x.dtype, meta=x._meta)


@contextmanager
def losing_a_worker(cluster: Any, folder: Path, n_blocks: int = 4) -> Iterator[None]:
    """Kill a worker once it has left ``n_blocks`` traces; afterwards, see that it was so."""
    victim = _full_strength(cluster)[0]
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(_kill, victim, folder, n_blocks)
        yield
        assert killed.result()
    workers = {trace.name.split("-")[0] for trace in folder.iterdir()}
    assert str(victim) in workers
    assert len(workers) > 1


def _full_strength(cluster: Any) -> list[int]:
    """Processes of two workers, at work: an earlier test may have left one of them starting."""
    cluster.scale(2)
    client = distributed.get_client()
    client.wait_for_workers(2, timeout=SECONDS_TO_WAIT)
    return list(client.run(os.getpid).values())


def _kill(pid: int, folder: Path, n_blocks: int) -> bool:
    deadline = time.monotonic() + SECONDS_TO_WAIT
    while time.monotonic() < deadline:
        if len(list(folder.glob(f"{pid}-*"))) >= n_blocks:
            os.kill(pid, signal.SIGKILL)
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("target_sum", [1e4, None], ids=["fixed total", "median total"])
def test_counts_on_disk_become_a_store(
    counts: AnnData, tmp_path: Path, cluster: Any, target_sum: float | None
) -> None:
    expected = sx.pp.rna(counts, target_sum=target_sum, **OPTIONS)
    counts.write_zarr(tmp_path / "counts.zarr")
    lazy = sx.io.read_lazy(tmp_path / "counts.zarr", cells_in_block=20)
    prepared = sx.pp.rna(lazy, target_sum=target_sum, **OPTIONS)
    sx.io.write_store(prepared, tmp_path / "prepared.zarr")
    assert_same(sx.io.read(tmp_path / "prepared.zarr"), expected)


@pytest.mark.parametrize("batch_stats", ["running", "batch"])
def test_counts_on_disk_become_a_latent(
    counts: AnnData, tmp_path: Path, cluster: Any, batch_stats: str
) -> None:
    model = trained_model(sx.pp.rna(counts, **OPTIONS))
    query = simulate_counts(100, seed=3)
    query.obs["batch"] = query.obs["batch"].cat.rename_categories({"batch1": "new"})
    projected = sx.SCALEXModel.load_query_data(query, model)
    expected = projected.get_latent_representation(batch_stats=batch_stats)
    query.write_zarr(tmp_path / "counts.zarr")
    out = tmp_path / "latent.h5ad"
    sx.SCALEXModel.as_model(model).project_store(
        tmp_path / "counts.zarr", out, batch_stats=batch_stats, cells_in_block=20
    )
    np.testing.assert_allclose(ad.read_h5ad(out).obsm["latent"], expected, atol=1e-5)


def test_preprocessing_survives_a_lost_worker(
    counts: AnnData, tmp_path: Path, cluster: Any
) -> None:
    expected = sx.pp.rna(counts, **OPTIONS)
    traces = tmp_path / "traces"
    traces.mkdir()
    lazy = counts.copy()
    lazy.X = with_traces(da.from_array(counts.X.toarray(), chunks=(5, -1)), traces)
    with losing_a_worker(cluster, traces):
        prepared = sx.pp.rna(lazy, **OPTIONS)
    prepared.X = prepared.X.compute()
    assert_same(prepared, expected)


def test_projection_survives_a_lost_worker(
    model: sx.SCALEXModel, tmp_path: Path, cluster: Any
) -> None:
    expected = model.get_latent_representation(batch_stats="batch")
    x = with_traces(da.from_array(model.adata.X.toarray(), chunks=(5, -1)), tmp_path)
    with losing_a_worker(cluster, tmp_path):
        cells = AnnData(x, obs=model.adata.obs[["batch"]].copy(), var=model.adata.var.copy())
        latent = model.get_latent_representation(cells, batch_stats="batch")
    np.testing.assert_allclose(latent, expected, atol=1e-5)
