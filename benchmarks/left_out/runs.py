"""Which batch is left out of which set, and the runs of methods on these cases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import anndata as ad

from benchmarks.processes import in_path, run_worker
from benchmarks.sets import describe


def cases(
    data: Path, name: str, batch_key: str, labels_key: str, *, unknown: bool
) -> Iterator[tuple[str, str, str]]:
    """Set, batch left out, and cell type taken out of the reference (none: empty).

    Each batch; with ``unknown`` those that the set names for it, and its types.
    """
    obs = ad.read_h5ad(data / f"{name}.h5ad", backed="r").obs
    about = describe(name)
    batches = sorted(obs[batch_key].astype(str).unique())
    yield from ((name, batch, "") for batch in (about.left_out if unknown else batches))
    if unknown:
        types = sorted(obs[labels_key].astype(str).unique())
        yield from ((name, batch, removed) for batch in about.types_left_out for removed in types)


@dataclass(frozen=True)
class Run:
    """A method on a case with a seed, and where its results are."""

    out: Path
    set: str
    left_out: str
    removed: str
    method: str
    seed: int

    @property
    def place(self) -> Path:
        """Folder of the run."""
        removed = f"__without_{in_path(self.removed)}" if self.removed else ""
        case = f"{self.left_out}{removed}"
        return self.out / self.set / case / in_path(self.method) / str(self.seed)

    @property
    def scvi_reference(self) -> Path:
        """Folder of the reference that scVI and scANVI share."""
        return replace(self, method="scvi").place / "reference"

    @property
    def facts(self) -> Path:
        """Times, memory and versions: written last, so that it marks a complete run."""
        return self.place / "run.json"

    def is_done(self) -> bool:
        """Whether the run is complete."""
        return self.facts.exists()

    def compute(self, data: Path, batch_key: str, labels_key: str) -> bool:
        """Run in a process of its own; tell whether it succeeded."""
        task = {
            "data": str(data),
            "set": self.set,
            "left_out": self.left_out,
            "removed": self.removed,
            "batch_key": batch_key,
            "labels_key": labels_key,
            "method": self.method,
            "seed": self.seed,
            "scvi_reference": str(self.scvi_reference),
        }
        return run_worker("benchmarks.left_out.worker", self.place, task)
