"""Readers of binary formats, and checks that all readers share."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from scalex_scvi._core.reading import InputError, naming_file

logger = logging.getLogger(__name__)

# Attributes that hold the names in files of loompy, anndata, velocyto and SCope.
_LOOM_CELL_NAMES = ("CellID", "obs_names", "cell_names", "barcode", "barcodes")
_LOOM_GENE_NAMES = ("Gene", "var_names", "gene_names", "gene_name", "Accession")


@contextmanager
def repeated_names_expected() -> Iterator[None]:
    """Silence anndata's warning where repeated names are reported and made unique here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*names are not unique")
        yield


def checked(adata: AnnData, path: str | os.PathLike[str]) -> AnnData:
    """Return ``adata``.

    Raises
    ------
    InputError
        If it has no cells or no genes.
    ValueError
        If its sparse matrix is not consistent.
    """
    if adata.n_obs == 0 or adata.n_vars == 0:
        msg = (
            f"{str(path)!r} is empty: {adata.n_obs} cells × {adata.n_vars} genes. "
            "Leave it out or write it again."
        )
        raise InputError(msg)
    if not adata.isbacked and sparse.issparse(adata.X):
        adata.X.check_format(full_check=True)
    return adata


def make_genes_unique(adata: AnnData, path: str | os.PathLike[str]) -> AnnData:
    """Add -1, -2 … to gene names that repeat (in place: for an object that was just read).

    Several genes of an annotation may share a symbol, so nearly every file with symbols has some.
    """
    n_repeated = int(adata.var_names.duplicated().sum())
    if n_repeated:
        adata.var_names_make_unique()
        logger.warning(
            "%r: %d gene names repeat an earlier one; '-1', '-2' … was added to them.",
            str(path),
            n_repeated,
        )
    return adata


def read_h5ad(path: str | os.PathLike[str], *, backed: bool = False) -> AnnData:
    """Read an ``.h5ad`` file.

    Parameters
    ----------
    path
        The file.
    backed
        Whether to leave the matrix on disk, open for reading.

    Returns
    -------
    Cells × genes, as they are in the file.

    Raises
    ------
    ValueError
        If the file cannot be read as ``.h5ad``, or has no cells or no genes.
    """
    path = Path(path).expanduser()
    with naming_file(path, ".h5ad"):
        return checked(ad.read_h5ad(path, backed="r" if backed else None), path)


def read_h5mu(path: Path, modality: str | None) -> AnnData:
    """Read one modality of an ``.h5mu`` file.

    Raises
    ------
    InputError
        If the modality is absent or not named, or the file cannot be read.
    """
    import mudata

    with naming_file(path, ".h5mu"):
        with h5py.File(path, "r") as file:
            modalities = list(file["mod"])
        if modality not in modalities:
            given = "names no modality" if modality is None else f"has no modality {modality!r}"
            paths = ", ".join(repr(f"{path}/{name}") for name in modalities)
            msg = f"{str(path)!r} {given}. It holds {modalities!r}: give {paths}."
            raise InputError(msg)
        return checked(mudata.read_h5ad(path, modality), f"{path}/{modality}")


def read_10x_h5(path: Path, genome: str | None = None) -> AnnData:
    """Read an ``.h5`` file of Cell Ranger (v2, or v3 and later) with all types of features.

    Names of genes are as in the file: they may repeat or be empty. A file of version 2 has one
    matrix for each genome: if there are several, ``genome`` must be given.

    Returns
    -------
    Cells × features, ``X`` CSR float32.

    Raises
    ------
    InputError
        If the file is no 10x file or cannot be read, or if a genome must be chosen.
    """
    with naming_file(path, "10x .h5"), repeated_names_expected():
        with h5py.File(path, "r") as file:
            groups = {key: set(item) for key, item in file.items() if isinstance(item, h5py.Group)}
        if {"obs", "var"} <= set(groups):
            suffix = ".h5mu" if "mod" in groups else ".h5ad"
            msg = f"{str(path)!r} holds no 10x matrix but {suffix}: give it that ending."
            raise InputError(msg)
        matrices = [name for name, members in groups.items() if "barcodes" in members]
        if not matrices:
            msg = (
                f"{str(path)!r} is not a 10x .h5 file: no group with 'barcodes' among "
                f"{sorted(groups)!r}. Give Cell Ranger's filtered_feature_bc_matrix.h5."
            )
            raise InputError(msg)
        legacy = _legacy_genome(path, matrices, genome) if "matrix" not in groups else None
        adata = checked(sc.read_10x_h5(path, genome=legacy, gex_only=False), path)
        adata.X = sparse.csr_matrix(adata.X, dtype=np.float32)
        if legacy is not None:
            adata.var["genome"] = legacy
    return adata


