"""Runs of methods, each a process of its own, cached on disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks.processes import in_path, run_worker
from benchmarks.sets import BATCH, LABELS


@dataclass(frozen=True)
class Runs:
    """Which methods run on which sets with which seeds, and where the results are kept."""

    out: Path
    data: Path
    sets: Sequence[str]
    methods: Sequence[str]
    seeds: Sequence[int]
    batch_key: str = BATCH
    labels_key: str = LABELS

    def place(self, name: str, method: str, seed: int) -> Path:
        """Folder of a run."""
        return self.out / name / in_path(method) / str(seed)

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
        task = {
            "data": str(self.data),
            "set": name,
            "batch_key": self.batch_key,
            "labels_key": self.labels_key,
            "method": method,
            "seed": seed,
        }
        place = self.place(name, method, seed)
        return run_worker("benchmarks.quality.worker", place, task, one_thread=one_thread)
