"""Runs of methods, each a process of its own, cached on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

_IN_PATHS = str.maketrans(":=,", "___")


@dataclass(frozen=True)
class Runs:
    """Which methods run on which sets with which seeds, and where the results are kept."""

    out: Path
    data: Path
    sets: Sequence[str]
    methods: Sequence[str]
    seeds: Sequence[int]
    batch_key: str = "batch"
    label_key: str = "celltype"

    def place(self, name: str, method: str, seed: int) -> Path:
        """Folder of a run."""
        return self.out / name / method.translate(_IN_PATHS) / str(seed)

    def is_done(self, name: str, method: str, seed: int) -> bool:
        """Whether a run is complete."""
        return (self.place(name, method, seed) / "run.json").exists()

    def forget(self, methods: Iterable[str]) -> None:
        """Let the runs of some methods be done again."""
        for method in methods:
            for name in self.sets:
                for seed in self.seeds:
                    (self.place(name, method, seed) / "run.json").unlink(missing_ok=True)

    def complete(self, jobs: int = 1) -> list[str]:
        """Do what is missing, ``jobs`` runs at a time; return the names of those that failed."""
        tasks = [
            (name, method, seed)
            for seed in self.seeds
            for method in self.methods
            for name in self.sets
            if not self.is_done(name, method, seed)
        ]
        with ThreadPoolExecutor(jobs) as pool:
            done = pool.map(lambda task: self._run(*task, one_thread=jobs > 1), tasks)
            succeeded = list(tqdm(done, total=len(tasks)))
        return [
            "/".join(map(str, task)) for task, ok in zip(tasks, succeeded, strict=True) if not ok
        ]

    def _run(self, name: str, method: str, seed: int, *, one_thread: bool) -> bool:
        place = self.place(name, method, seed)
        place.mkdir(parents=True, exist_ok=True)
        task = {
            "data": str(self.data / f"{name}.h5ad"),
            "batch_key": self.batch_key,
            "label_key": self.label_key,
            "method": method,
            "seed": seed,
            "place": str(place.resolve()),
        }
        worker = [sys.executable, "-m", "benchmarks.quality.worker", json.dumps(task)]
        # numba would set OpenMP's threads back to all cores, and torch's with them.
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
        threads = dict.fromkeys(names, "1") if one_thread else {}
        with (place / "log.txt").open("w") as log:
            done = subprocess.run(
                worker, stdout=log, stderr=log, env=os.environ | threads, check=False
            )
        return done.returncode == 0
