"""What a query's new batch is divided by: the reference's scale, or its own maxima (published).

    python -m benchmarks.new_batches --data FOLDER [--sets NAME ...] [--out runs]

Each of up to four batches of a set is left out of a reference trained by the quick recipe. The
batch is then encoded with either scale, and by either statistics of the encoder. Printed: macro-F1
of the types that the reference has, by linear discriminants and by 15 neighbors in the latent; how
far cells of parts of 1, 10 and 50 lie from where they lie in the whole batch, in standard
deviations of the reference's latent.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

import scalex_scvi as sx
from benchmarks.sets import BATCH, LABELS, RNA_SETS, describe, read_set
from benchmarks.speed.common import quiet

MORE = (
    "embedded/pancreas_5tech",
    "pancreas_baron_human_mouse_6donors",
    "snare_mouse_cortex_rna",
    "tonsil_pbmc_10samples_celltalker",
)
CELLS_OF_REFERENCE, CELLS_OF_QUERY, BATCHES = 6_000, 2_500, 4
PARTS = (1, 10, 50)


@dataclass(frozen=True)
class Case:
    """A trained reference, and the batch that was left out of it."""

    model: sx.SCALEXModel
    reference: ad.AnnData
    query: ad.AnnData
    log_normalized: bool

    def latent(self, query: ad.AnnData, new_batches: str, batch_stats: str) -> np.ndarray:
        """Encode cells as cells of a new batch."""
        record = self.model.preprocessing
        changed = sx.pp.Preprocessing(**(vars(record) | {"new_batches": new_batches}))
        prepared = sx.pp.prepare_query(
            query, changed, batch_key=BATCH, log_normalized=self.log_normalized or None
        )
        return self.model.get_latent_representation(prepared, batch_stats=batch_stats)


def cases(data: Path, name: str) -> list[Case]:
    """Train a reference without each batch."""
    adata = read_set(data, name)
    log_normalized = describe(name.removeprefix("embedded/")).log_normalized
    found = []
    for batch in adata.obs[BATCH].unique()[:BATCHES]:
        is_query = (adata.obs[BATCH] == batch).to_numpy()
        reference = some(adata[~is_query], CELLS_OF_REFERENCE)
        query = some(adata[is_query], CELLS_OF_QUERY)
        prepared = sx.pp.rna(reference, batch_key=BATCH, log_normalized=log_normalized)
        sx.SCALEXModel.setup_anndata(prepared, batch_key=BATCH)
        model = sx.SCALEXModel(prepared)
        how = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}
        model.train(recipe=sx.train.QUICK, **how)
        found.append(Case(model, prepared, query, log_normalized))
    return found


def some(adata: ad.AnnData, n_cells: int) -> ad.AnnData:
    if adata.n_obs <= n_cells:
        return adata.copy()
    return adata[np.random.default_rng(0).permutation(adata.n_obs)[:n_cells]].copy()


def macro_f1(case: Case, of_reference: np.ndarray, of_query: np.ndarray) -> dict[str, float]:
    labels = case.reference.obs[LABELS].to_numpy(str)
    truth = case.query.obs[LABELS].to_numpy(str)
    known = np.isin(truth, labels)
    methods: dict[str, Callable[[], object]] = {
        "discriminants": LinearDiscriminantAnalysis,
        "neighbors": lambda: KNeighborsClassifier(15),
    }
    scores = {}
    for name, make in methods.items():
        predicted = make().fit(of_reference, labels).predict(of_query[known])
        types = np.unique(truth[known])
        scores[name] = f1_score(truth[known], predicted, labels=types, average="macro")
    return scores


def shift(case: Case, whole: np.ndarray, deviation: np.ndarray, new_batches: str, n: int) -> float:
    """Mean distance of cells in a part from themselves in the whole, in standard deviations."""
    rng = np.random.default_rng(0)
    distances = []
    for _ in range(10):
        rows = rng.choice(case.query.n_obs, min(n, case.query.n_obs), replace=False)
        part = case.latent(case.query[rows].copy(), new_batches, "running")
        distances.append(np.abs(part - whole[rows]) / deviation)
    return float(np.mean([each.mean() for each in distances]))


def rows_of(name: str, case: Case) -> list[dict[str, object]]:
    rows = []
    for stats in ("running", "batch"):
        of_reference = case.model.get_latent_representation(batch_stats=stats)
        for new_batches in ("reference", "own"):
            whole = case.latent(case.query, new_batches, stats)
            row: dict[str, object] = {"set": name, "scale": new_batches, "statistics": stats}
            row |= macro_f1(case, of_reference, whole)
            if stats == "running":
                deviation = of_reference.std(axis=0)
                row |= {
                    f"shift of {n}": shift(case, whole, deviation, new_batches, n) for n in PARTS
                }
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--sets", nargs="+", default=[*RNA_SETS, *MORE])
    parser.add_argument("--out", type=Path, default=Path("runs"))
    args = parser.parse_args()
    quiet()
    rows = []
    for name in args.sets:
        for case in cases(args.data, name):
            rows += rows_of(name, case)
    by = ["scale", "statistics"]
    of_sets = pd.DataFrame(rows).groupby(["set", *by]).mean(numeric_only=True)
    args.out.mkdir(parents=True, exist_ok=True)
    of_sets.to_csv(args.out / "new_batches.csv", float_format="%.4g")
    print(of_sets.round(3).to_string())
    print(of_sets.groupby(by).mean().round(3).to_string())


if __name__ == "__main__":
    main()