def _legacy_genome(path: Path, matrices: list[str], genome: str | None) -> str:
    if genome is None and len(matrices) == 1:
        return matrices[0]
    if genome in matrices:
        return str(genome)
    given = "must be chosen" if genome is None else f"{genome!r} is not among them"
    msg = f"{str(path)!r} holds the genomes {matrices!r}: `genome` {given}. Give one of them."
    raise InputError(msg)


def read_loom(path: Path) -> AnnData:
    """Read the main matrix of a ``.loom`` file; its other layers become ``layers``.

    Raises
    ------
    ImportError
        Without loompy.
    InputError
        If the file cannot be read, or names of cells or genes are missing.
    """
    try:
        import loompy  # noqa: F401  (anndata's reader needs it)
    except ImportError as error:
        msg = f"{str(path)!r}: .loom needs loompy. Install it: pip install 'scalex-scvi[io]'."
        raise ImportError(msg) from error
    with naming_file(path, ".loom"), repeated_names_expected():
        with h5py.File(path, "r") as file:
            cells = _loom_names(path, list(file["col_attrs"]), _LOOM_CELL_NAMES, "cell")
            genes = _loom_names(path, list(file["row_attrs"]), _LOOM_GENE_NAMES, "gene")
        # X_name: anndata's default prefers a layer "spliced" to the main matrix.
        adata = ad.io.read_loom(path, X_name="", obs_names=cells, var_names=genes)
        adata.obs_names.name = adata.var_names.name = None
        return checked(adata, path)


def _loom_names(path: Path, present: list[str], usual: Sequence[str], what: str) -> str:
    for name in usual:
        if name in present:
            return name
    msg = (
        f"{str(path)!r} has no {what} names: none of the attributes {list(usual)!r} is among "
        f"{present!r}."
    )
    raise InputError(msg)


def read_zarr(path: Path) -> AnnData:
    """Read an AnnData from a zarr store (a folder).

    Raises
    ------
    InputError
        If the store cannot be read, lacks chunks, or has no cells or no genes.
    """
    import zarr

    with naming_file(path, "zarr"):
        check_chunks(zarr.open_group(path, mode="r"), str(path))
        return checked(ad.io.read_zarr(path), path)


def check_chunks(store: Any, name: str, matrix: str = "X") -> None:
    """Raise if chunks of a store are missing: zarr reads them as zeros, or as empty names.

    Chunks of zeros alone need not be stored. So those of arrays are counted in which no chunk is
    all zeros or empty: the stored values of a sparse matrix, their columns, and the names. Where
    its rows begin (columns, of CSC) may be zero for the first ones: it is looked at instead.
    Missing chunks of a dense matrix cannot be told from zeros.

    Raises
    ------
    InputError
        If chunks are missing.
    """
    arrays = [f"{axis}/{store[axis].attrs['_index']}" for axis in ("obs", "var")]
    if f"{matrix}/data" in store:
        arrays.append(f"{matrix}/data")
        if min(store[matrix].attrs["shape"]) > 1:
            arrays.append(f"{matrix}/indices")
    for part in arrays:
        # anndata 0.13 writes names of pandas 3 as a group of values and mask.
        array = store[f"{part}/values"] if f"{part}/values" in store else store[part]
        if array.nchunks_initialized < array.nchunks:
            msg = (
                f"{name!r} is incomplete: {array.nchunks - array.nchunks_initialized} of "
                f"{array.nchunks} chunks of {part!r} are missing. Copy or write it again."
            )
            raise InputError(msg)
    if f"{matrix}/indptr" in store:
        _check_begins(store[matrix], f"{matrix}/indptr", name)


def _check_begins(matrix: Any, part: str, name: str) -> None:
    """Raise if rows of a CSR matrix (columns, of CSC) do not begin where the one before ends."""
    begins = matrix["indptr"][:]
    is_csr = matrix.attrs["encoding-type"] == "csr_matrix"
    n_values = np.diff(begins.astype(np.int64))
    most = matrix.attrs["shape"][1 if is_csr else 0]
    if begins[-1] != matrix["data"].shape[0] or (n_values < 0).any() or (n_values > most).any():
        msg = (
            f"{name!r} is incomplete or damaged: {part!r} does not fit the values. Copy or write "
            "it again."
        )
        raise InputError(msg)
