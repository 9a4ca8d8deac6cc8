"""MatrixMarket folders: a matrix, its cells and its genes, features or peaks."""

from __future__ import annotations

import gzip
import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scipy.io import mminfo, mmread

from scalex_scvi._core.reading import InputError, naming_file

from ._features import Choice, choose_features, name_by_id
from ._formats import checked, make_genes_unique, repeated_names_expected
from ._matrix_market_files import MatrixFiles, find_files

# First lines of lists that kb-python, Parse, R and pandas write.
_IDS = ("gene_id", "gene_ids", "geneid", "ensembl_id", "feature_id", "id")
_SYMBOLS = ("gene_name", "gene_names", "gene_symbol", "gene_symbols", "symbol", "name")
_HEADERS = {
    *_IDS,
    *_SYMBOLS,
    *("barcode", "barcodes", "cell", "cells", "cell_id", "cell_barcode", "bc_wells", "x", "v1"),
    *("gene", "genes", "feature", "features", "peak", "peaks", "feature_type", "chr", "chrom"),
}


def read_mtx(
    path: str | os.PathLike[str], *, profile: str | None = None, genome: str | None = None
) -> AnnData:
    """Read a MatrixMarket folder: matrix, barcodes, and genes, features or peaks.

    Parameters
    ----------
    path
        The folder, or its ``.mtx`` file when the folder holds several; each file may be gzipped.
        The file of cells has ``barcode`` (or ``cell``) in its name, the other one ``gene``,
        ``feature`` or ``peak`` (``.tsv``, ``.txt``, ``.csv``, ``.bed``). Names may have a prefix
        or a suffix in common (``GSM123_matrix.mtx.gz``, ``GSM123_barcodes.tsv.gz``). The file of
        genes has one column (names), two (ids, symbols: Cell Ranger 2) or more (ids, symbols,
        feature types: Cell Ranger 3), that of peaks three (chromosome, start, end). If a file has
        one line more than the matrix has cells or features, and the line names columns, it is a
        header. The files of kb-python (``cells_x_genes.mtx``) and Parse Biosciences (``DGE.mtx``,
        ``all_genes.csv``, ``cell_metadata.csv``) are read as they are.
    profile
        ``"RNA"``, ``"ATAC"`` or ``"ADT"``: features of this type alone; by default all.
    genome
        Genome whose genes are taken where there are several (``"all"``: of each). Of the folders
        that Cell Ranger 2 made, one for each genome, the folder of this name.

    Returns
    -------
    Cells × genes, ``X`` CSR float32. The file may hold genes × cells or cells × genes, which
    follows from the numbers of barcodes and features. If these are equal it is taken for genes ×
    cells, as 10x writes it, unless its name is one that kb-python or Parse uses for cells × genes.
    Genes are named by their symbols, those without one by their ids, made unique; peaks are named
    ``chr:start-end``. Ids are in ``var["gene_ids"]``, types in ``var["feature_types"]``, and
    further named columns of cells in ``obs``.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    ValueError
        If a file is missing or there are several of a kind, if the number of names differs from
        that of rows or columns, if a file is damaged or empty, or if a genome must be chosen.
    """
    path = Path(path).expanduser()
    if not path.exists():
        msg = f"There is no file {str(path)!r}."
        raise FileNotFoundError(msg)
    adata = read_mtx_as_it_is(path, genome)
    with repeated_names_expected():
        adata = choose_features(adata, Choice(profile, genome), path, must_choose=True)
    return make_genes_unique(adata, path)


def read_mtx_as_it_is(path: Path, genome: str | None = None) -> AnnData:
    """Read all features; their names may repeat.

    Parameters
    ----------
    path
        Folder or matrix: see :func:`read_mtx`.
    genome
        Which of several folders within the folder is meant.
    """
    files = find_files(path, genome)
    cells, features = _read_list(files.cells), _read_list(files.features)
    with naming_file(files.matrix, "MatrixMarket"), repeated_names_expected():
        shape = mminfo(files.matrix)[:2]
        cells, features, in_rows = _fit(shape, cells, features, files)
        matrix = _read_matrix(files.matrix)
        if not in_rows:
            matrix = matrix.T
        var = _var(features, _read_symbols(files, len(features.rows)))
        adata = AnnData(sparse.csr_matrix(matrix, dtype=np.float32), obs=_obs(cells), var=var)
        return checked(adata, path)


def _read_matrix(path: Path) -> Any:
    opened: Any = gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")
    with opened, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of which kind the matrix is
        return mmread(_Text(opened))


_TEXT = bytes(range(32, 127)) + b"\t\n\r"
_AS_TEXT = bytes(i if i in _TEXT else ord("?") for i in range(256))


