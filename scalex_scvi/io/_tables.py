"""Text tables: which separator, which header, which way round."""

from __future__ import annotations

import csv
import gzip
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from ._formats import InputError, checked, make_genes_unique, naming_file, repeated_names_expected

logger = logging.getLogger(__name__)

CellsIn: TypeAlias = Literal["rows", "columns"]

# Values read at once: a table is never dense as a whole.
_CHUNK_VALUES = 10_000_000

_BARCODE = re.compile(r"(?<![A-Za-z])[ACGTN]{10,}(?![A-Za-z])")
_FEATURE = re.compile(r"^ENS[A-Z]*G\d{6,}|^chr\w+[:_-]\d+[_-]\d+$")


@dataclass(frozen=True)
class Table:
    """A named matrix that does not say which axis holds the cells."""

    path: Path
    matrix: sparse.csr_matrix
    rows: pd.Index
    columns: pd.Index


@dataclass(frozen=True)
class _Layout:
    separator: str
    columns: list[str]


def read_table(path: Path) -> Table:
    """Read a table of numbers with a header line and a first column of names.

    ``.csv`` is separated by commas, ``.tsv`` and ``.txt`` by tabs (by spaces if the first line has
    no tab). The header may be one field shorter than the rows, as R's ``write.table`` leaves it.
    """
    with naming_file(path, "a table"):
        layout = _layout(path)
        rows: list[str] = []
        blocks: list[sparse.csr_matrix] = []
        try:
            for chunk in _chunks(path, layout, np.float32):
                values = chunk.to_numpy()
                if not np.isfinite(values).all():
                    msg = "missing or infinite values"
                    raise ValueError(msg)
                rows.extend(chunk.index)
                blocks.append(sparse.csr_matrix(values))
        except ValueError as error:
            msg = f"{str(path)!r}: {_first_bad_field(path, layout) or error}"
            raise InputError(msg) from error
        _check_names(path, rows, "names in its first column")
        matrix = sparse.vstack(blocks, format="csr", dtype=np.float32)
    return Table(path, matrix, pd.Index(rows), pd.Index(layout.columns))


def _layout(path: Path) -> _Layout:
    """Find the separator and the names in the header."""
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8-sig") as file:
        first, second = file.readline().rstrip("\r\n"), file.readline().rstrip("\r\n")
    if not first.strip() or not second.strip():
        msg = (
            f"{str(path)!r} is empty: it needs a header line with names, and below it lines with "
            "a name and numbers."
        )
        raise InputError(msg)
    name = path.name.lower().removesuffix(".gz")
    separator = "," if name.endswith(".csv") else "\t" if "\t" in first + second else " "
    header, row = _fields(first, separator), _fields(second, separator)
    if len(row) < 2:
        found = {",": "comma", "\t": "tab", " ": "tab or space"}[separator]
        msg = (
            f"{str(path)!r} has one column only: no {found} in its lines. Expected are commas in "
            ".csv, tabs or spaces in .tsv and .txt."
        )
        raise InputError(msg)
    if len(header) == len(row):
        header = header[1:]
    elif len(header) != len(row) - 1:
        msg = (
            f"{str(path)!r} has {len(header)} fields in its header but {len(row)} in the next "
            "line. Is the header, or the file, incomplete?"
        )
        raise InputError(msg)
    _check_names(path, header, "header")
    return _Layout(separator, header)


def _fields(line: str, separator: str) -> list[str]:
    if separator == " ":
        return next(csv.reader([line.strip()], delimiter=" ", skipinitialspace=True))
    return next(csv.reader([line], delimiter=separator))


def _check_names(path: Path, names: Sequence[str], what: str) -> None:
    numbers = pd.to_numeric(pd.Series(names, dtype=object), errors="coerce").notna()
    if numbers.all():
        msg = (
            f"{str(path)!r} has no {what}: there are only numbers, {list(names[:3])!r} …. The "
            "first line and the first column must name cells and genes; if these numbers are "
            "names, put a letter before them."
        )
        raise InputError(msg)


