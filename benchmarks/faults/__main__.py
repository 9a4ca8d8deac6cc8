"""Break runs on purpose, through the command line and public functions alone.

Usage: ``python -m benchmarks.faults KIND [KIND ...] [--times N] [--seconds S]`` with the kinds
``kills``, ``training`` (kills of trainings that are continued), ``races``, ``disk`` (a small file
system, where one may be mounted), ``sizes`` (files that cannot grow), ``hostile`` and ``fuzz``.

Each kind prints one line of JSON: how often it was tried, and how often a folder was ``lost`` (not
read any more), a ``mixture`` (cells and model of different runs) or ``other`` (a training that went
on to other weights than an uninterrupted one), code of a file ``executed``, an exception of a
library passed on without words of ours (``raw``), or a library ``crashed`` or ``hung`` (fuzz).
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

import scalex_scvi as sx
from scalex_scvi.io import RunFolder, read

from ._child import start
from ._fuzz import fuzz as fuzzed
from ._reading import outcome

MEGABYTES = 4
"""Size of the small file system: a dozen times that of a run."""


def counts(n_cells: int = 60, n_genes: int = 30) -> AnnData:
    rng = np.random.default_rng(0)
    rate = rng.lognormal(1, 1, n_genes)
    return AnnData(
        sparse.csr_matrix(rng.poisson(rate, (n_cells, n_genes)), dtype=np.float32),
        obs=pd.DataFrame(
            {"batch": np.arange(n_cells) % 2}, index=[f"c{i}" for i in range(n_cells)]
        ),
        var=pd.DataFrame(index=[f"g{i}" for i in range(n_genes)]),
    )


def command(data: Path, out: Path, seed: int, steps: int = 2, more: str = "") -> list[str]:
    text = (
        f"integrate {data} -o {out} --seed {seed} --min-features 0 --min-cells 0 "
        f"--max-steps {steps} --batch-size 16 --ignore-umap -q {more}"
    )
    return text.split()


def ended(process: object) -> bool:
    """Whether a process comes to its end, and well."""
    process.join()
    return process.exitcode == 0


def killed(process: object, after: float) -> None:
    """Kill a process (SIGKILL) after some seconds."""
    time.sleep(after)
    process.kill()
    process.join()


def length_of(arguments: list[str]) -> float:
    """Seconds that a run takes, the second time."""
    ended(start(arguments))
    began = time.monotonic()
    if not ended(start(arguments)):
        raise RuntimeError(f"The run fails without being broken: {arguments}")
    return time.monotonic() - began


def judge(out: Path) -> str:
    """Whether a run folder is whole: ``kept``, ``lost`` or ``mixture``."""
    try:
        folder = RunFolder(out)
        adata = folder.read_adata()
        model = sx.SCALEXModel.load(folder.checkpoint, adata=False)
    except Exception as error:
        print(f"lost: {error!r}", file=sys.stderr)
        return "lost"
    if adata is None:
        return "lost"
    data = adata.copy()
    same = np.allclose(model.get_latent_representation(data), adata.obsm["latent"], atol=1e-4)
    return "kept" if same else "mixture"


def kills(folder: Path, times: int, deadline: float) -> Counter:
    """Kill runs into a folder that holds a run: at every rename, then at random moments."""
    data, out = folder / "a.h5ad", folder / "run"
    counts().write_h5ad(data)
    length = length_of(command(data, out, 0))
    found: Counter = Counter()
    rng = np.random.default_rng(0)
    at_every = product(range(1, 100), ("before", "after"))
    last = False
    for i in range(times):
        if time.monotonic() > deadline:
            break
        if not last:
            last = ended(start(command(data, out, i + 1), dying=next(at_every)))  # no more renames
            kind = "at a rename"
        else:
            killed(start(command(data, out, i + 1)), rng.uniform(0, length))
            kind = "at random"
        found.update(["tried", kind, judge(out)])
    return found


def training(folder: Path, times: int, deadline: float) -> Counter:
    """Kill a training again and again; the run that comes to its end is an uninterrupted one's."""
    data = folder / "a.h5ad"
    counts(200).write_h5ad(data)
    whole = folder / "whole"
    length = length_of(command(data, whole, 0, steps=80))
    found: Counter = Counter()
    rng = np.random.default_rng(0)
    n_run = 0
    while found["tried"] < times and time.monotonic() < deadline:
        out = folder / f"run{n_run}"
        n_run += 1
        arguments = command(data, out, 0, steps=80, more="--resume")
        for _ in range(rng.integers(1, 5)):
            killed(start(arguments, steps=7), rng.uniform(0.1, 1) * length)
            found.update(["tried"])
            if (out / "training.ckpt").exists():
                found.update(["in the training, or after it"])
        if not ended(start(arguments, steps=7)):
            found.update(["failed"])
        found.update(["continued to the end", same_run(out, whole)])
    return found