class _Text(io.RawIOBase):
    """Text of a file for SciPy's reader, which crashes on other bytes and on a last line cut short.

    Comments may hold any bytes, which are passed on as ``?``; elsewhere they raise a ValueError.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._last_line = b"\n"

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        found = self._file.read(size)
        if not found:
            found, self._last_line = self._last_line, b""
        comment = found.rfind(b"\n%")
        body = found[found.find(b"\n", comment + 1) :] if comment >= 0 else found
        if body.translate(None, _TEXT):
            raise ValueError("it holds bytes that are no text")
        return found.translate(_AS_TEXT)


@dataclass(frozen=True)
class _List:
    """Lines of a file, all read as text (a gene may be called NA), and its header if it has one."""

    rows: pd.DataFrame
    header: list[str] | None = None

    def of_length(self, n: int) -> _List | None:
        """Return the list as one of ``n`` names, its first line as the header if it is one."""
        if len(self.rows) == n:
            return self
        first = [str(field).strip().lower() for field in self.rows.iloc[0]]
        if len(self.rows) == n + 1 and any(field in _HEADERS for field in first):
            return _List(self.rows.iloc[1:].reset_index(drop=True), first)
        return None

    def without_numbers(self) -> _List:
        """Leave out a first column that only counts the lines, as R and pandas write it."""
        numbers = [str(i) for i in range(len(self.rows) + 1)]
        first = self.rows[0].tolist()
        if self.rows.shape[1] == 1 or first not in (numbers[:-1], numbers[1:]):
            return self
        rows = self.rows.iloc[:, 1:]
        rows.columns = range(rows.shape[1])
        return _List(rows, None if self.header is None else self.header[1:])

    def column(self, names: tuple[str, ...]) -> pd.Series | None:
        """Return the first column with one of these names."""
        for name in names:
            if self.header is not None and name in self.header:
                return self.rows[self.header.index(name)]
        return None


def _read_list(path: Path) -> _List:
    name = path.name.lower()
    with naming_file(path, "a list of names"):
        rows = pd.read_csv(
            path,
            sep="," if name.removesuffix(".gz").endswith(".csv") else "\t",
            header=None,
            dtype=str,
            keep_default_na=False,
            comment="#" if ".bed" in name else None,
        )
    return _List(rows)


def _read_symbols(files: MatrixFiles, n_features: int) -> pd.Index | None:
    """Symbols that kb-python writes beside the ids."""
    if files.symbols is None:
        return None
    with naming_file(files.symbols, "a list of names"):
        # Genes without a symbol are empty lines.
        opened = pd.read_csv(
            files.symbols,
            sep="\t",
            header=None,
            dtype=str,
            keep_default_na=False,
            skip_blank_lines=False,
        )
    if len(opened) != n_features:
        msg = f"{str(files.symbols)!r} has {len(opened)} names, but there are {n_features} genes."
        raise InputError(msg)
    return pd.Index(opened[0].to_numpy())


def _fit(
    shape: tuple[int, int], cells: _List, features: _List, files: MatrixFiles
) -> tuple[_List, _List, bool]:
    """Return the lists without headers, and whether cells are the rows of the matrix."""
    found = {}
    for in_rows in (False, True):
        n_features, n_cells = reversed(shape) if in_rows else shape
        fitting = cells.of_length(n_cells), features.of_length(n_features)
        if fitting[0] is not None and fitting[1] is not None:
            found[in_rows] = fitting[0].without_numbers(), fitting[1].without_numbers()
    if found:
        in_rows = files.cells_in_rows if len(found) == 2 else next(iter(found))
        return *found[in_rows], in_rows
    msg = (
        f"{str(files.matrix)!r} is {shape[0]} × {shape[1]}, but there are {len(features.rows)} "
        f"features and {len(cells.rows)} barcodes beside it. Are the files of one sample, "
        "complete, and without header lines?"
    )
    raise InputError(msg)


def _obs(cells: _List) -> pd.DataFrame:
    obs = pd.DataFrame(index=pd.Index(cells.rows[0].to_numpy()))
    for position, name in enumerate(cells.header or []):
        if position and name:
            column = cells.rows[position].to_numpy()
            numbers = pd.to_numeric(pd.Series(column), errors="coerce")
            obs[name] = column if numbers.isna().any() else numbers.to_numpy()
    return obs


def _var(features: _List, symbols: pd.Index | None) -> pd.DataFrame:
    columns = features.rows
    if features.header is not None:
        return _var_of_header(features)
    if columns.shape[1] >= 3 and _all_digits(columns[1]) and _all_digits(columns[2]):
        return pd.DataFrame(index=pd.Index(columns[0] + ":" + columns[1] + "-" + columns[2]))
    if columns.shape[1] > 1:
        symbols = pd.Index(columns[1].to_numpy())
    ids = pd.Index(columns[0].to_numpy())
    if symbols is None:
        return pd.DataFrame(index=ids)
    var = pd.DataFrame({"gene_ids": ids.to_numpy()}, index=name_by_id(symbols, ids))
    if columns.shape[1] >= 3:
        var["feature_types"] = columns[2].to_numpy()
    return var


def _var_of_header(features: _List) -> pd.DataFrame:
    ids, symbols = features.column(_IDS), features.column(_SYMBOLS)
    types = features.column(("feature_type", "feature_types"))
    genome = features.column(("genome",))
    if ids is None or symbols is None:
        return _var(_List(features.rows), None)
    names = name_by_id(pd.Index(symbols.to_numpy()), pd.Index(ids.to_numpy()))
    var = pd.DataFrame({"gene_ids": ids.to_numpy()}, index=names)
    if types is not None:
        var["feature_types"] = types.to_numpy()
    if genome is not None:
        var["genome"] = genome.to_numpy()
    return var


def _all_digits(column: pd.Series) -> bool:
    return bool(column.str.isdigit().all())
