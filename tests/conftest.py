"""Shared data. Real data sets are read from the folder that SCALEX_SCVI_DATA names."""

from __future__ import annotations

import gc
import inspect
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, lru_cache, wraps
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import anndata as ad
import matplotlib
import numba
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from threadpoolctl import threadpool_limits

import scalex_scvi as sx

matplotlib.use("Agg")
# Before JAX is imported: the tests of scib-metrics spend most of their time on compilation, less
# of it where what runs once need not be fast.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

FORKED = (
    "test_tutorials.py",
    "test_ddp.py",
    "test_cluster.py",
    "test_distributed.py",
    "test_resumed_runs.py",
    "test_named_batches.py",
    "test_light_start.py",
)
"""Files whose processes are forked (:mod:`forked`), from one server."""

COMPILED = (
    "test_beside_umap.py",
    "test_scvi_tutorials.py",
    "test_neighbor_search.py",
    "test_benchmark.py",
    "test_examples.py",
)
"""Files that need what numba (for umap) and JAX compile for a while in each process."""

LONGEST = (
    *FORKED,
    "test_real_data.py",
    *COMPILED,
    "test_verbs.py",
    "test_references.py",
    "test_commands.py",
)

ON_DEMAND = ("umap.", "pynndescent.distances", "pynndescent.sparse")
"""Modules whose many functions numba would compile as they are imported."""

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


def pytest_configure() -> None:
    """Look for garbage less often: as a rule, there is none, and it is the longer looked for."""
    gc.set_threshold(10_000, 20, 100)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest files, so that no process is left alone with one at the end."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each file to one process, as ``--dist loadfile`` does; `FORKED`, and `COMPILED`, too."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    together = dict.fromkeys(FORKED, "forked") | dict.fromkeys(COMPILED, "compiled")

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return together.get(file.rpartition("/")[2], file)

    return ByFile(config, log)


def pytest_collection_finish() -> None:
    """Collect no garbage in what is imported: going through it took a tenth of all time."""
    gc.collect()
    gc.freeze()


def simulate_counts(
    n_cells: int = 150, n_genes: int = 60, n_batches: int = 3, seed: int = 0
) -> AnnData:
    """Counts of three types in batches with gene-wise multiplicative effects."""
    return _simulated(n_cells, n_genes, n_batches, seed).copy()


@lru_cache(maxsize=20)
def _simulated(n_cells: int, n_genes: int, n_batches: int, seed: int) -> AnnData:
    """Draw them once for all tests: a copy takes a sixth of the time."""
    rng = np.random.default_rng(seed)
    celltype = rng.integers(3, size=n_cells)
    batch = np.arange(n_cells) % n_batches
    profiles = rng.lognormal(1, 1, size=(3, n_genes))
    effects = rng.lognormal(0, 0.7, size=(n_batches, n_genes))
    counts = rng.poisson(profiles[celltype] * effects[batch])
    return AnnData(
        X=sparse.csr_matrix(counts, dtype=np.float32),
        obs=pd.DataFrame(
            {
                "batch": pd.Categorical([f"batch{i}" for i in batch]),
                "celltype": pd.Categorical([f"type{i}" for i in celltype]),
            },
            index=[f"cell{i}" for i in range(n_cells)],
        ),
        var=pd.DataFrame(index=[f"gene{i}" for i in range(n_genes)]),
    )


@pytest.fixture
def counts() -> AnnData:
    return simulate_counts()


@pytest.fixture(scope="session")
def prepared_once() -> AnnData:
    return sx.pp.rna(simulate_counts(), batch_key="batch", min_features=0)


@pytest.fixture
def prepared(prepared_once: AnnData) -> AnnData:
    """What is made of the counts, for each test: a copy takes a tenth of the time."""
    return prepared_once.copy()


def small_model(adata: AnnData, **kwargs: object) -> sx.SCALEXModel:
    """An untrained small model."""
    sx.SCALEXModel.setup_anndata(adata, batch_key="batch")
    return sx.SCALEXModel(adata, n_hidden=32, n_latent=5, **kwargs)


def trained_model(adata: AnnData, **kwargs: object) -> sx.SCALEXModel:
    """A small model after some epochs."""
    model = small_model(adata)
    model.train(**({"max_epochs": 15, "lr_schedule": "constant"} | QUIET | kwargs))
    return model


