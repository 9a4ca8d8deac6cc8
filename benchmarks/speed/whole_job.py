"""Wall clock of the whole job, from a file of counts to a picture, start-up included.

Usage: ``python -m benchmarks.speed.whole_job [--data FILE.h5ad] [--cells 3000 12000 100000]
[--methods ...] [--repeats 3] [--limit-s 7200] [--threads 2] [--seed 0] [--out runs/speed]``. Each
run is a fresh process, whose seconds are those that one who started it would wait. See the README
beside this.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from inspect import ismethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

# Nothing else is imported here: what a method imports is a part of its time.

STAGES = (
    "import",
    "read",
    "prepare",
    "train",
    "latent",
    "neighbors and UMAP",
    "write and draw",
    "start and end",
)
"""What each process goes through; the last one is the interpreter's."""

KEPT = 0.9
"""Share of the molecules of a drawn cell: copies of few cells would be each other's neighbors."""

PUBLISHED_MINIBATCHES = 30_000
"""The published package's default; it may stop before."""

NOTED_EVERY = 100
"""Minibatches between two notes of how many there were."""

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


class Stages:
    """Seconds of each stage of this process, in a file that always says how far it is.

    Parameters
    ----------
    path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = {}
        self.minibatches: dict[str, int] = {}
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the time of the block; the time of a stage within it is that stage's alone."""
        self._note()
        self._open.append(name)
        self._write()
        yield
        self._note()
        self._open.pop()
        self._write()

    def of(self, owner: Any, stages: dict[str, str]) -> None:
        """Count the time of functions of a module or class, wherever they are called."""
        for name, stage in stages.items():
            function = getattr(owner, name)
            counted = self._counted(function, stage)
            setattr(owner, name, staticmethod(counted) if ismethod(function) else counted)

    def expect(self, n_minibatches: int) -> None:
        """Count the minibatches from now on: how far a training was when it was stopped."""
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self.minibatches = {"done": 0, "of": n_minibatches}

        def count(*_: Any) -> None:
            self.minibatches["done"] += 1
            if self.minibatches["done"] % NOTED_EVERY == 0:
                self._write()

        register_optimizer_step_post_hook(count)

    def _counted(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        @wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            with self(stage):
                return function(*args, **kwargs)

        return counted

    def _note(self) -> None:
        now = time.perf_counter()
        if self._open:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now

    def _write(self) -> None:
        now = self._open[-1] if self._open else STAGES[-1]
        new = self.path.with_suffix(".new")
        kept = {"seconds": self.seconds, "now": now, "minibatches": self.minibatches}
        new.write_text(json.dumps(kept))
        new.replace(self.path)


def ours(args: argparse.Namespace, stages: Stages, recipe: str = "DEFAULT") -> None:
    """``sx.integrate`` and ``sx.tl.embed``, which adds clusters too, as the README has it."""
    with stages("import"):
        import scanpy  # noqa: F401

        import scalex_scvi as sx
        from scalex_scvi import SCALEXModel, train
    _count_ours(stages, SCALEXModel)
    adata = _read(args, stages)
    with stages("prepare"):
        sx.integrate(adata, "batch", recipe=getattr(train, recipe), seed=args.seed, **QUIET)
    with stages("neighbors and UMAP"):
        sx.tl.embed(adata, use_rep="X_scalex", seed=args.seed)
    _draw(adata, args, stages)


def ours_by_one_call(args: argparse.Namespace, stages: Stages) -> None:
    """``SCALEX()`` with its run folder: clusters, report, all files."""
    with stages("import"):
        import scanpy as sc

        import scalex_scvi as sx
        from scalex_scvi import SCALEXModel
    _count_ours(stages, SCALEXModel)
    _count_scanpy(stages, sc)
    adata = _read(args, stages)
    with stages("write and draw"):
        sx.SCALEX(
            adata, min_features=0, seed=args.seed, outdir=args.folder / "run", progress_bar=False
        )


def _count_ours(stages: Stages, model: Any) -> None:
    stages.of(
        model,
        {"setup_anndata": "prepare", "train": "train", "get_latent_representation": "latent"},
    )


def _count_scanpy(stages: Stages, sc: Any) -> None:
    stages.of(sc.pp, {"neighbors": "neighbors and UMAP"})
    stages.of(sc.tl, {"umap": "neighbors and UMAP", "leiden": "neighbors and UMAP"})


def harmony(args: argparse.Namespace, stages: Stages) -> None:
    """Scanpy's usual steps to 50 components, and harmonypy."""
    with stages("import"):
        import harmonypy
        import scanpy as sc
    adata = _read(args, stages)
    with stages("prepare"):
        _select(adata, sc)
        sc.pp.pca(adata, random_state=args.seed)
    with stages("latent"):
        pca = adata.obsm["X_pca"]
        found = harmonypy.run_harmony(
            pca, adata.obs, "batch", random_state=args.seed, verbose=False
        )
        z = found.Z_corr
        adata.obsm["X_harmony"] = z if z.shape == pca.shape else z.T  # harmonypy < 2
    _embed(adata, "X_harmony", args, stages)
    _draw(adata, args, stages)


def scvi(args: argparse.Namespace, stages: Stages, labels: bool = False) -> None:
    """ScVI by its defaults, on counts of the genes that scanpy selects; or from it scANVI."""
    with stages("import"):
        import scanpy as sc
        import scvi as scvi_tools
        from scvi.model._utils import get_max_epochs_heuristic
    scvi_tools.settings.seed = args.seed
    adata = _read(args, stages)
    with stages("prepare"):
        adata.layers["counts"] = adata.X.copy()
        _select(adata, sc)
        adata = adata[:, adata.var["highly_variable"]].copy()
        scvi_tools.model.SCVI.setup_anndata(adata, layer="counts", batch_key="batch")
    with stages("train"):
        model = scvi_tools.model.SCVI(adata)
        n_epochs = get_max_epochs_heuristic(adata.n_obs)
        n_more = min(10, max(2, round(n_epochs / 3))) if labels else 0
        stages.expect((n_epochs + n_more) * math.ceil(0.9 * adata.n_obs / 128))
        model.train(max_epochs=n_epochs, **QUIET)
        if labels:
            model = scvi_tools.model.SCANVI.from_scvi_model(
                model, unlabeled_category="none", labels_key="celltype"
            )
            model.train(max_epochs=n_more, **QUIET)
    with stages("latent"):
        adata.obsm["X_scVI"] = model.get_latent_representation()
    _embed(adata, "X_scVI", args, stages)
    _draw(adata, args, stages)


def published(args: argparse.Namespace, stages: Stages) -> None:
    """``scalex.SCALEX`` with its run folder, clusters included, by its defaults but no workers."""
    with stages("import"):
        import scanpy as sc

        from benchmarks.shims import import_scalex

        scalex = import_scalex()
        from scalex.net.vae import VAE
    stages.of(VAE, {"fit": "train", "encodeBatch": "latent"})
    stages.expect(PUBLISHED_MINIBATCHES)
    _count_scanpy(stages, sc)
    stages.of(sc.pl, {"umap": "write and draw"})
    adata = _read(args, stages)
    with stages("prepare"):
        scalex.SCALEX(
            adata,
            batch_name="batch",
            min_features=0,
            seed=args.seed,
            show=False,
            num_workers=0,
            outdir=str(args.folder / "run"),
        )


def _read(args: argparse.Namespace, stages: Stages) -> AnnData:
    with stages("read"):
        import anndata as ad

        return ad.read_h5ad(args.file)


def _select(adata: AnnData, sc: Any) -> None:
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=min(2_000, adata.n_vars), batch_key="batch")


