"""Runs as processes of their own, whose time and memory are measured and results are kept."""

from __future__ import annotations

import json
import logging
import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "scalex-scvi",
    "scalex",
    "episcanpy",
    "scvi-tools",
    "torch",
    "harmonypy",
    "scanorama",
    "bbknn",
    "scikit-learn",
    "numpy",
    "scanpy",
)
_IN_PATHS = str.maketrans(":=,/", "____")


def in_path(text: str) -> str:
    """Give a method with options, or a cell type, a name that a folder can have."""
    return text.translate(_IN_PATHS)


def run_worker(module: str, place: Path, task: dict[str, Any], *, one_thread: bool = False) -> bool:
    """Run ``python -m module TASK`` from the repository's root; tell whether it succeeded.

    What it prints goes to ``log.txt`` in ``place``, which the task names, too.
    """
    place.mkdir(parents=True, exist_ok=True)
    task = task | {"place": str(place)}
    # numba would set OpenMP's threads back to all cores, and torch's with them.
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    threads = dict.fromkeys(names, "1") if one_thread else {}
    command = [sys.executable, "-m", module, json.dumps(task)]
    with (place / "log.txt").open("w") as log:
        done = subprocess.run(
            command, stdout=log, stderr=log, env=os.environ | threads, check=False
        )
    return done.returncode == 0


def given_task() -> dict[str, Any]:
    """Read the task of this process, and keep warnings out of its log."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    return json.loads(sys.argv[1])


def timed(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Return the result, wall time, and CPU time, which tells more on a busy machine."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
    }


def finish(place: Path, measured: dict[str, Any]) -> None:
    """Write what was measured, memory and versions: the last file, it marks a complete run."""
    facts = measured | {
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": {d.name: d.version for d in distributions() if d.name in PACKAGES},
    }
    (place / "run.json").write_text(json.dumps(facts, indent=1))