@pytest.fixture(scope="module", autouse=True)
def nothing_old_is_collected() -> None:
    """Nor, in a file's tests, in what earlier files left: scib-metrics collects in each score."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of a test is noted in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALEX_SCVI_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def installed_packages() -> Iterator[None]:
    """Lightning asks all installed packages for callbacks before each training; here but once."""
    from lightning.fabric.utilities import registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "entry_points", cache(entry_points), raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def compiled_on_demand() -> Iterator[None]:
    """numba compiles what is called of umap and of distances, not all at the import.

    And for one thread: loops for several take three times as long to compile.
    """

    def njit(*args: Any, **options: Any) -> Any:
        if args and inspect.isfunction(args[0]):
            return plain(*args, **options)

        def decorate(function: Callable[..., Any]) -> Any:
            if function.__module__.startswith(ON_DEMAND):
                return plain(**(options | {"parallel": False}))(function)
            return plain(*args, **options)(function)

        return decorate

    plain = numba.njit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba, "njit", njit)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_thread_for_each_file() -> Iterator[None]:
    """zarr reads and writes its many small files in the thread that it has, not each in another.

    Going from thread to thread took a quarter of the time of all stores.
    """

    async def at_once(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        for module in ("zarr.storage._local", "zarr.codecs.zstd", "zarr.codecs.blosc"):
            with suppress(ImportError, AttributeError):  # of another version, or not installed
                patch.setattr(f"{module}.asyncio", SimpleNamespace(to_thread=at_once))
        yield


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine of three cores where no number of threads is set."""
    import scvi
    import torch

    from scalex_scvi._core.threads import SETTINGS

    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(scvi.settings, "_num_threads", None)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    with threadpool_limits(3):
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory, prepared_once: AnnData) -> Path:
    """Folder of the model that all tests share: trained once."""
    folder = tmp_path_factory.mktemp("model") / "model"
    trained_model(prepared_once.copy()).save(folder)
    return folder


@pytest.fixture(scope="module")
def narrow() -> Iterator[None]:
    """A network of which no width is said has 128 hidden units, not 1024.

    For files that check what holds with any width: they take a fifth less time.
    """

    def by_default(self: sx.SCALEXModel, *args: Any, n_hidden: int = 128, **kwargs: Any) -> None:
        plain(self, *args, n_hidden=n_hidden, **kwargs)

    plain = sx.SCALEXModel.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sx.SCALEXModel, "__init__", wraps(plain)(by_default))
        yield


@pytest.fixture
def model(saved_model: Path, prepared: AnnData) -> sx.SCALEXModel:
    """A trained model of a test's own, of the cells in ``prepared``."""
    return sx.SCALEXModel.load(saved_model, adata=prepared)


@pytest.fixture(scope="session", autouse=True)
def dpi() -> Iterator[int]:
    """Pictures are saved with few dots, in less time. Yields how many an inch has by default."""
    from scalex_scvi.pl import _figure

    default = _figure.DPI
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_figure, "DPI", 40)
        yield default


def share_between_batches(latent: np.ndarray, batch: pd.Series) -> float:
    """Share of the latent's variance that lies between the batches' means."""
    centered = latent - latent.mean(axis=0)
    means = pd.DataFrame(centered).groupby(batch.to_numpy(), observed=True).transform("mean")
    return float((means.to_numpy() ** 2).sum() / (centered**2).sum())


def real_data(name: str) -> AnnData:
    """Read a real data set, or skip: they may not enter the repository.

    pytest's ``-ra``, always on here, and ``.ci/run`` list each skip with its reason.
    """
    folder = os.environ.get("SCALEX_SCVI_DATA")
    if not folder:
        pytest.skip("SCALEX_SCVI_DATA does not name a folder with the real data sets")
    path = Path(folder) / f"{name}.h5ad"
    if not path.exists():
        pytest.skip(f"{path.name} is not in SCALEX_SCVI_DATA")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ad.read_h5ad(path)


@pytest.fixture(scope="session")
def storage_access() -> Iterator[dict[str, Any]]:
    """What one needs to know to use an object storage: moto's server stands for it."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {"key": "key", "secret": "secret", "endpoint_url": f"http://{host}:{port}"}
    server.stop()


@pytest.fixture
def upload(
    storage_access: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], str]:
    """Copy a file or folder into the storage, which addresses lead to; return its address."""
    s3fs = pytest.importorskip("s3fs")
    monkeypatch.setitem(pytest.importorskip("fsspec").config.conf, "s3", storage_access)
    storage = s3fs.S3FileSystem()
    bucket = f"bucket-{uuid4().hex}"
    storage.mkdir(bucket)

    def copied(path: Path) -> str:
        storage.put(str(path), f"{bucket}/{path.name}", recursive=True)
        return f"s3://{bucket}/{path.name}"

    return copied
