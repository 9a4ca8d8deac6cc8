"""Simulate cells of known types in batches that multiply each gene by a factor of their own.

Usage: ``python -m benchmarks.simulate cells.h5ad [--cells 12000] [--genes 2000] [--types 10]
[--batches 4] [--seed 0]``: raw counts, ``obs["batch"]`` and ``obs["celltype"]``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse


def simulate(
    n_cells: int = 12_000,
    n_genes: int = 2_000,
    n_types: int = 10,
    n_batches: int = 4,
    seed: int = 0,
    mean_counts: float = 500.0,
) -> AnnData:
    """Draw counts: Poisson, around a type's profile times a batch's factors times a cell's size.

    Half of the genes differ between types, all of them between batches (log-normal factors with
    sigma 0.5). Types are of unequal size, and each batch has a composition of its own. The default
    ``mean_counts`` of a cell leaves about a tenth of the matrix not zero.
    """
    rng = np.random.default_rng(seed)
    base = rng.lognormal(0, 1.5, n_genes)
    markers = rng.lognormal(0, 1.0, (n_types, n_genes)) * (rng.random(n_genes) < 0.5)
    profiles = base * np.where(markers > 0, markers, 1)
    factors = rng.lognormal(0, 0.5, (n_batches, n_genes))
    batch = rng.integers(n_batches, size=n_cells)
    shares = rng.dirichlet(np.full(n_types, 3.0), size=n_batches)
    celltype = np.array([rng.choice(n_types, p=shares[b]) for b in batch])
    size = rng.lognormal(0, 0.3, n_cells) * mean_counts
    rows = []
    for start in range(0, n_cells, 1000):
        part = slice(start, start + 1000)
        rate = profiles[celltype[part]] * factors[batch[part]]
        rate *= (size[part] / rate.sum(axis=1))[:, None]
        rows.append(sparse.csr_matrix(rng.poisson(rate), dtype=np.float32))
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical([f"batch{b}" for b in batch]),
            "celltype": pd.Categorical([f"type{t}" for t in celltype]),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"gene{i}" for i in range(n_genes)])
    return AnnData(sparse.vstack(rows, format="csr"), obs=obs, var=var)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="file to write")
    parser.add_argument("--cells", type=int, default=12_000)
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--types", type=int, default=10)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    adata = simulate(args.cells, args.genes, args.types, args.batches, args.seed)
    adata.write_h5ad(args.path)
    print(f"{args.path}: {adata.shape}, {adata.X.nnz / np.prod(adata.shape):.3f} of it not zero")


if __name__ == "__main__":
    main()
