"""Good files with flipped bytes, or cut short, and what reading them does."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch
from anndata import AnnData
from scipy import sparse
from scipy.io import mmwrite

import scalex_scvi as sx
from scalex_scvi.io import open_store, read, write_store

from ._reading import outcome_elsewhere


class Target(NamedTuple):
    """A file, or a folder of files, that is damaged, and what reads it."""

    path: Path
    read: Callable[[Path], object]

    def files(self) -> list[Path]:
        """Return all files of it, in one order."""
        if self.path.is_file():
            return [self.path]
        return sorted(path for path in self.path.rglob("*") if path.is_file())


def fuzz(folder: Path, counts: AnnData, times: int, deadline: float) -> Counter:
    """Damage each kind of file in turn; return what reading did, by kind."""
    targets = make_targets(folder, counts)
    for target in targets:
        target.read(target.path)  # the good file is read
    seed = int(time.time())  # each run tries others; it is printed, so that one can be run again
    rng = np.random.default_rng(seed)
    found: Counter = Counter(seed=seed)
    for i in range(times):
        if time.monotonic() > deadline:
            break
        target = targets[i % len(targets)]
        files = target.files()
        path = files[rng.integers(len(files))]
        whole = path.read_bytes()
        if len(files) > 1 and rng.integers(10) == 0:
            path.unlink()
        else:
            path.write_bytes(damaged(whole, rng))
        result = outcome_elsewhere(target.read, target.path)
        path.write_bytes(whole)
        found.update(["tried", result, f"{target.path.name}: {result}"])
    return found


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip one to seven bytes, and cut every fifth time."""
    changed = bytearray(content)
    if changed:
        for place in rng.integers(len(changed), size=rng.integers(1, 8)):
            changed[place] = rng.integers(256)
        if rng.integers(5) == 0:
            del changed[rng.integers(len(changed)) :]
    return bytes(changed)


def make_targets(folder: Path, counts: AnnData) -> list[Target]:
    """Write one good file of each kind that readers and loaders take."""
    counts.write_h5ad(folder / "a.h5ad")
    counts.write_zarr(folder / "a.zarr")
    counts.to_df().T.to_csv(folder / "a.csv")
    write_10x(folder / "tenx.h5", counts)
    write_mtx(folder / "mtx", counts)
    write_store(counts, folder / "store.zarr")
    model = new_model(counts)
    model.train(**TRAINING, checkpoint=folder / "training.ckpt")
    for name in ("model", "whole"):
        model.save(folder / name, save_anndata=True)
    sx.references.save(model, folder / "reference", license="mit")
    readers = {
        "a.h5ad": read,
        "a.zarr": read,
        "a.csv": read,
        "tenx.h5": read,
        "mtx": read,
        "store.zarr": read_all_of_store,
        "model": load_model,
        "training.ckpt": go_on,
        "reference": sx.references.load,
    }
    return [Target(folder / name, reader) for name, reader in readers.items()]


TRAINING = {"max_steps": 2, "batch_size": 16, "enable_progress_bar": False}


def new_model(counts: AnnData) -> sx.SCALEXModel:
    """Return an untrained model of the cells, small."""
    sx.SCALEXModel.setup_anndata(counts, batch_key="batch")
    return sx.SCALEXModel(counts, n_hidden=8, n_latent=2)


def read_all_of_store(path: Path) -> None:
    """Open a store and fit a transform to all of its cells: opening does not read them."""
    sx.SCALEXModel.setup_anndata(open_store(path), batch_key="batch")


def load_model(folder: Path) -> None:
    """Load a model with its cells; other weights than those of the copy must not be taken."""
    check_weights(sx.SCALEXModel.load(folder), folder)


def go_on(path: Path) -> None:
    """Continue a training with the cells of the copy; it must not come to other weights."""
    model = new_model(read(path.parent / "whole" / "adata.h5ad"))
    model.train(**TRAINING, checkpoint=path)
    check_weights(model, path)


def check_weights(model: sx.SCALEXModel, damaged: Path) -> None:
    """Raise what nobody expects if the weights are not those of the copy beside."""
    whole = sx.SCALEXModel.load(damaged.parent / "whole", adata=False).module.state_dict()
    found = model.module.state_dict()
    if any(not torch.equal(found[name], value) for name, value in whole.items()):
        raise RuntimeError("other weights are taken without a word")


def write_10x(path: Path, counts: AnnData) -> None:
    """Write counts as Cell Ranger 3 does."""
    matrix = sparse.csr_matrix(counts.X)
    names = counts.var_names.to_numpy().astype("S")
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["data"] = matrix.data.astype(np.int32)
        group["indices"], group["indptr"] = matrix.indices, matrix.indptr
        group["shape"] = np.array(matrix.shape[::-1])
        group["barcodes"] = counts.obs_names.to_numpy().astype("S")
        features = group.create_group("features")
        features["id"] = features["name"] = names
        features["feature_type"] = np.full(len(names), b"Gene Expression")
        features["genome"] = np.full(len(names), b"GRCh38")


def write_mtx(folder: Path, counts: AnnData) -> None:
    """Write counts in matrix market format, with barcodes and genes beside."""
    folder.mkdir()
    mmwrite(folder / "matrix.mtx", sparse.csr_matrix(counts.X).T)
    for name, index in (("barcodes", counts.obs_names), ("genes", counts.var_names)):
        (folder / f"{name}.tsv").write_text("".join(f"{value}\n" for value in index))
