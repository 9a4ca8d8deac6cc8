"""What must be read and computed to take raw counts through, beside what is.

    python -m benchmarks.speed.floors --data kang_pbmc_published_labels.h5ad --folder scratch/

Draws ``--cells`` (60 000) real cells with replacement into a store, trains a model for some steps,
and measures, in one process on one thread, in turn, medians of ``--repeats`` (5): two ceilings of
the machine, the floor of each step, and the step itself, by compiled loops and, where there are
any, by NumPy and SciPy. All is CPU time in nanoseconds for each value that is not zero. Writes
``floors.csv``.

The floors: of reading, the unpacking of the same bytes by the compressor's library, and nothing
else; of the fit, one pass of compiled loops for totals, checks and moments, and NumPy's logarithm
and exponential, over values that lie in the cache; of the check, the pass for totals and checks; of
the encoder, the first layer's product as a dense one, at the rate of the best product of the
machine, for the values that are not zero alone.

What does not grow with the cells (a model is built, annotations are written) takes some tenths of a
second: choose enough of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import dask
import numcodecs
import numpy as np
import pandas as pd
import torch
import zarr

import scalex_scvi as sx
from benchmarks.drawn import draw_cells
from benchmarks.speed.common import processor, quiet
from scalex_scvi import io
from scalex_scvi._core.csr_on_disk import CsrOnDisk
from scalex_scvi.pp import _many
from scalex_scvi.pp._columns import Columns
from scalex_scvi.pp._fit_blocks import How

CELLS_IN_BLOCK = 4096
CELLS_IN_CACHE = 512

OURS, OF_ZARR = "as stores are", "as zarr does by default"
PACKERS = {
    OURS: numcodecs.Blosc(cname="lz4", clevel=9, shuffle=numcodecs.Blosc.BITSHUFFLE),
    OF_ZARR: numcodecs.zstd.Zstd(level=0),
}


def make(args: argparse.Namespace) -> sx.SCALEXModel:
    """Write counts and prepared cells; train a model for some steps."""
    source = ad.read_h5ad(args.data)
    io.write_store(
        draw_cells(source, args.cells, args.batch_key), args.folder / "counts.zarr", overwrite=True
    )
    prepared = sx.pp.rna(source, batch_key=args.batch_key)
    sx.SCALEXModel.setup_anndata(prepared, batch_key=args.batch_key)
    model = sx.SCALEXModel(prepared)
    model.train(max_steps=50, accelerator="cpu", enable_progress_bar=False)
    return model


def cpu_seconds(function: Callable[[], Any], at_least: int = 1) -> float:
    """CPU time of this process, which is what other processes leave as it is."""
    began = time.process_time()
    for _ in range(at_least):
        function()
    return (time.process_time() - began) / at_least


def ceilings() -> dict[str, Callable[[], float]]:
    """Bytes copied, and multiplications and additions of a product, each second."""
    source = np.ones(2**26, dtype=np.float32)
    target = np.zeros_like(source)
    np.copyto(target, source)  # its pages are there afterwards
    cells, weight = torch.rand(512, 2000), torch.rand(2000, 1024)
    return {
        "copy (read and written), GB/s": lambda: (
            2 * source.nbytes / cpu_seconds(lambda: np.copyto(target, source)) / 1e9
        ),
        "matrix product, GFLOP/s": lambda: (
            2 * 512 * 2000 * 1024 / cpu_seconds(lambda: cells @ weight, 10) / 1e9
        ),
    }


class Steps:
    """The steps and their floors, each a function without arguments."""

    def __init__(self, args: argparse.Namespace, model: sx.SCALEXModel) -> None:
        self.args = args
        self.model = model
        self.path = args.folder / "counts.zarr"
        group = zarr.open_group(str(self.path), mode="r")["X"]
        self.disk = CsrOnDisk(group)
        self.n_values = int(group["data"].shape[0])
        self.chunk = group["data"].chunks[0]
        parts = [group[part][: self.chunk].astype(kind) for part, kind in _KINDS.items()]
        self.packed = {
            name: [(packer, packer.encode(part)) for part in parts]
            for name, packer in PACKERS.items()
        }
        self.cached = self.disk.read(0, CELLS_IN_CACHE)
        self.lazy = io.read_lazy(self.path, cells_in_block=CELLS_IN_BLOCK)
        self.prepared = sx.pp.rna(self.lazy, batch_key=args.batch_key)
        self.query = sx.SCALEXModel.load_query_data(self.lazy.copy(), model)
        taken = self.query.adata_manager.transform(self.disk.read(0, 4096), np.zeros(4096, int))
        self.picked_share = taken.nnz / self.disk.read(0, 4096).nnz

    def unpack(self, by: str = OURS) -> None:
        """Unpack a chunk of the values and one of the columns."""
        for packer, packed in self.packed[by]:
            packer.decode(packed)

    def read(self) -> None:
        """Read all cells, block by block."""
        for start in range(0, self.args.cells, CELLS_IN_BLOCK):
            self.disk.read(start, min(start + CELLS_IN_BLOCK, self.args.cells))

    def tally_cached(self) -> Any:
        """Take the totals and checks of few cells again."""
        every = Columns.all_but(np.zeros(self.cached.shape[1], dtype=bool))
        codes = np.zeros(CELLS_IN_CACHE, dtype=np.int64)
        return _many.tally_cells(self.cached, codes, every, every, 0)

    def fit_cached(self) -> None:
        """Do the same as the fit, with few cells again and again, one batch."""
        every = Columns.all_but(np.zeros(self.cached.shape[1], dtype=bool))
        how = How(0, every, "RNA", 1e4, True, False, every)
        cells = how.look_at(self.cached, np.zeros(CELLS_IN_CACHE, dtype=np.int64))
        cells.tally(), cells.moments()

    def fit(self) -> None:
        """Fit the transform to the store."""
        preparation = sx.pp.Preparation()
        sx.pp.Preprocessing.fit(self.lazy, preparation, batch_key=self.args.batch_key)

    def write(self) -> None:
        """Take the cells through the transform, and write them."""
        io.write_store(self.prepared, self.args.folder / "prepared.zarr", overwrite=True)

    def check(self) -> None:
        """Check the counts of a query, and find what is to be known of its batches."""
        sx.pp.fit_query(self.lazy, self.model.preprocessing, batch_key=self.args.batch_key)

    def latent(self) -> None:
        """Encode the query."""
        self.query.get_latent_representation()


_KINDS = {"data": np.float32, "indices": np.int32}


def measure(args: argparse.Namespace, steps: Steps) -> pd.DataFrame:
    """Measure all in turn; medians."""
    n_values, n_cached = steps.n_values, steps.cached.nnz
    rates = ceilings()
    per_value = {
        "unpack, the library alone": lambda: cpu_seconds(steps.unpack, 20) / steps.chunk,
        "the same, packed by zarr's default": lambda: (
            cpu_seconds(lambda: steps.unpack(OF_ZARR), 20) / steps.chunk
        ),
        "read": lambda: cpu_seconds(steps.read) / n_values,
        "totals and checks, cached": lambda: cpu_seconds(steps.tally_cached, 5) / n_cached,
        "fit, cached": lambda: cpu_seconds(steps.fit_cached, 5) / n_cached,
        "fit": lambda: cpu_seconds(steps.fit) / n_values,
        "transform and write": lambda: cpu_seconds(steps.write) / n_values,
        "check of a query": lambda: cpu_seconds(steps.check) / n_values,
        "latent": lambda: cpu_seconds(steps.latent) / n_values,
    }
    plain = ("fit", "check of a query")
    found: dict[str, list[float]] = {}
    for _ in range(args.repeats):
        for name, rate in rates.items():
            found.setdefault(name, []).append(rate())
        for name, time_per_value in per_value.items():
            found.setdefault(name, []).append(1e9 * time_per_value())
        _many.VALUES_BEFORE, before = np.inf, _many.VALUES_BEFORE
        for name in plain:
            found.setdefault(f"{name}, NumPy and SciPy", []).append(1e9 * per_value[name]())
        _many.VALUES_BEFORE = before
    table = pd.DataFrame({"measured": {name: np.median(runs) for name, runs in found.items()}})
    return with_floors(table, steps)


def with_floors(table: pd.DataFrame, steps: Steps) -> pd.DataFrame:
    """Add the floor of each step, how many times it that is, and seconds for a million cells."""
    value = table["measured"]
    unpack, fitted = value["unpack, the library alone"], value["fit, cached"]
    of_encoder = 2 * 1024 * steps.picked_share / value["matrix product, GFLOP/s"]
    floors = {
        "read": unpack,
        "fit": unpack + fitted,
        "fit, NumPy and SciPy": unpack + fitted,
        "check of a query": unpack + value["totals and checks, cached"],
        "check of a query, NumPy and SciPy": unpack + value["totals and checks, cached"],
        "latent": unpack + of_encoder,
    }
    table["floor"] = pd.Series(floors)
    table["times the floor"] = table["measured"] / table["floor"]
    million = steps.n_values / steps.args.cells * 1e6 / 1e9
    is_time = ~table.index.str.contains("/s$")
    table["CPU seconds, a million cells"] = (table["measured"] * million).where(is_time)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="counts to draw, .h5ad")
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--folder", type=Path, required=True, help="for the stores")
    parser.add_argument("--cells", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--csv", type=Path, default=Path("floors.csv"))
    args = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    model = make(args)
    _many.VALUES_BEFORE = -1
    with dask.config.set(scheduler="synchronous"):
        steps = Steps(args, model)
        table = measure(args, steps)
    print(f"{processor()}; {steps.n_values / args.cells:.0f} values a cell, of which the transform")
    packed = ", ".join(f"packed {name} {packed_bytes(steps, name):.2f}" for name in PACKERS)
    print(f"picks {steps.picked_share:.1%}; bytes of a value: 8, {packed}")
    print(table.round(2).to_string(na_rep=""))
    table.to_csv(args.csv, float_format="%.4g")


def packed_bytes(steps: Steps, by: str) -> float:
    """Bytes on disk of a value and its column."""
    return sum(len(packed) for _, packed in steps.packed[by]) / steps.chunk


if __name__ == "__main__":
    main()
