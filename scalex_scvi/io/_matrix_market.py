"""MatrixMarket folders: a matrix, its barcodes and its genes, features or peaks."""

from __future__ import annotations

import os
import re
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from ._formats import (
    InputError,
    checked,
    make_genes_unique,
    naming_file,
    repeated_names_expected,
    report_feature_types,
)

_MATRIX = re.compile(r"\.mtx(\.gz)?$", re.IGNORECASE)
_NAMES = re.compile(r"\.(tsv|txt|csv|bed)(\.gz)?$", re.IGNORECASE)
_BARCODES = ("barcode",)
_FEATURES = ("feature", "gene", "peak")


def read_mtx(path: str | os.PathLike[str]) -> AnnData:
    """Read a MatrixMarket folder: matrix, barcodes, and genes, features or peaks.

    Parameters
    ----------
    path
        The folder, or its ``.mtx`` file when the folder holds several; each file may be gzipped.
        The file of cells has ``barcode`` in its name, the other one ``gene``, ``feature`` or
        ``peak`` (``.tsv``, ``.txt``, ``.csv``, ``.bed``). Names may have a prefix in common
        (``GSM123_matrix.mtx.gz``, ``GSM123_barcodes.tsv.gz``). Genes have one column (names), two
        (ids, symbols: Cell Ranger 2) or more (ids, symbols, feature types: Cell Ranger 3), peaks
        have three (chromosome, start, end).

    Returns
    -------
    Cells × genes, ``X`` CSR float32. The matrix may be either way round: the numbers of barcodes
    and features tell (genes × cells, as 10x writes it, if they are equal). Names are the symbols,
    made unique; peaks are ``chr:start-end``. Ids are in ``var["gene_ids"]``, types in
    ``var["feature_types"]``, where the file has them.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    ValueError
        If a file is missing or there are several of a kind, if the lengths do not fit, if a file
        is damaged or empty.
    """
    path = Path(path)
    if not path.exists():
        msg = f"There is no file {str(path)!r}."
        raise FileNotFoundError(msg)
    matrix_file = _find_matrix(path) if path.is_dir() else path
    barcodes_file = _find_names(matrix_file, _BARCODES)
    features_file = _find_names(matrix_file, _FEATURES)
    barcodes = _read_names(barcodes_file)
    var = _var(_read_names(features_file))
    with naming_file(matrix_file, "MatrixMarket"), repeated_names_expected():
        matrix = ad.io.read_mtx(matrix_file, dtype="float32").X
        matrix = _cells_by_genes(matrix, len(barcodes), len(var), matrix_file)
        adata = AnnData(matrix, obs=pd.DataFrame(index=pd.Index(barcodes[0].to_numpy())), var=var)
        adata = make_genes_unique(checked(adata, path), path)
    report_feature_types(adata, path)
    return adata


def _find_matrix(folder: Path) -> Path:
    found = sorted(file for file in folder.iterdir() if _MATRIX.search(file.name))
    if len(found) == 1:
        return found[0]
    if found:
        msg = (
            f"{str(folder)!r} holds several matrices, {_names(found)!r}: give the path of one, or "
            f"{str(folder / '*.mtx*')!r} for all of them."
        )
    else:
        msg = (
            f"{str(folder)!r} is a folder without a MatrixMarket file (.mtx, .mtx.gz). If it "
            f"holds data files of another kind, give one of them, or {str(folder / '*')!r} for all."
        )
    raise InputError(msg)


def _find_names(matrix_file: Path, words: tuple[str, ...]) -> Path:
    """Return the file beside the matrix that has one of the words in its name."""
    folder = matrix_file.parent
    files = sorted(file for file in folder.iterdir() if _NAMES.search(file.name))
    found = [file for file in files if _kind(file) == words]
    prefix = re.sub(r"(matrix|counts?|data)$", "", _MATRIX.sub("", matrix_file.name), flags=re.I)
    same_prefix = [file for file in found if file.name.startswith(prefix)]
    exact = [file for file in same_prefix if file.name[len(prefix) :].lower().startswith(words)]
    # Barcodes of another sample must not be taken; genes are often one file for all samples.
    alone = sum(bool(_MATRIX.search(file.name)) for file in folder.iterdir()) == 1
    fallback = found if alone or words == _FEATURES else []
    candidates = exact or same_prefix or fallback
    if len(candidates) == 1:
        return candidates[0]
    what = "', '".join(words)
    if candidates:
        msg = (
            f"{str(matrix_file)!r} has several files with '{what}' in their names beside it: "
            f"{_names(candidates)!r}. Leave one."
        )
    else:
        msg = (
            f"{str(matrix_file)!r} lacks a file beside it with '{what}' in its name (.tsv, .txt, "
            f".csv, .bed or these .gz) and prefix {prefix!r}; there are {_names(files)!r}."
        )
    raise InputError(msg)


def _kind(file: Path) -> tuple[str, ...] | None:
    # Barcodes first: kallisto writes cells_x_genes.barcodes.txt.
    for words in (_BARCODES, _FEATURES):
        if any(word in file.name.lower() for word in words):
            return words
    return None


def _names(files: list[Path]) -> list[str]:
    return [file.name for file in files]


def _read_names(path: Path) -> pd.DataFrame:
    """Return the columns of a file without a header, all text (a gene may be called NA)."""
    name = path.name.lower()
    with naming_file(path, "a list of names"):
        return pd.read_csv(
            path,
            sep="," if name.removesuffix(".gz").endswith(".csv") else "\t",
            header=None,
            dtype=str,
            keep_default_na=False,
            comment="#" if ".bed" in name else None,
        )


def _var(columns: pd.DataFrame) -> pd.DataFrame:
    if columns.shape[1] >= 3 and _all_digits(columns[1]) and _all_digits(columns[2]):
        return pd.DataFrame(index=pd.Index(columns[0] + ":" + columns[1] + "-" + columns[2]))
    if columns.shape[1] == 1:
        return pd.DataFrame(index=pd.Index(columns[0].to_numpy()))
    var = pd.DataFrame({"gene_ids": columns[0].to_numpy()}, index=pd.Index(columns[1].to_numpy()))
    if columns.shape[1] >= 3:
        var["feature_types"] = columns[2].to_numpy()
    return var


def _all_digits(column: pd.Series) -> bool:
    return bool(column.str.isdigit().all())


def _cells_by_genes(
    matrix: sparse.csr_matrix, n_barcodes: int, n_features: int, path: Path
) -> sparse.csr_matrix:
    if matrix.shape == (n_features, n_barcodes):
        return sparse.csr_matrix(matrix.T, dtype=np.float32)
    if matrix.shape == (n_barcodes, n_features):
        return matrix
    msg = (
        f"{str(path)!r} is {matrix.shape[0]} × {matrix.shape[1]}, but there are {n_features} "
        f"features and {n_barcodes} barcodes beside it. Are the files of one sample, complete, "
        "and without header lines?"
    )
    raise InputError(msg)
