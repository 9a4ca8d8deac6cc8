"""How near RNA and gene activity of the same cells come to each other.

Usage: ``python -m benchmarks.pairs --data FOLDER`` (see ``--help``).

The two files hold the same cells in the same order. They are integrated as two batches, without
saying which cells are the same, by the genes that both have. Scores, each also for principal
components without correction and by chance:

- ``closer than the own``: share of the cells of the other modality that lie closer to a cell than
  its own measurement there (FOSCTTM), the mean of both directions. 0 is perfect, 0.5 chance.
- ``own in the nearest 1 %``: share of cells whose own measurement is among these (match rate).
- ``label``: share of chromatin cells that get their label from the RNA of all cells.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

import scalex_scvi as sx

LABELS = "celltype"


def read_pairs(folder: Path, names: tuple[str, str], n_cells: int, seed: int) -> ad.AnnData:
    """Return both measurements of some cells, RNA first, as two batches."""
    rna, activity = (ad.read_h5ad(folder / f"{name}.h5ad") for name in names)
    if not rna.obs_names.equals(activity.obs_names):
        msg = f"{names!r} do not hold the same cells in the same order."
        raise ValueError(msg)
    size = min(n_cells, rna.n_obs)
    chosen = np.sort(np.random.default_rng(seed).choice(rna.n_obs, size, replace=False))
    parts = {"RNA": rna[chosen], "ATAC": activity[chosen]}
    return ad.concat(parts, label="modality", join="inner", index_unique="-")


def scores(latent: np.ndarray, labels: pd.Series) -> dict[str, float]:
    """Compare the two halves of a representation, cell by cell."""
    n = len(latent) // 2
    between = cdist(latent[:n], latent[n:])
    ranks = [(d < np.diag(d)[:, None]).sum(axis=1) for d in (between, between.T)]
    both = np.concatenate(ranks)
    nearest = between.argmin(axis=0)
    truth = labels.astype(str).to_numpy()
    return {
        "closer than the own": float(both.mean() / (n - 1)),
        "own in the nearest 1 %": float((both < 0.01 * n).mean()),
        "label": float((truth[:n][nearest] == truth[n:]).mean()),
    }


def by_chance(labels: pd.Series) -> dict[str, float]:
    shares = labels.value_counts(normalize=True)
    return {
        "closer than the own": 0.5,
        "own in the nearest 1 %": 0.01,
        "label": float((shares**2).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the two sets")
    parser.add_argument("--rna", default="snare_mouse_cortex_rna")
    parser.add_argument("--activity", default="snare_mouse_cortex_geneactivity")
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--max-steps", type=int, help="minibatches; default: the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    pairs = read_pairs(args.data, (args.rna, args.activity), args.cells, args.seed)
    prepared = sx.pp.rna(pairs, batch_key="modality", min_features=0, min_cells=1)
    sx.SCALEXModel.setup_anndata(prepared, batch_key="modality")
    model = sx.SCALEXModel(prepared, seed=args.seed)
    model.train(max_steps=args.max_steps, seed=args.seed, enable_progress_bar=False)
    labels = prepared.obs[LABELS]
    table = pd.DataFrame(
        {
            "chance": by_chance(labels),
            "uncorrected": scores(sx.metrics.uncorrected_pca(prepared), labels),
            "SCALEX, running": scores(model.get_latent_representation(), labels),
            "SCALEX, batch": scores(model.get_latent_representation(batch_stats="batch"), labels),
        }
    ).T
    print(f"{prepared.n_obs // 2} cells twice, {prepared.n_vars} genes")
    print(table.round(3).to_string())


if __name__ == "__main__":
    main()
