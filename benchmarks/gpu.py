"""One command for a machine with a GPU: is it right, and how fast.

    python -m benchmarks.gpu --data kang_pbmc_published_labels.h5ad --out runs/gpu

Real cells are drawn with replacement, in memory. In one run it compares latents with those of the
processor in float32, and times minibatches beside a bare loop of torch, projection beside the
encoder's arithmetic alone, the whole way of a million cells from raw counts to their latent, and
scVI. Medians of ``--repeats`` runs; it takes some minutes. ``--device cpu`` runs the same code
anywhere.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch

import scalex_scvi as sx
from benchmarks.speed.common import quiet, write

BATCH = 64


class Bench:
    """Times on one device, and the rows of the table."""

    def __init__(self, device: str, repeats: int) -> None:
        self.device = torch.device(device)
        self.repeats = repeats
        self.rows: list[dict[str, Any]] = []
        self.how = {
            "accelerator": "gpu" if device == "cuda" else "cpu",
            "devices": 1,
            "enable_progress_bar": False,
            "logger": False,
        }

    def wait(self) -> None:
        """Let the device finish."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], object], repeats: int | None = None) -> float:
        """Return the median over runs."""
        taken = []
        for _ in range(repeats or self.repeats):
            self.wait()
            began = time.perf_counter()
            run()
            self.wait()
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)

    def note(self, what: str, value: float, unit: str) -> None:
        """Add a row."""
        self.rows.append({"what": what, "value": value, "unit": unit})
        print(f"{what:<58} {value:>14.5g} {unit}", flush=True)


def draw(source: ad.AnnData, n_cells: int) -> ad.AnnData:
    """Draw cells with replacement."""
    rows = np.random.default_rng(0).integers(source.n_obs, size=n_cells)
    obs = source.obs[["batch"]].iloc[rows].reset_index(drop=True)
    obs.index = obs.index.astype(str)
    return ad.AnnData(X=source.X.tocsr()[rows], obs=obs, var=source.var[[]])


def setup(counts: ad.AnnData, genes: Any) -> sx.SCALEXModel:
    sx.SCALEXModel.setup_anndata(counts, batch_key="batch", n_top_features=genes)
    return sx.SCALEXModel(counts)


def correctness(bench: Bench, counts: ad.AnnData, genes: int) -> sx.SCALEXModel:
    """Largest difference of latents and imputed values from those of the processor."""
    model = setup(counts, genes)
    model.train(max_steps=300, **(bench.how | {"accelerator": "cpu"}))
    model.to_device("cpu")
    expected = {stats: latent(model, stats) for stats in ("running", "batch")}
    imputed = model.get_imputed_expression(indices=np.arange(500))
    model.to_device(bench.device)
    for stats, of_cpu in expected.items():
        bench.note(
            f"latent ({stats}), largest difference", largest(latent(model, stats), of_cpu), ""
        )
    there = model.get_imputed_expression(indices=np.arange(500))
    bench.note("imputed values, largest difference", largest(there, imputed), "")
    return model


def latent(model: sx.SCALEXModel, batch_stats: str) -> np.ndarray:
    return model.get_latent_representation(batch_stats=batch_stats)


def largest(a: Any, b: Any) -> float:
    return float(np.abs(np.asarray(a) - np.asarray(b)).max())


def training(bench: Bench, counts: ad.AnnData, genes: int, n_steps: int) -> None:
    """Minibatches per second of a long training, the start included, and of a bare loop."""
    model = setup(counts, genes)
    dense = torch.from_numpy(model.get_prepared().X.toarray()).to(bench.device)
    codes = torch.as_tensor(counts.obs["batch"].cat.codes.to_numpy().astype(np.int64))
    codes = codes.to(bench.device)
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: setup_and_train(bench, counts, n_steps),
        "ours, bfloat16": lambda: setup_and_train(bench, counts, n_steps, precision="bf16-mixed"),
        "bare loop": lambda: bare_loop(model, dense, codes, n_steps),
    }
    if bench.device.type == "cuda":
        ways["bare loop, compiled"] = lambda: bare_loop(model, dense, codes, n_steps, compiled=True)
    taken = {}
    for name, run in ways.items():
        run()  # warms up
        taken[name] = bench.seconds(run)
        bench.note(f"training of {BATCH}: {name}", n_steps / taken[name], "minibatches/s")
    bench.note("training: ours / bare loop", taken["ours"] / taken["bare loop"], "times")


def setup_and_train(bench: Bench, counts: ad.AnnData, n_steps: int, **more: Any) -> None:
    model = sx.SCALEXModel(counts)
    model.train(max_steps=n_steps, batch_size=BATCH, **bench.how, **more)


