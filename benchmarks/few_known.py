"""Which cells of a query are called unknown where few or none of its types are known.

    python -m benchmarks.few_known --data FOLDER [--one-batch] [--sets NAME ...] [--queries 2]
        [--out FILE]

Up to so many batches of a set, the largest ones, are cut anew, each as a query of the others, or,
with ``--one-batch``, of the largest other one alone:

- *whole*: all its cells, all their types in the reference;
- *one of several*, *half*: all its cells, one type or half of the types taken out of the reference;
- *one, alone* and *two*, *three, alone*: the cells of types that were taken out, no others;
- *known, alone* (sorted cells), *two*, *three known*: the cells of types that the reference has.

Types have at least 20 cells in the batch and are in two other batches, or have at least 10 in the
one. At most 600 cells of a batch are taken, at random. Means over the cases of a set, then over
sets.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from tqdm import tqdm

from benchmarks.cells import Case, Cells
from benchmarks.sets import BATCH, LABELS, describe, read_labeled
from benchmarks.unknown.methods import by_ours

SETS = (
    "embedded/pancreas_5tech",
    "pancreas_3study_cepo",
    "celllines_3cl_3platforms_832genes",
    "kang_pbmc_ctrl_8donors",
    "pancreas_baron_human_mouse_6donors",
    "snare_mouse_cortex_rna",
    "tonsil_pbmc_10samples_celltalker",
)
SETS_OF_TWO_BATCHES = (
    "kang_pbmc_published_labels",
    "mesc_2batch_scmerge",
    "pancreas_wang_xin_scclassify",
    "rnamix_celseq2_sortseq",
    "pbmc_cite_5k_10k_scvi_testdata",
    "starmap_mpfc_3sections",
    "granja_bmmc_atac_peaks",
)
"""More sets for references of one batch: those of two, and sections of one tissue."""
MIN_CELLS, MIN_CELLS_OF_ONE = 20, 10
"""Fewest cells of a type in the query, and in a reference of one batch."""
MOST_CELLS = 600
MOST_PAIRS = 3
"""Most pairs, and triples, of types of one batch."""


def main() -> None:
    args = _arguments()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    sets = args.sets or (SETS + SETS_OF_TWO_BATCHES if args.one_batch else SETS)
    for name in tqdm(sets, disable=None):
        adata = read_labeled(args.data, name, MOST_CELLS)
        batches = adata.obs[BATCH].value_counts().index
        for batch in batches[: args.queries]:
            used = adata
            if args.one_batch:
                used = adata[adata.obs[BATCH].isin([batch, batches[batches != batch][0]])]
            for kind, removed, given in _queries(used.obs, batch):
                case = _case(used, name, batch, removed, given)
                unseen = case.query.obs[LABELS].astype(str).isin(removed).to_numpy()
                unknown = by_ours(case, "neighborhood").unknown
                rows.append(
                    {
                        "set": name,
                        "batch": batch,
                        "query": kind,
                        "removed": "; ".join(removed),
                        "found": unknown[unseen].mean() if unseen.any() else np.nan,
                        "refused": unknown[~unseen].mean() if not unseen.all() else np.nan,
                    }
                )
                pd.DataFrame(rows).to_csv(args.out, index=False)
    _report(pd.DataFrame(rows))


def _queries(obs: pd.DataFrame, batch: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Kind of query, types taken out of the reference, types that are given (none: all)."""
    counts = pd.crosstab(obs[BATCH], obs[LABELS])
    elsewhere = counts.drop(index=batch)
    one = len(elsewhere) == 1
    there = elsewhere.sum() >= MIN_CELLS_OF_ONE if one else (elsewhere > 0).sum() > 1
    many = (counts.loc[batch] >= MIN_CELLS) & there
    types = [str(name) for name in counts.columns[many]]
    n_labels = int((elsewhere.sum() > 0).sum())
    rng = np.random.default_rng(0)
    yield "whole", [], []
    for name in types:
        yield "known, alone", [], [name]
        if n_labels > 2:
            yield "one of several", [name], []
            yield "one, alone", [name], [name]
    half = sorted(np.random.default_rng(1).choice(types, len(types) // 2, replace=False))
    if len(half) > 1 and n_labels > len(half) + 1:
        yield "half of several", [str(name) for name in half], []
    for n, number in ((2, "two"), (3, "three")):
        groups = list(combinations(types, n))
        for i in rng.permutation(len(groups))[:MOST_PAIRS]:
            chosen = list(groups[i])
            yield f"{number} known", [], chosen
            if n_labels > n + 1:
                yield f"{number}, alone", chosen, chosen


def _case(adata: AnnData, name: str, batch: str, removed: list[str], given: list[str]) -> Case:
    is_query = (adata.obs[BATCH] == batch).to_numpy()
    label = adata.obs[LABELS].astype(str)
    is_removed, is_given = label.isin(removed).to_numpy(), label.isin(given).to_numpy()
    query = adata[is_query & (is_given if given else True)]
    ref = adata[~is_query & ~is_removed]
    return Case(Cells(ref.copy(), describe(name)), query.copy(), Path())


def _report(rows: pd.DataFrame) -> None:
    means = rows.groupby(["query", "set"])[["found", "refused"]].mean()
    table = means.groupby("query").mean()
    table["cases"] = rows.groupby("query").size()
    print(means.unstack().round(2).to_string())
    print(table.round(3).to_string())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--one-batch", action="store_true", help="references of one batch")
    parser.add_argument("--sets", nargs="+", help="default: seven sets, more with --one-batch")
    parser.add_argument("--queries", type=int, default=2, help="batches of each set")
    parser.add_argument("--out", type=Path, default=Path("runs/few_known.csv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