def _chunks(path: Path, layout: _Layout, dtype: type) -> Iterator[pd.DataFrame]:
    """Yield blocks of rows; nothing counts as missing but an absent field."""
    dtypes = {0: str} | dict.fromkeys(range(1, len(layout.columns) + 1), dtype)
    with pd.read_csv(
        path,
        sep=layout.separator,
        header=None,
        skiprows=1,
        index_col=0,
        dtype=dtypes,
        keep_default_na=False,
        skipinitialspace=layout.separator == " ",
        chunksize=max(1, _CHUNK_VALUES // len(layout.columns)),
    ) as reader:
        yield from reader


def _first_bad_field(path: Path, layout: _Layout) -> str | None:
    for chunk in _chunks(path, layout, str):
        values = chunk.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, column = bad[0]
            text = chunk.iat[row, column]
            where = f"row {chunk.index[row]!r}, column {layout.columns[column]!r}"
            if text == "" or not isinstance(text, str):
                return f"{where} has no value. Is the file cut off? Write 0 for no counts."
            return f"{text!r} in {where} is not a number that can be used. Remove or replace it."
    return None


def to_adata(table: Table, cells_in: CellsIn) -> AnnData:
    """Return the table as cells × genes (CSR, float32)."""
    if cells_in not in ("rows", "columns"):
        msg = f"`cells_in` {cells_in!r} must be 'rows', 'columns' or None."
        raise ValueError(msg)
    in_rows = cells_in == "rows"
    matrix = table.matrix if in_rows else table.matrix.T.tocsr()
    cells, genes = (table.rows, table.columns) if in_rows else (table.columns, table.rows)
    with naming_file(table.path, "a table"), repeated_names_expected():
        adata = AnnData(matrix, obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=genes))
        return make_genes_unique(checked(adata, table.path), table.path)


def orient(tables: Sequence[Table], known_genes: pd.Index) -> list[AnnData]:
    """Turn tables the right way round, and log why.

    The first rule that tells decides: the axis that shares more names with the genes of the other
    sources; names that look like barcodes, Ensembl ids or peaks; the axis that two tables share,
    if they share only one; else genes are in rows and cells in columns, as in the published
    package, with a warning.
    """
    common = _shared_axis(tables)
    adatas = []
    for table in tables:
        cells_in, reason = _cells_in(table, known_genes, common)
        if reason:
            logger.info("%r: cells are in %s, for %s.", str(table.path), cells_in, reason)
        else:
            logger.warning(
                "%r: nothing tells which axis holds the cells. Taken: genes in rows (%s …), cells "
                "in columns (%s …). If it is the other way round: "
                "scalex_scvi.io.read_file(path, cells_in='rows').",
                str(table.path),
                ", ".join(table.rows[:2]),
                ", ".join(table.columns[:2]),
            )
        adatas.append(to_adata(table, cells_in))
    return adatas


def _cells_in(
    table: Table, known_genes: pd.Index, common: CellsIn | None
) -> tuple[CellsIn, str | None]:
    in_rows = int(table.rows.isin(known_genes).sum())
    in_columns = int(table.columns.isin(known_genes).sum())
    if in_rows != in_columns:
        n_shared = max(in_rows, in_columns)
        reason = f"{n_shared} names on the other axis are genes of the other sources"
        return ("columns" if in_rows > in_columns else "rows"), reason
    look = _look(table.rows) - _look(table.columns)
    if look:
        return ("rows" if look > 0 else "columns"), "names that look like barcodes or gene ids"
    if common is not None:
        return common, "names on the other axis repeat between the tables"
    return "columns", None


def _look(names: pd.Index) -> int:
    """Return 1 if most names look like barcodes, -1 if like Ensembl ids or peaks, else 0."""
    for pattern, verdict in ((_BARCODE, 1), (_FEATURE, -1)):
        if 2 * sum(bool(pattern.search(name)) for name in names) > len(names):
            return verdict
    return 0


def _shared_axis(tables: Sequence[Table]) -> CellsIn | None:
    """Return where the cells are if all tables share names on one axis only: that of the genes."""
    if len(tables) < 2:
        return None
    rows, columns = tables[0].rows, tables[0].columns
    for table in tables[1:]:
        rows, columns = rows.intersection(table.rows), columns.intersection(table.columns)
    if len(rows) and not len(columns):
        return "columns"
    if len(columns) and not len(rows):
        return "rows"
    return None
