"""How well each method tells cells of types that the reference lacks, over every type and batch.

Usage: ``python -m benchmarks.unknown --data FOLDER --out FOLDER`` (``--help`` for the rest).

A case is a set, a batch that is the query, and a type with at least 10 cells in it that is taken
out of the reference, which is made of the other batches; also each batch that has types by itself.
All methods see the same genes, and refuse cells by a p-value of 0.05 at most. Ours takes it from
its own misfit, which needs expression alone: no model is trained, and there is no seed. The others
take the conformal p-value of ``benchmarks.peers`` from held-out batches; scANVI, which alone trains
(seed 0), from the reference cells that it keeps for validation. ``former`` is the score that ours
had before, with 50 components in place of a latent (``benchmarks.left_out --unknown`` has it with
the latent). Cases are taken set by set in turn, rows are written as they come, and a second call
computes only what is missing.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pandas as pd
from tqdm import tqdm

from benchmarks.cells import Case, Cells, leave_out
from benchmarks.sets import BATCH, LABELS, describe, read_labeled
from benchmarks.unknown.methods import METHODS
from benchmarks.unknown.report import CASE, MIN_CELLS, score, write_report

SETS = [
    "kang_pbmc_published_labels",
    "pancreas_3study_cepo",
    "mesc_2batch_scmerge",
    "pancreas_wang_xin_scclassify",
    "celllines_3cl_3platforms_832genes",
    "embedded/pancreas_5tech",
    "kang_pbmc_ctrl_8donors",
    "pancreas_baron_human_mouse_6donors",
    "snare_mouse_cortex_rna",
    "tonsil_pbmc_10samples_celltalker",
    "pbmc_cite_5k_10k_scvi_testdata",
    "rnamix_celseq2_sortseq",
]


def main() -> None:
    args = _arguments()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "scores.csv"
    rows = pd.read_csv(path, keep_default_na=False).to_dict("records") if path.exists() else []
    done = {tuple(row[key] for key in (*CASE, "method")) for row in rows}
    for name, left_out, removed in tqdm(list(_cases(args)), disable=None):
        missing = [m for m in args.methods if (name, left_out, removed, m) not in done]
        if not missing:
            continue
        case = _read(args, name, left_out, removed)
        for method in missing:
            about = {**dict(zip(CASE, (name, left_out, removed), strict=True)), "method": method}
            rows.append(about | score(case, METHODS[method](case)))
            pd.DataFrame(rows).to_csv(path, index=False)
    write_report(pd.read_csv(path, keep_default_na=False, na_values=[""]), args.out)


def _cases(args: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    by_set = [list(_cases_of(args, name))[: args.most_cases] for name in args.sets]
    for turn in zip_longest(*by_set):
        yield from (case for case in turn if case is not None)


def _cases_of(args: argparse.Namespace, name: str) -> Iterator[tuple[str, str, str]]:
    """Cases of a set, in a random but fixed order, those with nothing taken out first."""
    obs = read_labeled(args.data, name).obs
    counts = pd.crosstab(obs[BATCH], obs[LABELS])
    for batch in counts.index:
        elsewhere = counts.drop(index=batch).sum()
        if ((counts.loc[batch] >= MIN_CELLS) & (elsewhere == 0)).any():
            yield name, batch, ""
    pairs = [
        (batch, celltype)
        for batch in counts.index
        for celltype in counts.columns
        if counts.loc[batch, celltype] >= MIN_CELLS
        and counts[celltype].drop(index=batch).sum() > 0
        and (counts.drop(index=batch).drop(columns=celltype).sum() > 0).sum() > 1
    ]
    for i in np.random.default_rng(0).permutation(len(pairs)):
        yield name, *pairs[i]


def _read(args: argparse.Namespace, name: str, left_out: str, removed: str) -> Case:
    adata = read_labeled(args.data, name, args.most_cells)
    ref, query = leave_out(adata, left_out, removed, batch_key=BATCH, labels_key=LABELS)
    return Case(Cells(ref, describe(name)), query, Path(mkdtemp()) / "scvi")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--out", type=Path, default=Path("runs/unknown"))
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--most-cases", type=int, help="of each set (default: all)")
    parser.add_argument("--most-cells", type=int, help="of each batch (default: all)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
