"""How often labels are right that are said to be so probable, before and after calibration.

    python -m benchmarks.calibration --data FOLDER [--sets NAME ...] [--out runs]

Up to four batches of each set are left out of a reference in turn, which is trained by the quick
recipe, and labeled by the default method. Printed by set, over the cells whose type the reference
has: accuracy; the mean probability of the labels and the expected calibration error (15 bins; Guo
et al., ICML 2017), before and after. ``calibration.png`` shows accuracy by probability.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from tqdm import tqdm

from benchmarks.new_batches import MORE, Case, cases
from benchmarks.sets import BATCH, LABELS, RNA_SETS
from benchmarks.speed.common import quiet
from scalex_scvi.tl._label_probabilities import Labeling
from scalex_scvi.tl._pair import Pair

N_BINS = 15
LATENT = "X_scalex"


def main() -> None:
    args = _arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    tables = []
    quiet()
    for name in tqdm(args.sets, disable=None):
        found = [labeled(case) for case in cases(args.data, name)]
        tables.append(pd.concat(found).assign(set=name))
        pd.concat(tables).to_csv(args.out / "calibration.csv", index=False)
    cells = pd.concat(tables)
    table = cells.groupby("set", sort=False).apply(summarize, include_groups=False)
    table.loc["mean"] = table.mean()
    print(table.round(3).to_string())
    draw(cells, args.out / "calibration.png")


def labeled(case: Case) -> pd.DataFrame:
    """Label the query: for each cell of a known type whether it is right, and how sure."""
    model = case.model
    ref = model.get_prepared()
    mapped = type(model).load_query_data(
        case.query, model, log_normalized=case.log_normalized or None
    )
    query = mapped.get_prepared()
    ref.obsm[LATENT] = model.get_latent_representation()
    query.obsm[LATENT] = mapped.get_latent_representation()
    pair = Pair(ref, query, LATENT, LABELS, BATCH, 10)
    labeling = Labeling(pair)
    raw, calibrated = labeling.shares(), labeling.probabilities()
    truth = query.obs[LABELS].astype(str).to_numpy()
    labels = pair.labels.cat.categories.to_numpy(str)[raw.argmax(axis=1)]
    known = np.isin(truth, pair.labels.cat.categories)
    columns = {"right": labels == truth, "before": raw.max(axis=1), "after": calibrated.max(axis=1)}
    return pd.DataFrame(columns)[known]


def summarize(cells: pd.DataFrame) -> pd.Series:
    """Figures of a set."""
    return pd.Series(
        {
            "accuracy": cells["right"].mean(),
            "said before": cells["before"].mean(),
            "said after": cells["after"].mean(),
            "error before": calibration_error(cells["right"], cells["before"]),
            "error after": calibration_error(cells["right"], cells["after"]),
        }
    )


def calibration_error(right: pd.Series, said: pd.Series) -> float:
    """Mean difference between probability and accuracy, bins counting by their cells."""
    bins = np.minimum((said * N_BINS).astype(int), N_BINS - 1)
    by_bin = pd.DataFrame({"right": right, "said": said}).groupby(bins)
    return float((by_bin.size() * (by_bin["right"].mean() - by_bin["said"].mean()).abs()).sum()) / (
        len(right)
    )


def draw(cells: pd.DataFrame, path: Path) -> None:
    """Accuracy by probability, all sets together, each counting alike."""
    weights = 1 / cells.groupby("set")["right"].transform("size")
    figure, axis = plt.subplots(figsize=(5, 5))
    axis.plot([0, 1], [0, 1], color="0.7")
    for when in ("before", "after"):
        bins = np.minimum((cells[when] * N_BINS).astype(int), N_BINS - 1)
        of_bin = pd.DataFrame({"w": weights, "x": cells[when] * weights})
        of_bin["y"] = cells["right"] * weights
        sums = of_bin.groupby(bins).sum()
        axis.plot(sums["x"] / sums["w"], sums["y"] / sums["w"], marker="o", label=when)
    axis.set(xlabel="probability of the label", ylabel="accuracy")
    axis.legend(title="calibration")
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--out", type=Path, default=Path("runs/calibration"))
    parser.add_argument("--sets", nargs="+", default=[*RNA_SETS, *MORE])
    return parser.parse_args()


if __name__ == "__main__":
    main()
