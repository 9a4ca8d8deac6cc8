"""One method on one case with one seed: labels of the query, times, peak memory, versions."""

from __future__ import annotations

import json
import logging
import platform
import resource
import sys
import warnings
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.projection.cases import read_case
from benchmarks.projection.methods import METHODS, parse
from benchmarks.projection.timing import timed

PACKAGES = ("scalex-scvi", "scvi-tools", "torch", "scalex", "harmonypy", "scikit-learn", "numpy")


def work(task: dict[str, Any]) -> None:
    """Run a task and write its results into its place."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    case = read_case(
        Path(task["data"]),
        task["set"],
        task["left_out"],
        task["batch_key"],
        task["label_key"],
        scvi_reference=Path(task["scvi_reference"]),
    )
    truth = case.query.obs[case.label_key].to_numpy(str)
    known = pd.Index(truth).isin(case.labels)
    case.prepared  # noqa: B018  the selection of genes is nobody's time
    name, options = parse(task["method"])
    answers, reference_time = timed(lambda: METHODS[name](case, task["seed"], **options))
    parts, query_time = [], {}
    for variant, answer in answers.items():
        found, query_time[variant] = timed(answer)
        cells = {"truth": truth, "known": known, "label": found.labels, "unknown": found.unknown}
        parts.append(pd.DataFrame({"variant": variant, **cells}))
    place = Path(task["place"])
    pd.concat(parts).to_csv(place / "labels.csv", index=False)
    facts = {
        "reference": {key: reference_time[key] + case.borrowed[key] for key in reference_time},
        "query": query_time,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "reference_cells": case.ref.n_obs,
        "query_cells": case.query.n_obs,
        "genes": len(case.genes),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": {d.name: d.version for d in distributions() if d.name in PACKAGES},
    }
    (place / "run.json").write_text(json.dumps(facts, indent=1))  # last: marks the run complete


if __name__ == "__main__":
    work(json.loads(sys.argv[1]))