def bare_loop(
    model: sx.SCALEXModel,
    dense: torch.Tensor,
    codes: torch.Tensor,
    n_steps: int,
    *,
    compiled: bool = False,
) -> None:
    """Train the same network by the same loss on values that lie on the device."""
    module = model.module.to(dense.device).train()
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-4, weight_decay=5e-4, fused=True)

    def loss_of(x: torch.Tensor, batch: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        mean, var = module.encoder(x)
        logits = module.decoder(mean + var.sqrt() * noise, batch)
        cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits
        reconstruction = cross_entropy(logits, x, reduction="sum")
        kl = 0.5 * (var + mean.square() - 1 - var.log()).sum()
        return (reconstruction + 0.5 * kl) / len(x) + module.batch_offset(mean, batch)

    step = torch.compile(loss_of) if compiled else loss_of
    done = 0
    while done < n_steps:
        for rows in torch.randperm(len(dense), device=dense.device).split(BATCH):
            if len(rows) < BATCH or done == n_steps:
                break
            noise = torch.randn(BATCH, model.module.n_latent, device=dense.device)
            loss = step(dense[rows], codes[rows], noise)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1


def projection(bench: Bench, model: sx.SCALEXModel, query: ad.AnnData, n_genes: int) -> None:
    """Cells per second from raw counts in memory, beside the encoder alone on dense values."""
    model.to_device(bench.device)
    model.get_latent_representation(query[:20_000].copy())  # warms up
    manager = model.manager_of(query)  # registration checks every value: not what is timed
    adata = manager.adata
    taken = bench.seconds(lambda: model.get_latent_representation(adata), repeats=3)
    bench.note("projection of raw counts", query.n_obs / taken, "cells/s")
    x = torch.rand(16_384, n_genes, device=bench.device)
    encoder = model.module.encoder.eval()
    with torch.inference_mode():
        alone = bench.seconds(lambda: [encoder(x) for _ in range(10)])
    bench.note("encoder alone, dense values on the device", 10 * len(x) / alone, "cells/s")


def end_to_end(bench: Bench, counts: ad.AnnData, genes: int) -> None:
    """Raw counts of many cells in memory to their latent, step by step."""
    began = time.perf_counter()
    model = setup(counts, genes)
    fitted = time.perf_counter()
    model.train(max_epochs=1, batch_size=BATCH, **bench.how)
    bench.wait()
    trained = time.perf_counter()
    model.get_latent_representation()
    done = time.perf_counter()
    of = f"{counts.n_obs:,} cells"
    bench.note(f"{of}: setup, transform fitted", fitted - began, "s")
    bench.note(f"{of}: {counts.n_obs // BATCH:,} minibatches", trained - fitted, "s")
    bench.note(f"{of}: latent from counts", done - trained, "s")
    bench.note(f"{of}: whole", done - began, "s")


def scvi_beside(bench: Bench, counts: ad.AnnData, genes: int, n_steps: int) -> None:
    """Minibatches (of 128 cells) and cells of latent that scVI does in a second."""
    from scvi.model import SCVI

    chosen = setup(counts, genes).get_prepared().var_names
    adata = counts[:, chosen].copy()
    SCVI.setup_anndata(adata, batch_key="batch")
    epochs = max(1, n_steps // -(-adata.n_obs // 128))
    model = SCVI(adata)
    model.train(max_epochs=1, train_size=1.0, **bench.how)
    run = lambda: model.train(max_epochs=epochs, train_size=1.0, **bench.how)  # noqa: E731
    taken = bench.seconds(run, repeats=1)
    bench.note("scVI: training of 128", epochs * -(-adata.n_obs // 128) / taken, "minibatches/s")
    taken = bench.seconds(lambda: model.get_latent_representation(adata, batch_size=4096))
    bench.note("scVI: latent of selected counts", adata.n_obs / taken, "cells/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="counts with obs batch, .h5ad")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cells", type=int, default=12_000, help="to train on")
    parser.add_argument("--many", type=int, default=1_000_000, help="to project, and end to end")
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    args = parser.parse_args()
    quiet()
    bench = Bench(args.device, args.repeats)
    source = ad.read_h5ad(args.data)
    counts = draw(source, args.cells)
    many = draw(source, args.many)
    model = correctness(bench, counts, args.genes)
    training(bench, counts, args.genes, args.steps)
    projection(bench, model, many, args.genes)
    end_to_end(bench, many, args.genes)
    scvi_beside(bench, counts, args.genes, args.steps)
    card = torch.cuda.get_device_name() if args.device == "cuda" else "no GPU"
    write(pd.DataFrame(bench.rows).assign(card=card), args.out / "gpu.csv")


if __name__ == "__main__":
    main()
