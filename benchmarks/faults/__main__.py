"""Break runs on purpose, through the command line and public functions alone.

Usage: ``python -m benchmarks.faults kills|races|disk|hostile|fuzz [--times N] [--seconds S]``.

Each kind prints one line of JSON: how often it was tried, and how often a folder was ``lost`` (not
read any more), a ``mixture`` (cells and model of different runs), code of a file ``executed``, or
an exception of a library passed on without words of ours (``raw``).
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

import scalex_scvi as sx
from scalex_scvi.io import RunFolder, read

# In the child: dies right before or after its N-th rename.
_DYING = """
import os, sys
place, before = int(sys.argv[1]), sys.argv[2] == "before"
count, rename = 0, os.replace
def replace(a, b, **k):
    global count
    count += 1
    if count == place and before:
        os._exit(9)
    rename(a, b, **k)
    if count == place:
        os._exit(9)
os.replace = replace
os.rename = replace
from scalex_scvi.cli import main
sys.exit(main(sys.argv[3:]))
"""


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


def command(data: Path, out: Path, seed: int) -> list[str]:
    text = (
        f"integrate {data} -o {out} --seed {seed} --min-features 0 --min-cells 0 "
        "--max-steps 2 --ignore-umap -q"
    )
    return text.split()


def start(arguments: list[str], dying: tuple[int, str] | None = None) -> subprocess.Popen:
    head = ["-m", "scalex_scvi.cli"] if dying is None else ["-c", _DYING, *map(str, dying)]
    return subprocess.Popen(
        [sys.executable, *head, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


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
    began = time.monotonic()
    start(command(data, out, 0)).wait()
    length = time.monotonic() - began
    found: Counter = Counter()
    rng = np.random.default_rng(0)
    places: list[tuple[int, str]] = [(i, when) for i in range(1, 9) for when in ("before", "after")]
    for i in range(times):
        if time.monotonic() > deadline:
            break
        if places:
            finished = start(command(data, out, i + 1), places.pop(0)).wait() == 0
            kind = "at a rename"
            if finished:  # there are no more of them
                places.clear()
        else:
            process = start(command(data, out, i + 1))
            time.sleep(rng.uniform(0, length))
            process.kill()
            process.wait()
            kind = "at random"
        found.update(["tried", kind, judge(out)])
    return found


def races(folder: Path, times: int, deadline: float) -> Counter:
    """Two runs into one folder at the same time."""
    data, out = folder / "a.h5ad", folder / "run"
    counts().write_h5ad(data)
    found: Counter = Counter()
    for i in range(times):
        if time.monotonic() > deadline:
            break
        for process in [start(command(data, out, 2 * i + j)) for j in range(2)]:
            process.wait()
        found.update(["tried", judge(out)])
    return found


def disk(folder: Path, times: int, deadline: float) -> Counter:
    """Files that may not grow beyond a size: what a full disk looks like from inside."""
    data, out = folder / "a.h5ad", folder / "run"
    counts().write_h5ad(data)
    start(command(data, out, 0)).wait()
    found: Counter = Counter()
    for i in range(times):
        if time.monotonic() > deadline:
            break
        most = int(np.random.default_rng(i).integers(100, 120_000))

        def limit(most: int = most) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

        done = subprocess.run(
            [sys.executable, "-m", "scalex_scvi.cli", *command(data, out, i + 1)],
            preexec_fn=limit,
            capture_output=True,
        )
        found.update(["tried", "finished" if done.returncode == 0 else "failed", judge(out)])
    return found


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


def outcome(read_it: Callable[[], object]) -> str:
    """Tell what reading does: it is ``read``, ``refused`` with a message of ours, or ``raw``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read_it()
    except (ValueError, FileNotFoundError, KeyError, MemoryError, TypeError) as error:
        return "refused" if "'" in str(error) or "`" in str(error) else f"raw {error!r:.80}"
    except Exception as error:
        return f"raw {error!r:.80}"
    return "read"


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
    """Flip bytes of good files, or cut them, and read them."""
    adata = counts(20, 8)
    files = [folder / "a.h5ad", folder / "a.csv", folder / "a.mtx"]
    adata.write_h5ad(files[0])
    adata.to_df().T.to_csv(files[1])
    (folder / "a_barcodes.tsv").write_text("".join(f"{name}\n" for name in adata.obs_names))
    (folder / "a_genes.tsv").write_text("".join(f"{name}\n" for name in adata.var_names))
    from scipy.io import mmwrite

    mmwrite(files[2], adata.X.T)
    whole = {path: path.read_bytes() for path in files}
    rng = np.random.default_rng(0)
    found: Counter = Counter()
    for i in range(times):
        if time.monotonic() > deadline:
            break
        path = files[i % len(files)]
        content = bytearray(whole[path])
        for place in rng.integers(len(content), size=rng.integers(1, 8)):
            content[place] = rng.integers(256)
        path.write_bytes(content[: rng.integers(len(content))] if i % 5 == 0 else content)
        found.update(["tried", outcome(lambda path=path: read(path))])
    return found


KINDS = {"kills": kills, "races": races, "disk": disk, "hostile": hostile, "fuzz": fuzz}


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
