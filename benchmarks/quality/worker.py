"""One method on one data set with one seed: embeddings, time, peak memory, versions."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from scipy import sparse

from benchmarks.cells import Cells
from benchmarks.options import parse
from benchmarks.peers import INTEGRATING
from benchmarks.processes import finish, given_task
from benchmarks.sets import describe, read_set


def main() -> None:
    given = given_task()
    name, preparation, options = parse(given["method"])
    place, columns = Path(given["place"]), (given["batch_key"], given["labels_key"])
    counts = read_set(Path(given["data"]), given["set"], *columns)
    cells = Cells(counts, describe(given["set"]), *columns, preparation)
    cells.prepared  # noqa: B018  is nobody's time
    embeddings, seconds = {}, {}
    start = time.perf_counter()
    for found, values in INTEGRATING[name](cells, given["seed"], **options):
        if name == "scalex_scvi":  # the name says the options
            found = f"{given['method']} ({found})"
        seconds[found] = time.perf_counter() - start
        embeddings[found] = values.astype(np.float32)
    for found in [key for key, values in embeddings.items() if sparse.issparse(values)]:
        sparse.save_npz(place / f"{found}.graph.npz", embeddings.pop(found))
    np.savez(place / "embeddings.npz", **embeddings)
    finish(place, {"seconds": seconds})


if __name__ == "__main__":
    main()
