"""Time of a training iteration: ours, a bare loop, its matrix products alone, and the peers.

Usage: ``python -m benchmarks.speed.training [--data FILE.h5ad] [--cells 12000] [--genes 2000]
[--epochs 3] [--repeats 5] [--threads 2] [--methods ...] [--out runs/speed]``. See the README
beside this.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from scvi import settings
from torch.nn import functional as F

import scalex_scvi as sx
from benchmarks.speed.common import QUIET, argument_parser, quiet, read_cells, write


@dataclass
class Cells:
    """What a method is given."""

    counts: AnnData
    prepared: AnnData
    dense: torch.Tensor
    batch: torch.Tensor
    batch_size: int
    n_epochs: int
    folder: TemporaryDirectory = field(default_factory=TemporaryDirectory)

    @property
    def n_iterations(self) -> int:
        """Whole minibatches of all epochs."""
        return self.n_epochs * (len(self.dense) // self.batch_size)

    @cached_property
    def stored(self) -> AnnData:
        """The prepared cells in a zarr store, registered; written in the round that warms up."""
        store = Path(self.folder.name) / "prepared.zarr"
        sx.io.write_store(self.prepared, store)
        cells = sx.io.open_store(store)
        sx.SCALEXModel.setup_anndata(cells, batch_key="batch")
        return cells


def ours(cells: Cells, adata: AnnData | None = None, **kwargs: object) -> int:
    """Train through Lightning and scvi-tools' loader."""
    model = sx.SCALEXModel(cells.prepared if adata is None else adata)
    lengths = {"max_epochs": cells.n_epochs, "batch_size": cells.batch_size}
    model.train(logger=False, **lengths, **QUIET, **kwargs)
    return cells.n_iterations


def ours_from_counts(cells: Cells) -> int:
    """Train on counts of all genes, of which the model has those of the prepared cells."""
    return ours(cells, cells.counts)


def ours_from_store(cells: Cells) -> int:
    """Train on the same values, read from disk in runs of cells; needs annbatch."""
    return ours(cells, cells.stored)


def ours_published_loss(cells: Cells) -> int:
    """Train without the third term of the loss, which the bare loop has not either."""
    return ours(cells, alignment_weight=0.0)


def ours_bfloat16(cells: Cells) -> int:
    return ours(cells, precision="bf16-mixed")


with_zeros = patch("scalex_scvi.nn._sparse_input.MOST_NOT_ZERO", -1.0)


@with_zeros
def ours_with_zeros(cells: Cells) -> int:
    """Train with torch's product of the first layer, which multiplies by zeros, too."""
    return ours(cells)


