"""Preprocess, train, project and label cells that do not fit in memory: time and memory by number.

    python -m benchmarks.out_of_core --data kang_pbmc_published_labels.h5ad --folder scratch/

Makes stores of resampled real cells, and takes each through all steps, every step in a process of
its own, as often as `--repeats` says. The cells are made once, and so is a model of the real cells,
which labels come from. Prints seconds and peak memory (resident set, `getrusage`), writes their
medians to a CSV file and draws them. The largest store takes some gigabytes on disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

ONCE = ("start", "make", "refer")
REPEATED = ("preprocess", "train", "project", "label", "learn")
SECONDS = (1, 3, 10, 30, 100)
"""Marks of the picture's axis."""
COLUMNS = (
    "n_cells",
    "step",
    "seconds",
    "cpu_seconds",
    "peak_gb",
    "steps_per_second",
    "fit_seconds",
)


def start(args: argparse.Namespace) -> dict[str, float]:
    """Import everything: what the other steps start from."""
    import dask.array  # noqa: F401

    from scalex_scvi import SCALEXModel, io, pp  # noqa: F401  names load on first use

    return {}


def make(args: argparse.Namespace) -> dict[str, float]:
    """Draw cells with replacement, in blocks."""
    import anndata as ad

    from benchmarks.drawn import draw_cells
    from scalex_scvi import io

    cells = draw_cells(ad.read_h5ad(args.data), args.n, args.batch_key, args.labels_key)
    io.write_store(cells, args.folder / "counts.zarr", overwrite=True)
    return {}


def preprocess(args: argparse.Namespace) -> dict[str, float]:
    """Filter, normalize, select, scale, write."""
    from scalex_scvi import io, pp

    counts = io.read_lazy(args.folder / "counts.zarr")
    began = time.perf_counter()
    prepared = pp.rna(counts, batch_key=args.batch_key, min_features=200)
    fitted = time.perf_counter()
    io.write_store(prepared, args.folder / "prepared.zarr", overwrite=True)
    return {"fit_seconds": fitted - began}