def same_run(out: Path, whole: Path) -> str:
    """Whether two run folders hold the same weights and latent, bit for bit."""
    found = judge(out)
    if found != "kept":
        return found
    states = [
        sx.SCALEXModel.load(RunFolder(path).checkpoint, adata=False).module.state_dict()
        for path in (out, whole)
    ]
    latents = [RunFolder(path).read_adata().obsm["latent"] for path in (out, whole)]
    same = all(torch.equal(states[0][name], value) for name, value in states[1].items())
    return "same" if same and np.array_equal(*latents) else "other"


def races(folder: Path, times: int, deadline: float) -> Counter:
    """Two runs into one folder at the same time."""
    data, out = folder / "a.h5ad", folder / "run"
    counts().write_h5ad(data)
    length = length_of(command(data, out, 0))
    rng = np.random.default_rng(0)
    found: Counter = Counter()
    for i in range(times):
        if time.monotonic() > deadline:
            break
        first = start(command(data, out, 2 * i))
        time.sleep(rng.uniform(0, length))
        second = start(command(data, out, 2 * i + 1))
        finished = sum(ended(process) for process in (first, second))
        found.update(["tried", f"{finished} finished", judge(out)])
    return found


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Yield a folder on a file system of some megabytes, where this user may mount one."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs"]
    subprocess.run(["mount", *options, str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def disk(folder: Path, times: int, deadline: float) -> Counter:
    """Run into a folder on a file system that has hardly any room left, or a little more."""
    data = folder / "a.h5ad"
    counts().write_h5ad(data)
    found: Counter = Counter()
    rng = np.random.default_rng(0)
    with small_disk(folder / "disk") as place:
        out, ballast = place / "run", place / "ballast"
        length_of(command(data, out, 0))
        for i in range(times):
            if time.monotonic() > deadline:
                break
            free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
            ballast.write_bytes(b"x" * max(0, free - int(rng.integers(2_000_000))))
            finished = ended(start(command(data, out, i + 1), steps=1))
            ballast.unlink()
            found.update(["tried", "finished" if finished else "failed", judge(out)])
    return found


def sizes(folder: Path, times: int, deadline: float) -> Counter:
    """Files that may not grow beyond a size (RLIMIT_FSIZE)."""
    data, out = folder / "a.h5ad", folder / "run"
    counts().write_h5ad(data)
    length_of(command(data, out, 0))
    found: Counter = Counter()
    for i in range(times):
        if time.monotonic() > deadline:
            break
        most = int(np.random.default_rng(i).integers(100, 600_000))
        finished = ended(start(command(data, out, i + 1), most_bytes=most, steps=1))
        found.update(["tried", "finished" if finished else "failed", judge(out)])
    return found


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


def continued(checkpoint: Path) -> None:
    """Go on with a training."""
    adata = sx.pp.rna(counts(), batch_key="batch", min_features=0, min_cells=0)
    sx.SCALEXModel.setup_anndata(adata, batch_key="batch")
    model = sx.SCALEXModel(adata, n_hidden=8, n_latent=2)
    model.train(max_epochs=1, checkpoint=checkpoint, enable_progress_bar=False)


def hostile(folder: Path, times: int, deadline: float) -> Counter:
    """Files that are made to harm."""
    mark = folder / "executed"
    checkpoint = folder / "model"
    checkpoint.mkdir()
    found: Counter = Counter()

    def load() -> object:
        return sx.SCALEXModel.load(checkpoint, adata=False)

    for content in (pickle.dumps(Bomb(mark)), b"", b"\0" * 1000):
        (checkpoint / "model.pt").write_bytes(content)
        found.update(["tried", outcome(load)])
    torch.save({"scalex_scvi_format": 1, "attr_dict": Bomb(mark)}, checkpoint / "model.pt")
    found.update(["tried", outcome(load)])
    with zipfile.ZipFile(checkpoint / "model.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../escaped", b"x")
        archive.writestr("archive/data.pkl", b"\0" * 50_000_000)
    found.update(["tried", outcome(load)])
    path = folder / "training.ckpt"
    for write in (
        lambda: path.write_bytes(pickle.dumps(Bomb(mark))),
        lambda: torch.save({"scalex_scvi_training": 1, "state": Bomb(mark)}, path),
        lambda: path.write_bytes((checkpoint / "model.pt").read_bytes()),
    ):
        write()
        found.update(["tried", outcome(lambda: continued(path))])
    path = folder / "a.h5ad"
    for key, shape in (("X", (10**12, 2)), ("obs/_index", (10**12,))):
        counts().write_h5ad(path)
        with h5py.File(path, "r+") as file:
            attributes = dict(file[key].attrs)
            del file[key]
            file.create_dataset(key, shape=shape, dtype="f4", chunks=True).attrs.update(attributes)
        found.update(["tried", outcome(lambda: read(path))])
    counts().write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["uns/pickle"] = np.void(pickle.dumps(Bomb(mark)))
        del file["obs/batch"]
        file["obs/batch"] = h5py.ExternalLink("/etc/passwd", "/")
    found.update(["tried", outcome(lambda: read(path))])
    table = folder / "a.csv"
    for cell in ("nan", "inf", "1e999", "=1+1", "0x10"):
        table.write_text(f"gene,c1,c2\ng1,1,2\ng2,3,{cell}\n")
        found.update(["tried", outcome(lambda: read(table))])
    mtx = folder / "m"
    mtx.mkdir()
    (mtx / "barcodes.tsv").write_text("a\nb\n")
    (mtx / "genes.tsv").write_text("x\ny\n")
    for line in ("1000000000000 2 1", "2 2 1000000000000", "2 2 -1", "-2 2 1"):
        (mtx / "matrix.mtx").write_text(
            f"%%MatrixMarket matrix coordinate real general\n{line}\n1 1 1\n"
        )
        found.update(["tried", outcome(lambda: read(mtx))])
    found["executed"] += mark.exists() + (folder.parent / "escaped").exists()
    return found


def fuzz(folder: Path, times: int, deadline: float) -> Counter:
    """Flip bytes of good files and folders of all kinds, or cut them, and read them."""
    return fuzzed(folder, counts(20, 8), times, deadline)


KINDS = {
    "kills": kills,
    "training": training,
    "races": races,
    "disk": disk,
    "sizes": sizes,
    "hostile": hostile,
    "fuzz": fuzz,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kinds", nargs="+", choices=list(KINDS))
    parser.add_argument("--times", type=int, default=200, help="at most so many tries of each")
    parser.add_argument("--seconds", type=float, default=3600, help="at most so long, each")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for kind in args.kinds:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "inside"
            place.mkdir()
            found = KINDS[kind](place, args.times, time.monotonic() + args.seconds)
        print(json.dumps({"kind": kind, **found}), flush=True)


if __name__ == "__main__":
    main()
