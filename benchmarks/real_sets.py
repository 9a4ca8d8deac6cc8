"""Integration of the real data sets: mixing and purity.

Usage: ``python -m benchmarks.real_sets --data FOLDER`` (see ``--help``).

Integration: share of same-batch neighbors and cell-type purity (30 neighbors), for uncorrected
PCA of the same genes and for both batch statistics. ``moved``: how far of the way from there to
fully mixed the better of the two gets.

Batches that are left out and projected: ``python -m benchmarks.left_out``.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import anndata as ad
import pandas as pd

import scalex_scvi as sx
from benchmarks.cells import Cells
from benchmarks.ours import RECIPES, train
from benchmarks.sets import BATCH, LABEL_SETS, LABELS, read_set
from scalex_scvi.train import Recipe


def recipe(args: argparse.Namespace) -> Recipe:
    """Recipe of the command line."""
    return RECIPES[args.recipe].but(**given(args))


def given(args: argparse.Namespace) -> dict[str, float]:
    """Give the numbers that replace the recipe's."""
    options = {"lr": args.lr, "max_steps": args.max_steps, "kl_weight": args.kl_weight}
    return {name: value for name, value in options.items() if value is not None}


def integration_row(counts: ad.AnnData, recipe: Recipe) -> dict[str, float]:
    start = time.perf_counter()
    model = train(Cells(counts), recipe=recipe)
    seconds = time.perf_counter() - start
    adata = model.adata
    batch, label = adata.obs[BATCH], adata.obs[LABELS]
    row: dict[str, float] = {
        "cells": adata.n_obs,
        "epochs": len(model.history["train_loss"]),
        "seconds": seconds,
        "mixed": sx.metrics.expected_same_batch_share(batch),
    }
    representations = {
        "pca": sx.metrics.uncorrected_pca(adata),
        "running": model.get_latent_representation(),
        "batch": model.get_latent_representation(batch_stats="batch"),
    }
    for name, points in representations.items():
        row[f"same_{name}"] = sx.metrics.same_batch_share(points, batch)
        row[f"purity_{name}"] = sx.metrics.knn_purity(points, label)
    best = min(row["same_running"], row["same_batch"])
    row["moved"] = (row["same_pca"] - best) / (row["same_pca"] - row["mixed"])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--sets", nargs="+", default=LABEL_SETS)
    parser.add_argument(
        "--recipe", choices=["published", "default"], default="published", help="of the training"
    )
    parser.add_argument("--lr", type=float, help="instead of the recipe's")
    parser.add_argument("--max-steps", type=int, help="instead of the recipe's")
    parser.add_argument("--kl-weight", type=float, help="instead of the recipe's")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder for the tables")
    args = parser.parse_args()
    training = recipe(args)
    tag = "_".join([args.recipe, *(f"{name}{value:g}" for name, value in given(args).items())])
    logging.disable(logging.WARNING)
    pd.set_option("display.width", 200, "display.max_columns", 30, "display.precision", 3)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in args.sets:
        rows.append({"set": name} | integration_row(read_set(args.data, name), training))
        table = pd.DataFrame(rows)
        table.to_csv(args.out / f"real_sets_integration_{tag}.csv", index=False)
        print(table.to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
