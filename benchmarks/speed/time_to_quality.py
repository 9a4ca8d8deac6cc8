"""Wall time of a whole training, and the scIB total that it reaches.

Usage: ``python -m benchmarks.speed.time_to_quality [--lr 2e-3] [--max-steps 3000]
[--batch-size 64] [--lr-schedule constant] [--data FILE.h5ad] [--cells 12000] [--threads 2]
[--seed 0] [--methods ...] [--out runs/speed]``; ours by its defaults where nothing is given. See
the README beside this.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scvi import settings

import scalex_scvi as sx
from benchmarks.speed.common import QUIET, argument_parser, quiet, read_cells, write
from scalex_scvi.train import DEFAULT, QUICK, Recipe

Method = Callable[[AnnData, AnnData, argparse.Namespace], np.ndarray]


def ours(
    counts: AnnData,
    prepared: AnnData,
    args: argparse.Namespace,
    recipe: Recipe | None = None,
    **trainer: object,
) -> np.ndarray:
    """Train by a recipe, or without one by what the command line gives and the defaults."""
    adata = prepared.copy()
    sx.SCALEXModel.setup_anndata(adata, batch_key="batch")
    model = sx.SCALEXModel(adata, seed=args.seed)
    if recipe is None:
        options = given(args)
        trainer |= {name: options.pop(name) for name in ("precision",) if name in options}
        recipe = DEFAULT.but(**options)
    model.train(recipe=recipe, seed=args.seed, **trainer, **QUIET)
    return model.get_latent_representation()


def given(args: argparse.Namespace) -> dict[str, object]:
    """Pick what the command line says of our training."""
    settings = {name: getattr(args, name) for name in SETTINGS}
    return {name: value for name, value in settings.items() if value is not None}


SETTINGS = ("lr", "max_steps", "batch_size", "lr_schedule", "precision")


def published(counts: AnnData, prepared: AnnData, args: argparse.Namespace) -> np.ndarray:
    """Train scalex 1.0.4 by its defaults, but no workers: they only cost time on few cores.

    Its preprocessing is inside of its one function, and of its time: seconds of minutes.
    """
    from scalex import SCALEX

    with tempfile.TemporaryDirectory() as folder:
        adata = SCALEX(
            counts.copy(),  # a list of one would be taken for a list of files
            batch_name="batch",
            min_features=0,
            seed=args.seed,
            max_iteration=args.published_steps,
            ignore_umap=True,
            show=False,
            num_workers=0,
            outdir=folder,  # without one, early stopping fails
        )
    return adata[counts.obs_names].obsm["latent"]


def scvi(counts: AnnData, prepared: AnnData, args: argparse.Namespace) -> np.ndarray:
    return _trained_scvi(counts, prepared, args).get_latent_representation()


def scanvi(counts: AnnData, prepared: AnnData, args: argparse.Namespace) -> np.ndarray:
    """Train scANVI by its defaults, from scVI: it sees the labels that it is scored by."""
    import scvi as scvi_tools

    model = scvi_tools.model.SCANVI.from_scvi_model(
        _trained_scvi(counts, prepared, args), unlabeled_category="none", labels_key="celltype"
    )
    model.train(**QUIET)
    return model.get_latent_representation()


def _trained_scvi(counts: AnnData, prepared: AnnData, args: argparse.Namespace) -> Any:
    """Train scVI by its defaults, stopped when the validation loss no longer falls."""
    import scvi as scvi_tools

    scvi_tools.settings.seed = args.seed
    adata = counts[:, prepared.var_names].copy()
    adata.X = sparse.csr_matrix(adata.X, dtype=np.float32)
    adata.X.data = np.rint(adata.X.data)  # its likelihood is of counts
    scvi_tools.model.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi_tools.model.SCVI(adata)
    model.train(max_epochs=args.scvi_epochs, early_stopping=True, **QUIET)
    return model


def harmony(counts: AnnData, prepared: AnnData, args: argparse.Namespace) -> np.ndarray:
    import harmonypy

    pca = sx.metrics.uncorrected_pca(prepared, n_components=50)
    corrected = harmonypy.run_harmony(pca, prepared.obs, "batch", random_state=args.seed).Z_corr
    return corrected if corrected.shape == pca.shape else corrected.T


def uncorrected(counts: AnnData, prepared: AnnData, args: argparse.Namespace) -> np.ndarray:
    return sx.metrics.uncorrected_pca(prepared, n_components=50)


METHODS: dict[str, Method] = {
    "ours": ours,
    "ours, quick": partial(ours, recipe=QUICK),
    "ours, quick, bfloat16": partial(ours, recipe=QUICK, precision="bf16-mixed"),
    "scalex 1.0.4": published,
    "scvi": scvi,
    "scanvi (sees labels)": scanvi,
    "harmony": harmony,
    "uncorrected": uncorrected,
}


def main() -> None:
    args = _arguments()
    quiet()
    settings.num_threads = args.threads  # all methods have them, ours in training, too
    counts, prepared = read_cells(args.data, args.cells, args.genes)
    scored, seconds = prepared.copy(), {}
    for name in args.methods:
        start = time.perf_counter()
        scored.obsm[name] = METHODS[name](counts, prepared, args)
        seconds[name] = time.perf_counter() - start
        print(f"{name}: {seconds[name]:.1f} s", flush=True)
    scores = sx.metrics.benchmark(scored, args.methods)
    table = scores[["Batch correction", "Bio conservation", "Total"]].rename_axis("method")
    table.insert(0, "seconds", pd.Series(seconds))
    if "scalex 1.0.4" in seconds:
        table.insert(1, "times_faster", seconds["scalex 1.0.4"] / table["seconds"])
    if "ours" in seconds:  # the settings of the other rows are in their names
        for name, value in given(args).items():
            table.loc["ours", name] = value
    facts = {"seed": args.seed, "cells": prepared.n_obs}
    write(table.reset_index().assign(**facts), args.out / "time_to_quality.csv")


def _arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__, METHODS, n_cells=12_000)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--lr-schedule", choices=["constant", "cosine"])
    parser.add_argument("--precision", help="32-true or bf16-mixed")
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--published-steps", type=int, default=30_000)
    parser.add_argument("--scvi-epochs", type=int, help="default: scvi-tools' own number")
    return parser.parse_args()


if __name__ == "__main__":
    main()
