"""One method on one case with one seed: labels of the query, times, peak memory, versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.cells import Case, Cells, leave_out
from benchmarks.options import parse
from benchmarks.peers import PROJECTING
from benchmarks.processes import finish, given_task, timed
from benchmarks.sets import describe, read_set


def read_case(task: dict[str, Any], preparation: dict[str, Any]) -> Case:
    """Leave a batch out. Cells without a label are in neither: no method may learn from them."""
    columns = {key: task[key] for key in ("batch_key", "labels_key")}
    about = describe(task["set"])
    adata = read_set(Path(task["data"]), task["set"], **columns)
    adata = adata[~adata.obs[columns["labels_key"]].isin(about.unlabeled)]
    ref, query = leave_out(adata, task["left_out"], task["removed"], **columns)
    cells = Cells(ref, about, **columns, preparation=preparation)
    return Case(cells, query, Path(task["scvi_reference"]))


def work(task: dict[str, Any]) -> None:
    """Run a task and write its results into its place."""
    name, preparation, options = parse(task["method"])
    case = read_case(task, preparation)
    truth = case.query.obs[task["labels_key"]].to_numpy(str)
    known = pd.Index(truth).isin(case.ref.labels)
    case.ref.prepared  # noqa: B018  the selection of genes is nobody's time
    answers, reference_time = timed(lambda: PROJECTING[name](case, task["seed"], **options))
    parts, query_time = [], {}
    for variant, answer in answers.items():
        found, query_time[variant] = timed(answer)
        cells = {"truth": truth, "known": known, "label": found.labels}
        cells |= {"unknown": found.unknown, "p": found.p}
        parts.append(pd.DataFrame({"variant": variant, **cells}))
    place = Path(task["place"])
    pd.concat(parts).to_csv(place / "labels.csv", index=False)
    measured = {
        "reference": {key: reference_time[key] + case.borrowed[key] for key in reference_time},
        "query": query_time,
        "reference_cells": case.ref.counts.n_obs,
        "query_cells": case.query.n_obs,
        "genes": len(case.ref.genes),
    }
    finish(place, measured)


if __name__ == "__main__":
    work(given_task())