def _embed(adata: AnnData, rep: str, args: argparse.Namespace, stages: Stages) -> None:
    import scanpy as sc

    with stages("neighbors and UMAP"):
        sc.pp.neighbors(adata, use_rep=rep, random_state=args.seed)
        sc.tl.umap(adata, random_state=args.seed)


def _draw(adata: AnnData, args: argparse.Namespace, stages: Stages) -> None:
    import matplotlib
    import scanpy as sc

    with stages("write and draw"):
        matplotlib.use("Agg")
        figure = sc.pl.umap(adata, color="batch", show=False, return_fig=True)
        figure.savefig(args.folder / "umap.png", dpi=150)
        adata.write_h5ad(args.folder / "adata.h5ad")


METHODS: dict[str, Callable[[argparse.Namespace, Stages], None]] = {
    "ours": ours,
    "ours, quick": partial(ours, recipe="QUICK"),
    "ours, SCALEX()": ours_by_one_call,
    "harmony": harmony,
    "scvi": scvi,
    "scanvi (sees labels)": partial(scvi, labels=True),
    "scalex 1.0.4": published,
}


def make_cells(args: argparse.Namespace, n_cells: int, path: Path) -> None:
    """Write counts with ``obs["batch"]``: some of a real set, or drawn from it, or simulated."""
    import anndata as ad
    import numpy as np
    from scipy import sparse

    from benchmarks.drawn import draw_cells
    from benchmarks.simulate import simulate

    if args.data is None:
        adata = simulate(n_cells, args.genes)
        adata.X = sparse.csr_matrix(adata.X, dtype=np.float32)
    else:
        source = ad.read_h5ad(args.data)
        source.obs["batch"] = source.obs[args.batch_key].astype(str)
        keys = [key for key in ("batch", "celltype") if key in source.obs]
        source.X = sparse.csr_matrix(source.X, dtype=np.float32).rint()
        rng = np.random.default_rng(0)
        if n_cells <= source.n_obs:
            rows = np.sort(rng.choice(source.n_obs, n_cells, replace=False))
            adata = ad.AnnData(source.X[rows], source.obs[keys].iloc[rows], source.var[[]])
        else:
            adata = draw_cells(source, n_cells, *keys)
            adata.X = adata.X.compute()
            adata.X.data = rng.binomial(adata.X.data.astype(int), KEPT).astype(np.float32)
            adata.X.eliminate_zeros()
    adata.write_h5ad(path)


