"""Labels of a query that lacks genes of the reference.

    python -m benchmarks.missing_genes --data FOLDER [--sets NAME ...] [--seeds 0 1]

The last batch of each set is the query, with a random share of its genes; the reference is trained
by `QUICK`. Printed, for cells of types that the reference has: share of right labels by
``map_query``, by 15 neighbors in the latent, the same with zeros for genes that are missing, and by
``map_query`` onto a reference by name, which has no cells; the mean probability of the labels; and
the share called unknown.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import anndata as ad
import numpy as np
import pandas as pd
from sklearn.neighbors import KNeighborsClassifier

import scalex_scvi as sx
from benchmarks.sets import BATCH, LABELS, read_set
from benchmarks.speed.common import QUIET, quiet

SETS = (
    "kang_pbmc_published_labels",
    "pancreas_3study_cepo",
    "pancreas_baron_human_mouse_6donors",
)
SHARES = (0.9, 0.7, 0.5, 0.35, 0.2, 0.1)
"""Of the genes, drawn at random."""


def right(query: ad.AnnData, labels: object, known: set[str]) -> float:
    """Share of right labels among cells of known types."""
    truth = query.obs[LABELS].astype(str).to_numpy()
    counted = np.isin(truth, list(known))
    return float((np.asarray(labels).astype(str) == truth)[counted].mean())


def rows_of(data: Path, name: str, seeds: list[int]) -> list[dict[str, object]]:
    cells = read_set(data, name)
    batch = cells.obs[BATCH].astype(str)
    own = (batch != batch.unique()[-1]).to_numpy()
    reference = cells[own].copy()
    model = sx.integrate(reference, BATCH, recipe=sx.train.QUICK, **QUIET)
    types = reference.obs[LABELS].astype(str)
    known = set(types)
    nearest = KNeighborsClassifier(15).fit(model.get_latent_representation(), types)
    enough = types.map(types.value_counts()) >= 5
    reference.obs["enough"] = types.where(enough)
    rows = []
    with TemporaryDirectory() as folder:
        shared = sx.references.save(model, Path(folder) / "named", "enough", license="mit")
        for which, has in _draws(cells, model, seeds):
            query = cells[~own, has].copy()
            by_name = query.copy()
            sx.map_query(query, model, labels=LABELS, min_gene_share=0)
            sx.map_query(by_name, shared, min_gene_share=0)
            is_known = query.obs[LABELS].astype(str).isin(known)
            rows.append(
                {
                    "set": name,
                    "genes": which,
                    "right": right(query, query.obs[f"{LABELS}_transfer"], known),
                    "probability": float(query.obs[f"{LABELS}_probability"][is_known].mean()),
                    "neighbors": right(query, nearest.predict(query.obsm["X_scalex"]), known),
                    "zeros": right(query, nearest.predict(_with_zeros(query, model)), known),
                    "by_name": right(query, by_name.obs["enough_transfer"], known),
                    "unknown": float(query.obs[f"{LABELS}_unknown"][is_known].mean()),
                }
            )
    return rows


def _with_zeros(query: ad.AnnData, model: sx.SCALEXModel) -> np.ndarray:
    bare = ad.AnnData(query.X, obs=query.obs[[BATCH]], var=query.var[[]])
    mapped = sx.SCALEXModel.load_query_data(bare, model, missing_genes="zero", min_gene_share=0)
    return mapped.get_latent_representation()


def _draws(
    cells: ad.AnnData, model: sx.SCALEXModel, seeds: list[int]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what genes a query has: all, those of the model, or a random share, by each seed."""
    yield "all", np.ones(cells.n_vars, dtype=bool)
    yield "the model's", cells.var_names.isin(model.get_var_names())
    for share in SHARES:
        for seed in seeds:
            yield f"{share:g}", np.random.default_rng(seed).random(cells.n_vars) < share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    args = parser.parse_args()
    quiet()
    rows = [row for name in args.sets for row in rows_of(args.data, name, args.seeds)]
    table = pd.DataFrame(rows)
    print(table.groupby(["set", "genes"], sort=False).mean().round(3).to_string())
    print(table.drop(columns="set").groupby("genes", sort=False).mean().round(3).to_string())


if __name__ == "__main__":
    main()
