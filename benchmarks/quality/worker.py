"""One method on one data set with one seed: embeddings, time, peak memory, versions."""

from __future__ import annotations

import json
import logging
import platform
import resource
import sys
import time
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import anndata as ad
import numpy as np
import torch
from methods import METHODS

import scalex_scvi as sx

PACKAGES = ("scalex-scvi", "scvi-tools", "torch", "scalex", "harmonypy", "scanorama", "numpy")


def main() -> None:
    task = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    counts = ad.read_h5ad(task["data"])
    # One gene selection for all but the published package, which makes its own.
    prepared = sx.pp.rna(counts, batch_key=task["batch_key"], min_features=0)
    start = time.perf_counter()
    found = METHODS[task["method"]](
        counts, prepared, task["batch_key"], task["label_key"], task["seed"]
    )
    seconds = time.perf_counter() - start
    place = Path(task["place"])
    np.savez(place / "embeddings.npz", **{k: np.asarray(v, np.float32) for k, v in found.items()})
    facts = {
        "seconds": seconds,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": {name: found_version(name) for name in PACKAGES},
    }
    (place / "run.json").write_text(json.dumps(facts, indent=1))  # last: marks the run complete


def found_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