def run(method: str, file: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Take one method through the job in a process of its own; return the seconds of its stages."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        task = {"method": method, "file": str(file), "folder": place, "seed": args.seed}
        command = [sys.executable, "-m", "benchmarks.speed.whole_job", "--task", json.dumps(task)]
        with (folder / "log.txt").open("w") as log:
            began = time.perf_counter()
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=_environment(args), start_new_session=True
            )
            try:
                status: int | None = process.wait(args.limit_s)
            except subprocess.TimeoutExpired:
                status = None
            total = time.perf_counter() - began
            if status is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if status:
            lines = (folder / "log.txt").read_text().splitlines()
            print("\n".join(lines[-5:]), flush=True)
            return {"state": "failed"}
        kept = folder / "stages.json"
        nothing = {"seconds": {}, "now": STAGES[-1], "minibatches": {}}
        found = json.loads(kept.read_text()) if kept.exists() else nothing
    seconds = dict.fromkeys(STAGES, 0.0) | found["seconds"]
    seconds[found["now"]] += total - sum(seconds.values())
    result = {"state": "stopped" if status is None else "done", "seconds": total} | seconds
    return result | _expected(result, found["minibatches"])


def _expected(result: dict[str, Any], minibatches: dict[str, int]) -> dict[str, float]:
    """Seconds that a training which was stopped would have taken: all minibatches take alike."""
    if result["state"] == "done" or not minibatches.get("done"):
        return {}
    return {"train, expected": result["train"] * minibatches["of"] / minibatches["done"]}


def _environment(args: argparse.Namespace) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    return os.environ | (dict.fromkeys(names, str(args.threads)) if args.threads else {})


def run_task(text: str) -> None:
    """Be the process that is measured."""
    task = json.loads(text)
    folder = Path(task["folder"])
    args = argparse.Namespace(file=Path(task["file"]), folder=folder, seed=task["seed"])
    METHODS[task["method"]](args, Stages(folder / "stages.json"))