@with_zeros
def bare_loop(cells: Cells, alignment_weight: float = 0.0) -> int:
    """Train the same network on rows of a dense matrix, with torch alone, by the published loss."""
    module = sx.SCALEXModel(cells.prepared).module.train()
    settings = {"lr": 2e-4, "weight_decay": 5e-4, "fused": True}
    optimizer = torch.optim.Adam(module.parameters(), **settings)
    for rows in minibatches(cells):
        x = cells.dense[rows]
        mean, var = module.encoder(x)
        z = mean + var.sqrt() * torch.randn_like(mean)
        logits = module.decoder(z, cells.batch[rows])
        reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = 0.5 * (var + mean.square() - 1 - var.log()).sum()
        loss = (reconstruction + 0.5 * kl) / len(x)
        if alignment_weight:
            loss = loss + alignment_weight * module.batch_offset(mean, cells.batch[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return cells.n_iterations


def bare_loop_our_loss(cells: Cells) -> int:
    """Train so by our loss, the published one and its third term."""
    return bare_loop(cells, alignment_weight=1.0)


def minibatches(cells: Cells) -> Iterator[torch.Tensor]:
    """Rows of the cells, in a new order in each epoch."""
    for _ in range(cells.n_epochs):
        order = torch.randperm(len(cells.dense)).split(cells.batch_size)
        yield from (rows for rows in order if len(rows) == cells.batch_size)


def matrix_products(cells: Cells) -> int:
    """Multiply as one iteration does, forward and backward, and nothing else: the floor."""
    n_genes, n_hidden, n_latent = cells.dense.shape[1], 1024, 10
    first, heads = torch.randn(n_hidden, n_genes), torch.randn(2 * n_latent, n_hidden)
    last = torch.randn(n_genes, n_latent)
    x = cells.dense[: cells.batch_size]
    h, z = torch.randn(len(x), n_hidden), torch.randn(len(x), n_latent)
    hidden_gradient, output_gradient = torch.randn(len(x), 2 * n_latent), torch.randn_like(x)
    for _ in range(cells.n_iterations):
        x @ first.T, h.T @ x
        h @ heads.T, hidden_gradient @ heads, hidden_gradient.T @ h
        z @ last.T, output_gradient @ last, output_gradient.T @ z
    return cells.n_iterations


def published(cells: Cells, n_workers: int = 4) -> int:
    """Train by scalex 1.0.4: its network, its loader, by default of 4 processes, its loop."""
    from scalex.data import SingleCellDataset
    from scalex.net.utils import EarlyStopping
    from scalex.net.vae import VAE
    from torch.utils.data import DataLoader

    n_batch = cells.prepared.obs["batch"].nunique()
    network = VAE(
        [["fc", 1024, 1, "relu"], ["fc", 10, "", ""]],
        [["fc", cells.dense.shape[1], n_batch, "sigmoid"]],
        n_domain=n_batch,
    )
    loader = DataLoader(
        SingleCellDataset(cells.prepared),
        cells.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=n_workers,
    )
    stopping = EarlyStopping(patience=10, checkpoint_file=None)
    n_iterations = cells.n_epochs * len(loader)
    network.fit(loader, max_iteration=n_iterations, device="cpu", early_stopping=stopping)
    return n_iterations


def published_alone(cells: Cells) -> int:
    return published(cells, n_workers=0)


def scvi(cells: Cells) -> int:
    """Train scVI with its own minibatch of 128."""
    from scvi.model import SCVI

    adata = cells.counts[:, cells.prepared.var_names].copy()
    adata.X = sparse.csr_matrix(adata.X, dtype=np.float32)
    SCVI.setup_anndata(adata, batch_key="batch")
    SCVI(adata).train(max_epochs=cells.n_epochs, train_size=1.0, logger=False, **QUIET)
    return cells.n_epochs * -(-adata.n_obs // SCVI_MINIBATCH)


SCVI_MINIBATCH = 128

METHODS: dict[str, Callable[[Cells], int]] = {
    "ours": ours,
    "ours, from counts": ours_from_counts,
    "ours, from a store": ours_from_store,
    "ours, published loss": ours_published_loss,
    "ours, zeros multiplied": ours_with_zeros,
    "ours, bfloat16": ours_bfloat16,
    "bare loop": bare_loop,
    "bare loop, our loss": bare_loop_our_loss,
    "matrix products": matrix_products,
    "scalex 1.0.4": published,
    "scalex 1.0.4, no workers": published_alone,
    "scvi": scvi,
}


def measure(cells: Cells, methods: list[str], repeats: int) -> pd.DataFrame:
    """All methods in turn, as often as asked, so that a busy minute meets all of them.

    In a new order each time: a method's memory and threads are still there when the next begins.
    """
    rows = []
    order = np.random.default_rng(0)
    for repeat in range(repeats + 1):
        for name in order.permutation(methods):
            wall, cpu = time.perf_counter(), time.process_time()
            n_iterations = METHODS[name](cells)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            size = SCVI_MINIBATCH if name == "scvi" else cells.batch_size
            if repeat:  # the first warms up
                rows.append(
                    (name, repeat, size, 1e3 * wall / n_iterations, 1e3 * cpu / n_iterations)
                )
    runs = pd.DataFrame(
        rows, columns=["method", "repeat", "minibatch", "ms_per_iteration", "cpu_ms_per_iteration"]
    )
    return runs.sort_values("method", key=lambda names: names.map(methods.index), kind="stable")


def summarize(runs: pd.DataFrame) -> pd.DataFrame:
    """Medians; and how many times as long as the bare loop for a cell."""
    table = runs.groupby("method", sort=False).median().drop(columns="repeat").reset_index()
    table["us_per_cell"] = 1e3 * table["ms_per_iteration"] / table["minibatch"]
    per_cell = table.set_index("method")["us_per_cell"]
    if "bare loop" in per_cell:
        table["times_bare_loop"] = table["us_per_cell"] / per_cell["bare loop"]
    for peer in per_cell.index[per_cell.index.str.startswith("scalex 1.0.4")]:
        table[f"times_faster_than {peer}"] = per_cell[peer] / table["us_per_cell"]
    return table


def draw(table: pd.DataFrame, runs: pd.DataFrame, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 0.45 * len(table) + 1), layout="constrained")
    names = list(table["method"])
    axes.barh(names, table["us_per_cell"], color="0.75")
    places = [names.index(name) for name in runs["method"]]
    axes.plot(1e3 * runs["ms_per_iteration"] / runs["minibatch"], places, ".", color="0.2")
    axes.invert_yaxis()
    axes.set_xlabel("training, µs per cell (median and each run)")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argument_parser(__doc__, METHODS, n_cells=12_000)
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--batch-size", type=int, default=sx.train.DEFAULT.batch_size)
    parser.add_argument("--repeats", type=int, default=5)
    # Starting a trainer takes as long as ten iterations of thousands, not of one epoch.
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    quiet()
    settings.num_threads = args.threads  # all methods have them, ours in training, too
    counts, prepared = read_cells(args.data, args.cells, args.genes, repeat=True)
    sx.SCALEXModel.setup_anndata(prepared, batch_key="batch")
    genes = list(prepared.var_names)
    sx.SCALEXModel.setup_anndata(counts, batch_key="batch", n_top_features=genes)
    dense = torch.from_numpy(prepared.X.toarray())
    codes = torch.from_numpy(prepared.obs["batch"].cat.codes.to_numpy().astype(np.int64))
    cells = Cells(counts, prepared, dense, codes, args.batch_size, args.epochs)
    density = float((dense != 0).float().mean())
    print(f"{prepared.n_obs} cells x {prepared.n_vars} genes, {density:.3f} of it not zero")
    runs = measure(cells, args.methods, args.repeats)
    table = summarize(runs)
    args.out.mkdir(parents=True, exist_ok=True)
    runs.to_csv(args.out / "training_runs.csv", index=False)
    draw(table, runs, args.out / "training.png")
    shape = {"cells": prepared.n_obs, "genes": prepared.n_vars, "density": density}
    write(table.assign(**shape), args.out / "training.csv")


if __name__ == "__main__":
    main()
