"""What the speed benchmarks share: the cells, the machine, the table."""

from __future__ import annotations

import argparse
import logging
import platform
import warnings
from collections.abc import Iterable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from anndata import AnnData

import scalex_scvi as sx
from benchmarks.simulate import simulate
from scalex_scvi._core.versions import versions_of

PACKAGES = ("scalex-scvi", "scalex", "scvi-tools", "torch", "lightning", "harmonypy", "numpy")
QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


def quiet() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    setattr(np, "Inf", np.inf)  # noqa: B010  gone from numpy 2, and used by scalex 1.0.4


def argument_parser(doc: str, methods: Iterable[str], *, n_cells: int) -> argparse.ArgumentParser:
    """Ask for what the commands have in common: cells, threads, methods, and where to write."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--data", type=Path, help="counts, obs batch; default: simulated")
    parser.add_argument("--cells", type=int, default=n_cells)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--methods", nargs="+", default=list(methods), choices=list(methods))
    parser.add_argument("--out", type=Path, default=Path("runs/speed"))
    return parser


def read_cells(
    path: Path | None, n_cells: int, n_genes: int, *, repeat: bool = False
) -> tuple[AnnData, AnnData]:
    """Take counts of a file, or simulate them; prepare them.

    With ``repeat``, cells of a smaller file are drawn with replacement until there are ``n_cells``.
    """
    counts = simulate(n_cells, n_genes) if path is None else ad.read_h5ad(path)
    if path is not None and (repeat or counts.n_obs > n_cells):
        replace = counts.n_obs < n_cells
        chosen = np.random.default_rng(0).choice(counts.n_obs, n_cells, replace=replace)
        counts = counts[np.sort(chosen)].copy()
        counts.obs_names_make_unique()
    prepared = sx.pp.rna(counts, batch_key="batch", min_features=0, n_top_features=n_genes)
    return counts, prepared


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def facts() -> dict[str, object]:
    """Machine, threads and versions, to stand in each row of a table."""
    found: dict[str, object] = {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }
    return found | versions_of(PACKAGES)


def write(table: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.assign(**facts()).to_csv(path, index=False)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    print(f"Written: {path}")
