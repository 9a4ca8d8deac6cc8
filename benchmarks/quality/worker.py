"""One method on one data set with one seed: embeddings, time, peak memory, versions."""

from __future__ import annotations

import json
import logging
import platform
import resource
import sys
import warnings
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
import torch
from scipy import sparse

from benchmarks.quality.methods import Task, run
from benchmarks.quality.sets import describe, read_set
from benchmarks.quality.variants import parse, preparation

PACKAGES = (
    "scalex-scvi",
    "scalex",
    "episcanpy",
    "scvi-tools",
    "torch",
    "harmonypy",
    "scanorama",
    "bbknn",
    "numpy",
    "scanpy",
)


def main() -> None:
    given = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    method, options = parse(given["method"])
    path, place = Path(given["data"]), Path(given["place"])
    counts, prepared = read_set(path, given["batch_key"], **preparation(options))
    task = Task(
        counts,
        prepared,
        describe(path.stem),
        given["batch_key"],
        given["label_key"],
        given["seed"],
        options,
    )
    found = run(method, task)
    if method == "scalex_scvi":  # the name says the options
        found = [(f"{given['method']} ({e.name})", e) for e in found]
    else:
        found = [(e.name, e) for e in found]
    embeddings = {name: e.values for name, e in found if not sparse.issparse(e.values)}
    np.savez(place / "embeddings.npz", **embeddings)
    for name, e in found:
        if name not in embeddings:
            sparse.save_npz(place / f"{name}.graph.npz", e.values)
    facts = {
        "seconds": {name: e.seconds for name, e in found},
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": {d.name: d.version for d in distributions() if d.name in PACKAGES},
    }
    # Written last: it marks the run as complete.
    (place / "run.json").write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
