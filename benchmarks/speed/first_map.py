"""The first map on a machine: ``tl.embed`` beside scanpy's own steps.

Usage: ``python -m benchmarks.speed.first_map [--cells 500]``. Each in a fresh process whose
``NUMBA_CACHE_DIR`` is empty; wall seconds from when the packages are imported to neighbors, UMAP
and clusters of cells at random, and of the same once more.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile

PROGRAM = """
import time
import warnings
import numpy as np
import igraph
import scvi
from anndata import AnnData
import scalex_scvi as sx
from benchmarks.speed.embed import by_scanpy
warnings.simplefilter("ignore")
embed = {how}
for when in ("first", "second"):
    points = np.random.default_rng(0).normal(size=({n_cells}, 10)).astype(np.float32)
    cells = AnnData(obsm={{"latent": points}})
    start = time.perf_counter()
    embed(cells, seed=0)
    print(f"{how}, {{when}}: {{time.perf_counter() - start:.1f}} s", flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=500)
    args = parser.parse_args()
    for how in ("sx.tl.embed", "by_scanpy"):
        with tempfile.TemporaryDirectory() as empty:
            program = PROGRAM.format(how=how, n_cells=args.cells)
            environment = os.environ | {"NUMBA_CACHE_DIR": empty}
            command = [sys.executable, "-W", "ignore", "-c", program]
            subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