def train(args: argparse.Namespace) -> dict[str, float]:
    """Train for a number of minibatches."""
    from scalex_scvi import SCALEXModel, io
    from scalex_scvi.train import DEFAULT

    cells = io.open_store(args.folder / "prepared.zarr")
    SCALEXModel.setup_anndata(cells, batch_key=args.batch_key)
    model = SCALEXModel(cells)
    began = time.perf_counter()
    epochs = max(1, args.max_steps * DEFAULT.batch_size // cells.n_obs)
    steps_per_epoch = min(args.max_steps, cells.n_obs // DEFAULT.batch_size)
    model.train(
        max_epochs=epochs,
        limit_train_batches=steps_per_epoch,
        enable_progress_bar=False,
        logger=False,
    )
    n_steps = epochs * steps_per_epoch
    model.save(str(args.folder / "model"), overwrite=True)
    return {"steps_per_second": n_steps / (time.perf_counter() - began)}


def project(args: argparse.Namespace) -> dict[str, float]:
    """Take the counts through the reference's preprocessing into its space."""
    import numpy as np

    from scalex_scvi import SCALEXModel, io

    counts = io.read_lazy(args.folder / "counts.zarr")
    query = SCALEXModel.load_query_data(counts, str(args.folder / "model"))
    latent = query.get_latent_representation()
    np.save(args.folder / "latent.npy", latent)
    return {}


def refer(args: argparse.Namespace) -> dict[str, float]:
    """Train a model of the real cells, whose labels others get."""
    import anndata as ad

    import scalex_scvi as sx

    cells = ad.read_h5ad(args.data)
    model = sx.integrate(cells, args.batch_key, recipe=sx.train.QUICK, enable_progress_bar=False)
    model.save(str(args.folder / "labeled"), overwrite=True, save_anndata=True)
    return {}


def label(args: argparse.Namespace) -> dict[str, float]:
    """Take the counts into the space of these cells, and give them labels or "unknown"."""
    import scalex_scvi as sx

    counts = sx.io.read_lazy(args.folder / "counts.zarr")
    sx.map_query(counts, args.folder / "labeled", labels=args.labels_key)
    return {}


def learn(args: argparse.Namespace) -> dict[str, float]:
    """Give the real cells labels of the trained store."""
    import anndata as ad

    import scalex_scvi as sx

    reference = sx.io.open_store(args.folder / "prepared.zarr")
    model = sx.SCALEXModel.load(str(args.folder / "model"), adata=reference)
    sx.map_query(ad.read_h5ad(args.data), model, labels=args.labels_key)
    return {}


STEPS = {
    step.__name__: step for step in (start, make, refer, preprocess, train, project, label, learn)
}


def run_step(args: argparse.Namespace) -> None:
    """Do one step in this process, and print what it took, less the imports."""
    start(args)
    began, cpu_began = time.perf_counter(), time.process_time()
    more = STEPS[args.step](args)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform == "darwin":  # bytes there, kilobytes on Linux
        peak /= 1024
    measured = {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu_began,
        "peak_gb": peak / 1024**2,
    }
    print(json.dumps(measured | more))


def run_all(args: argparse.Namespace) -> pd.DataFrame:
    """Take each number of cells through all steps; return the medians of the repeats."""
    rows = []
    print(machine())
    for n_cells in args.sizes:
        args.folder.mkdir(parents=True, exist_ok=True)
        for step in ONCE + REPEATED * args.repeats:
            measured = run_apart(args, step, n_cells)
            rows.append({"n_cells": n_cells, "step": step} | measured)
            print(
                f"{n_cells:>9,} cells  {step:<10} {measured['seconds']:8.1f} s "
                f"{measured['peak_gb']:6.2f} GB{of_the_fit(measured)}",
                flush=True,
            )
        if not args.keep:
            for name in ("counts.zarr", "prepared.zarr", "model", "labeled"):
                shutil.rmtree(args.folder / name)
        table = pd.DataFrame(rows, columns=COLUMNS)
        table = table.groupby(["n_cells", "step"], sort=False).median().reset_index()
        table.to_csv(args.csv, index=False, float_format="%.4g")
    return table


def run_apart(args: argparse.Namespace, step: str, n_cells: int) -> dict[str, float]:
    """Do one step in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.out_of_core", "--step", step]
    command += ["--data", str(args.data), "--folder", str(args.folder), "--n", str(n_cells)]
    command += ["--batch-key", args.batch_key, "--labels-key", args.labels_key]
    command += ["--max-steps", str(args.max_steps)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def of_the_fit(measured: dict[str, float]) -> str:
    seconds = measured.get("fit_seconds")
    return "" if seconds is None else f"   of which the fit {seconds:.1f} s"


def machine() -> str:
    from scalex_scvi._core.versions import versions_of

    found = versions_of(("scvi-tools", "anndata", "dask", "zarr", "annbatch", "torch"))
    versions = [f"no {name}" if v is None else f"{name} {v}" for name, v in found.items()]
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    return (
        f"Python {platform.python_version()}, {', '.join(versions)}; {os.cpu_count()} CPUs, "
        f"OMP_NUM_THREADS {threads}"
    )


def draw(table: pd.DataFrame, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (time_axis, memory_axis) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    steps = table[table["step"] != "refer"].groupby("step", sort=False)
    for number, (step, rows) in enumerate(steps):
        style = {"color": f"C{number}", "marker": "o", "label": step}
        if step == "start":
            style |= {"color": "grey", "linestyle": "--", "label": "imports alone"}
        else:
            time_axis.plot(rows["n_cells"], rows["seconds"], **style)
        memory_axis.plot(rows["n_cells"], rows["peak_gb"], **style)
    time_axis.set(xscale="log", yscale="log", xlabel="cells", ylabel="seconds")
    time_axis.set_yticks(SECONDS, [str(seconds) for seconds in SECONDS])
    time_axis.minorticks_off()
    memory_axis.set(xscale="log", xlabel="cells", ylabel="peak memory (GB)", ylim=(0, 2.1))
    for axis in (time_axis, memory_axis):
        axis.spines[["top", "right"]].set_visible(False)
    memory_axis.legend(frameon=False, fontsize=8, ncols=2)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="counts to resample, .h5ad")
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--labels-key", default="celltype")
    parser.add_argument("--folder", type=Path, required=True, help="for the stores")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[10_000, 30_000, 100_000, 300_000, 1_000_000]
    )
    parser.add_argument("--max-steps", type=int, default=1000, help="minibatches to train for")
    parser.add_argument("--csv", type=Path, default=Path("out_of_core.csv"))
    parser.add_argument("--picture", type=Path, default=Path("out_of_core.png"))
    parser.add_argument("--repeats", type=int, default=3, help="of all steps but making cells")
    parser.add_argument("--keep", action="store_true", help="do not delete the stores")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--n", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        run_step(args)
        return
    draw(run_all(args), args.picture)


if __name__ == "__main__":
    main()
