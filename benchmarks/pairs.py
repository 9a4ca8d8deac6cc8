"""How near RNA and gene activity of the same cells come to each other.

Usage: ``python -m benchmarks.pairs --data FOLDER`` (see ``--help``).

The two files hold the same cells in the same order. They are integrated as two batches, without
saying which cells are the same, by the genes that both have, by this package and by its peers.
Printed are the means over seeds of these scores, and what they are by chance:

- ``closer than the own``: share of the cells of the other modality that lie closer to a cell than
  its own measurement there (FOSCTTM), the mean of both directions. 0 is perfect, 0.5 chance.
- ``own in the nearest 1 %``: share of cells whose own measurement is among these (match rate).
- ``label``: share of chromatin cells whose nearest RNA cell has their label; files without labels
  have none.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from benchmarks.cells import Cells
from benchmarks.options import one_of, parse
from benchmarks.peers import INTEGRATING, Embeddings
from benchmarks.sets import LABELS
from benchmarks.speed.common import quiet

METHODS = ("scalex_scvi", "scalex", "harmony", "scvi", "uncorrected")
MODALITY = "modality"


def read_pairs(folder: Path, names: tuple[str, str], n_cells: int, seed: int) -> ad.AnnData:
    """Return both measurements of some cells, RNA first, as two batches."""
    rna, activity = (ad.read_h5ad(folder / f"{name}.h5ad") for name in names)
    if not rna.obs_names.equals(activity.obs_names):
        msg = f"{names!r} do not hold the same cells in the same order."
        raise ValueError(msg)
    size = min(n_cells, rna.n_obs)
    chosen = np.sort(np.random.default_rng(seed).choice(rna.n_obs, size, replace=False))
    parts = {"RNA": rna[chosen], "ATAC": activity[chosen]}
    return ad.concat(parts, label=MODALITY, join="inner", index_unique="-")


def embeddings(pairs: ad.AnnData, method: str, seed: int) -> Embeddings:
    """Integrate both measurements; scANVI, which is given the labels, is left out."""
    name, preparation, options = parse(method)
    cells = Cells(pairs, batch_key=MODALITY, preparation=preparation)
    found = INTEGRATING[name](cells, seed, **options)
    return islice(found, 1) if name == "scvi" else found


def scores(latent: np.ndarray, labels: pd.Series | None) -> dict[str, float]:
    """Compare the two halves of a representation, cell by cell."""
    n = len(latent) // 2
    between = cdist(latent[:n], latent[n:])
    ranks = [(d < np.diag(d)[:, None]).sum(axis=1) for d in (between, between.T)]
    both = np.concatenate(ranks)
    return {
        "closer than the own": float(both.mean() / (n - 1)),
        "own in the nearest 1 %": float((both < 0.01 * n).mean()),
        "label": np.nan if labels is None else _same_label(between, labels.to_numpy(str)),
    }


def _same_label(between: np.ndarray, labels: np.ndarray) -> float:
    rna, chromatin = np.split(labels, 2)
    return float((rna[between.argmin(axis=0)] == chromatin).mean())


def by_chance(labels: pd.Series | None) -> dict[str, float]:
    return {
        "closer than the own": 0.5,
        "own in the nearest 1 %": 0.01,
        "label": np.nan if labels is None else float((labels.value_counts(True) ** 2).sum()),
    }


def main() -> None:
    args = _arguments()
    quiet()
    rows = []
    for seed in args.seeds:
        pairs = read_pairs(args.data, (args.rna, args.activity), args.cells, seed)
        labels = pairs.obs.get(LABELS)
        rows.append({"method": "chance"} | by_chance(labels))
        for method in args.methods:
            for name, latent in embeddings(pairs, method, seed):
                full = f"{method} ({name})" if method.startswith("scalex_scvi") else name
                rows.append({"method": full} | scores(latent, labels))
    print(f"{pairs.n_obs // 2} cells twice, {pairs.n_vars} genes of both")
    print(pd.DataFrame(rows).groupby("method", sort=False).mean().round(3).to_string())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the two sets")
    parser.add_argument("--rna", default="snare_mouse_cortex_rna")
    parser.add_argument("--activity", default="snare_mouse_cortex_geneactivity")
    parser.add_argument("--cells", type=int, default=2000, help="other ones with each seed")
    parser.add_argument("--methods", nargs="+", type=one_of(INTEGRATING), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    return parser.parse_args()


if __name__ == "__main__":
    main()
