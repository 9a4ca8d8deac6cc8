"""On a Dask cluster of two workers: the same as in memory, whatever happens to a worker."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
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
from forked import LIBRARIES, start_server

import scalex_scvi as sx

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")

OPTIONS = {"batch_key": "batch", "min_features": 20, "n_top_features": 30}
SECONDS_PER_BLOCK = 0.05
SECONDS_TO_WAIT = 300  # for a machine that does much else


@pytest.fixture(scope="module", autouse=True)
def quick_starts() -> Iterator[None]:
    """Workers are forked from a server that has imported what they work with."""
    start_server()
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield


@contextmanager
def two_workers() -> Iterator[Any]:
    """Start two workers, each a process of its own, and a client that dask uses inside."""
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with (
        distributed.LocalCluster(silence_logs=logging.CRITICAL, **options) as cluster,
        distributed.Client(cluster),
    ):
        yield cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two workers for all tests to which nothing happens."""
    with two_workers() as cluster:
        yield cluster


@pytest.fixture
def own_cluster() -> Iterator[Any]:
    """Two workers for one test, which may leave the cluster in any state."""
    with two_workers() as cluster:
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


class Turnover:
    """What happens to the workers while they work: one joins, one is killed, one retires.

    Each block takes its time, and leaves a trace of who worked on it. The work is held until the
    new worker is there, and near its end until all has happened, however fast the machine is.

    Parameters
    ----------
    cluster
        Two workers.
    folder
        For the traces.
    after
        Blocks that are worked on before it begins: those of earlier passes, too.
    """

    def __init__(self, cluster: Any, folder: Path, after: int) -> None:
        self.cluster = cluster
        self.client = distributed.get_client()
        self.folder = folder
        self.after = after
        folder.mkdir()

    def slowly(self, x: Any) -> Any:
        """Return the same dask array, for the workers to work on as described."""
        folder = self.folder
        gates = {self.after: folder / "joined", self.after + 20: folder / "over"}
        seconds, deadline = SECONDS_PER_BLOCK, time.time() + SECONDS_TO_WAIT

        def trace(block: Any) -> Any:  # in a worker, which does not know this file
            (folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()
            time.sleep(seconds)
            while time.time() < deadline:
                n_traces = sum("-" in name for name in os.listdir(folder))
                if all(gate.exists() for n, gate in gates.items() if n_traces > n):
                    break
                time.sleep(0.02)
            return block

        return x.map_blocks(trace, dtype=x.dtype, meta=x._meta)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Let it happen while the block runs; afterwards, see that it was so."""
        old = self.client.run(os.getpid)
        with ThreadPoolExecutor(1) as pool:
            gone = pool.submit(self._happen, old)
            yield
            assert gone.result() <= {int(trace.split("-")[0]) for trace in _traces(self.folder)}

    def _happen(self, old: dict[str, int]) -> set[int]:
        """Return the workers that are gone, all of which held results."""
        try:
            _wait_until(lambda: len(_traces(self.folder)) > self.after)
            self.cluster.scale(3)
            self.client.wait_for_workers(3, timeout=SECONDS_TO_WAIT)
            now = self.client.run(os.getpid)
            # To be as fast as those that have worked before.
            for library in LIBRARIES:
                self.client.run(importlib.import_module, library)
            (joined,) = set(now) - set(old)
            (self.folder / "joined").touch()
            _wait_until(lambda: self._has_worked(now[joined]))
            killed = next(pid for pid in old.values() if self._has_worked(pid))
            os.kill(killed, signal.SIGKILL)
            self.client.retire_workers([joined])
            assert joined not in self.client.scheduler_info()["workers"]
            assert len(list(self.folder.glob("over"))) == 0
            return {killed, now[joined]}
        finally:
            for gate in ("joined", "over"):
                (self.folder / gate).touch()

    def _has_worked(self, pid: int) -> bool:
        """Whether a worker is at its second block, and so done with its first."""
        return sum(trace.startswith(f"{pid}-") for trace in _traces(self.folder)) > 1


def _traces(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if "-" in name]


def _wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS_TO_WAIT
    while not happened():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.02)


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


def test_workers_read_object_storage(
    counts: AnnData, tmp_path: Path, cluster: Any, upload: Callable[[Path], str]
) -> None:
    """How to reach it is known to this process alone, and goes along with the work."""
    expected = sx.pp.rna(counts, **OPTIONS)
    counts.write_zarr(tmp_path / "counts.zarr")
    address = upload(tmp_path / "counts.zarr")
    prepared = sx.pp.rna(sx.io.read_lazy(address, cells_in_block=20), **OPTIONS)
    prepared.X = prepared.X.compute()
    assert_same(prepared, expected)
    model = trained_model(expected)
    latents = []
    for place in (address, tmp_path / "counts.zarr"):
        sx.SCALEXModel.as_model(model).project_store(
            place, tmp_path / "latent.h5ad", cells_in_block=20
        )
        latents.append(ad.read_h5ad(tmp_path / "latent.h5ad").obsm["latent"])
    np.testing.assert_array_equal(*latents)


def in_blocks(adata: AnnData) -> AnnData:
    lazy = adata.copy()
    lazy.X = da.from_array(adata.X.toarray(), chunks=(5, -1))
    return lazy


def test_the_fit_survives_what_happens_to_workers(
    counts: AnnData, tmp_path: Path, own_cluster: Any
) -> None:
    expected = sx.pp.rna(counts, **OPTIONS)
    turnover = Turnover(own_cluster, tmp_path / "traces", after=4)
    lazy = in_blocks(counts)
    lazy.X = turnover.slowly(lazy.X)
    with turnover():
        prepared = sx.pp.rna(lazy, **OPTIONS)
    prepared.X = prepared.X.compute()
    assert_same(prepared, expected)


def test_the_projection_survives_what_happens_to_workers(
    counts: AnnData, tmp_path: Path, own_cluster: Any
) -> None:
    """Raw counts with a new batch: they are read three times, and it happens in the last pass."""
    model = trained_model(sx.pp.rna(counts, **OPTIONS))
    counts.obs["batch"] = counts.obs["batch"].cat.rename_categories({"batch1": "new"})

    def latent_of(cells: AnnData) -> np.ndarray:
        query = sx.SCALEXModel.load_query_data(cells, model)
        return query.get_latent_representation(batch_stats="batch")

    with dask.config.set(scheduler="threads"):
        expected = latent_of(in_blocks(counts))
    turnover = Turnover(own_cluster, tmp_path / "traces", after=2 * 30 + 4)
    lazy = in_blocks(counts)
    lazy.X = turnover.slowly(lazy.X)
    with turnover():
        latent = latent_of(lazy)
    np.testing.assert_array_equal(latent, expected)
    np.testing.assert_allclose(latent, latent_of(counts), atol=1e-5)
