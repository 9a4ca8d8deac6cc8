"""Mistakes at the command line, on real cells: exit code and first line of stderr of each.

Usage: ``python -m benchmarks.faults.examples --data FOLDER``, the folder of the data sets. 800
cells of kang_pbmc_published_labels. Ends with 1 if one of them is not met as expected, or a source
is changed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import anndata as ad
import numpy as np

SHORT = "--min-features 0 --max-steps 60 --ignore-umap -q"

# What is typed, the exit code, and what the first line of stderr says.
EXAMPLES = (
    (f"integrate adata.h5ad -o . {SHORT}", 2, r"would replace 'adata\.h5ad', which is read"),
    (f"integrate k.h5ad --batch-name number -o numbers {SHORT}", 0, r"batches are obs\['number'\]"),
    (f"integrate k.h5ad -o ref {SHORT}", 0, r"^$"),
    ("project one.h5ad --reference ref --label celltype -o one --ignore-umap -q", 0, ""),
    ("project mouse.h5ad --reference ref -o mouse -q", 2, r"only \d+ of the \d+ genes.*'Noc2l'"),
    ("project few.h5ad --reference ref -o few -q", 2, r"only \d+ of the \d+ genes.*'NOC2L'"),
    ("project cut.h5ad --reference ref -o cut -q", 2, r"'cut\.h5ad' cannot be read as \.h5ad"),
    (f"integrate k.h5ad -o lr --lr -1 {SHORT}", 2, r"--lr must be a finite number, positive"),
    (f"integrate k.h5ad -o size --batch-size 1 {SHORT}", 2, r"--batch-size must be"),
    ("integrate k.h5ad -o processed --processed -q", 2, r"declared to be normalized, but"),
    (f"integrate k.h5ad -o '' {SHORT}", 2, r"name of the run folder is empty"),
    ("impute ref -o ref/adata.h5ad -q", 2, r"belongs to the results of the run"),
    (f"integrate nosuch.h5ad -o none {SHORT}", 2, r"There is no file 'nosuch\.h5ad'"),
    (f"integrate k.h5ad -o cut.h5ad {SHORT}", 2, r"'cut\.h5ad' is a file"),
)


def write_cells(data: Path, folder: Path) -> None:
    """Write the files of the examples."""
    cells = ad.read_h5ad(data / "kang_pbmc_published_labels.h5ad")
    cells = cells[np.random.default_rng(0).choice(cells.n_obs, 800, replace=False)].copy()
    cells.obs = cells.obs[["batch", "celltype"]]
    cells.obs["number"] = (cells.obs["batch"] == "stim").astype(int)
    for name in ("k", "adata"):
        cells.write_h5ad(folder / f"{name}.h5ad")
    one, mouse = cells[:1].copy(), cells[:100].copy()
    few = cells[:100, : cells.n_vars // 50].copy()
    mouse.var_names = [name.capitalize() for name in mouse.var_names]
    for name, query in (("one", one), ("mouse", mouse), ("few", few)):
        query.obs["batch"] = name
        query.write_h5ad(folder / f"{name}.h5ad")
    (folder / "cut.h5ad").write_bytes((folder / "k.h5ad").read_bytes()[:50_000])


def sums(folder: Path) -> dict[str, str]:
    """Checksums of the sources."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.h5ad")
    }


def is_met(typed: str, code: int, says: str, folder: Path) -> bool:
    """Run a command; tell what came, and whether that was expected."""
    command = f"{sys.executable} -W ignore -m scalex_scvi {typed}"
    done = subprocess.run(
        command, shell=True, cwd=folder, capture_output=True, text=True, env=os.environ
    )
    first = next(iter(done.stderr.splitlines()), "")
    met = done.returncode == code and re.search(says, first) is not None
    sys.stdout.write(f"{'met' if met else 'NOT MET'}  {done.returncode}  {typed}\n    {first}\n")
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cells(args.data, folder)
        before = sums(folder)
        met = [is_met(*example, folder) for example in EXAMPLES]
        kept = sums(folder) == before
    sys.stdout.write(f"{sum(met)} of {len(met)} met, sources {'kept' if kept else 'CHANGED'}\n")
    return 0 if all(met) and kept else 1


if __name__ == "__main__":
    sys.exit(main())