def measure(args: argparse.Namespace) -> pd.DataFrame:
    """Run all methods in turn, as often as asked; one that was stopped or failed is not repeated.

    Returns
    -------
    Each run: cells, method, state (done, stopped, failed), seconds of all and of each stage; those
    of earlier calls first.
    """
    import pandas as pd

    earlier = [pd.read_csv(path) for path in args.earlier]
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        for n_cells in args.cells:
            file = Path(scratch) / f"{n_cells}.h5ad"
            make_cells(args, n_cells, file)
            methods = list(args.methods)
            for _ in range(args.repeats):
                for method in list(methods):
                    about = {"cells": n_cells, "method": method, "limit_s": args.limit_s}
                    runs.append(about | run(method, file, args))
                    print(f"{n_cells:>9,} cells  {method:<16} {_said(runs[-1])}", flush=True)
                    if runs[-1]["state"] != "done":
                        methods.remove(method)
            file.unlink()
    return pd.concat([*earlier, pd.DataFrame(runs)], ignore_index=True)


def _said(row: Any) -> str:
    """Say what a run took: ``more than`` for one that was stopped."""
    if row["state"] == "failed":
        return "failed"
    if row["state"] == "done":
        return f"{row['seconds']:.1f} s"
    expected = row.get("train, expected", math.nan)
    after = "" if math.isnan(expected) else f" (training alone: {expected:,.0f} s expected)"
    return f"more than {row['seconds']:.1f} s{after}"


def medians(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each number of cells and method: medians of the complete runs.

    A method that was ever stopped has the row of that run. Stages are medians by themselves.
    """
    import pandas as pd

    rows = []
    for _, some in runs.groupby(["cells", "method"], sort=False):
        last = some.iloc[-1]
        row = last[["cells", "method", "state", "limit_s"]].to_dict() | {"runs": len(some)}
        numbers = [name for name in ("seconds", *STAGES, "train, expected") if name in some]
        of = some if last["state"] == "done" else some.iloc[[-1]]
        rows.append(row | of[numbers].median().to_dict())
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, path: Path) -> None:
    """Draw a stacked bar of the stages for each method, a row of them for each number of cells."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    table = table[table["state"] != "failed"]
    bars = {n_cells: rows.iloc[::-1] for n_cells, rows in table.groupby("cells")}
    figure, axes = plt.subplots(
        len(bars),
        figsize=(8, 0.3 * len(table) + 0.7 * len(bars) + 0.6),
        height_ratios=[len(rows) for rows in bars.values()],
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, (n_cells, rows) in zip(axes[:, 0], bars.items(), strict=True):
        left = rows["seconds"].to_numpy() * 0
        for number, stage in enumerate(STAGES):
            width = rows[stage].to_numpy()
            axis.barh(rows["method"], width, left=left, color=f"C{number}", label=stage)
            left = left + width
        for place, (_, row) in enumerate(rows.iterrows()):
            axis.text(row["seconds"], place, f" {_said(row)}", va="center", fontsize=8)
        axis.set_title(f"{n_cells:,} cells", loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set(xlabel="seconds", xlim=(0, table["seconds"].max() * 1.7))
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.savefig(path, dpi=150, bbox_inches="tight")


def main() -> None:
    args = _arguments()
    if args.task is not None:
        run_task(args.task)
        return
    runs = measure(args)
    table = medians(runs)
    from benchmarks.speed.common import write

    args.out.mkdir(parents=True, exist_ok=True)
    runs.to_csv(args.out / "whole_job_runs.csv", index=False)
    write(table, args.out / "whole_job.csv")
    if (table["state"] != "failed").any():
        draw(table, args.out / "whole_job.png")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="counts to draw cells from; default: simulated")
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--cells", type=int, nargs="+", default=[3_000, 12_000, 100_000])
    parser.add_argument("--genes", type=int, default=10_000, help="of simulated cells")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit-s", type=float, default=7_200, help="seconds of one process")
    parser.add_argument("--threads", type=int, help="of each process; default: as it is")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--earlier", type=Path, nargs="+", default=[], help="whole_job_runs.csv, to be added to"
    )
    parser.add_argument("--scratch", type=Path, help="folder for the cells")
    parser.add_argument("--out", type=Path, default=Path("runs/speed"))
    parser.add_argument("--task", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
