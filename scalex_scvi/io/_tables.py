"""Reading of text tables, and of which of their axes holds the cells."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scalex_scvi._core.feature_types import COLUMN as FEATURE_TYPES
from scalex_scvi._core.feature_types import OWN
from scalex_scvi._core.reading import InputError, naming_file

from ._formats import checked, repeated_names_expected
from ._table_layout import Layout, check_names, find_layout

logger = logging.getLogger(__name__)

CellsIn: TypeAlias = Literal["rows", "columns"]

# Values that are read, and dense, at a time.
_CHUNK_VALUES = 10_000_000

_BARCODE = re.compile(r"(?<![A-Za-z])[ACGTN]{10,}(?![A-Za-z])")
_FEATURE = re.compile(r"^ENS[A-Z]*G\d{6,}|^chr\w+[:_-]\d+[_-]\d+$")
_COMMON_GENE = re.compile(
    r"^(ACTB|B2M|EEF1A1|FTH1|GAPDH|MALAT1|TMSB4X|RP[LS]\d+[AXYL]?|MT-[A-Z]+\d*)$", re.IGNORECASE
)
"""Genes that nearly every cell of every tissue expresses."""

_BD_PROTEIN = "|pAbO"
"""Ending of the names of proteins, which BD Rhapsody counts in the same table as genes."""

_SUMMARY = frozenset(
    "__no_feature __ambiguous __too_low_aQual __not_aligned __alignment_not_unique "
    "N_unmapped N_multimapping N_noFeature N_ambiguous".split()
)
"""Lines that HTSeq and STAR add below the genes."""


@dataclass(frozen=True)
class Table:
    """A named matrix that does not say which axis holds the cells.

    Attributes
    ----------
    path
        The file.
    matrix
        Numbers, rows × columns.
    rows, columns
        Names.
    annotation
        Columns that do not hold counts: rows × these columns.
    cells_in
        Which axis holds the cells, if the header says it.
    """

    path: Path
    matrix: sparse.csr_matrix
    rows: pd.Index
    columns: pd.Index
    annotation: pd.DataFrame
    cells_in: CellsIn | None = None


def read_table(path: Path) -> Table:
    """Read a table of numbers with a header line and a first column of names.

    ``.csv`` is separated by commas or semicolons, ``.tsv`` and ``.txt`` by tabs, or by spaces,
    commas or semicolons where the first two lines have no tab. The header may be one field shorter
    than the rows, as R's ``write.table`` leaves it. Lines at the top that start with ``#`` are
    comments.

    Raises
    ------
    InputError
        If the file is damaged, empty or without names, has no column of numbers, or a value is
        missing or no finite number: the first such field is named.
    """
    with naming_file(path, "a table"):
        layout = find_layout(path)
        _report_annotation(path, layout)
        rows: list[str] = []
        blocks: list[sparse.csr_matrix] = []
        annotation: list[pd.DataFrame] = []
        try:
            for chunk in _chunks(path, layout, np.float32):
                annotation.append(chunk.iloc[:, _positions(layout)])
                values = chunk.drop(columns=_positions(layout)).to_numpy()
                if not np.isfinite(values).all():
                    msg = "missing or infinite values"
                    raise ValueError(msg)
                rows.extend(chunk.index)
                blocks.append(sparse.csr_matrix(values))
        except ValueError as error:
            msg = f"{str(path)!r}: {_first_bad_field(path, layout) or error}"
            raise InputError(msg) from error
        if layout.cells_in != "rows":  # cells may have numbers as names
            check_names(path, rows, "names in its first column")
        columns = pd.Index([name for name in layout.columns if name not in layout.annotation])
        described = pd.concat(annotation).set_axis(layout.annotation, axis=1)
        matrix = sparse.vstack(blocks, format="csr", dtype=np.float32)
    table = Table(
        path, matrix, pd.Index(rows), columns, described, cast("CellsIn", layout.cells_in)
    )
    return _without_summary(table)


def _positions(layout: Layout) -> list[int]:
    """Positions of the columns that do not hold counts."""
    return [i for i, name in enumerate(layout.columns) if name in layout.annotation]


def _report_annotation(path: Path, layout: Layout) -> None:
    if len(layout.annotation) == len(layout.columns):
        msg = (
            f"{str(path)!r} has no column of numbers: all are text or describe genes, "
            f"{layout.columns[:5]!r}."
        )
        raise InputError(msg)
    if layout.annotation:
        logger.warning(
            "%r: the columns %r are text or describe genes: they are annotation, not counts.",
            str(path),
            layout.annotation,
        )


def _without_summary(table: Table) -> Table:
    """Leave out the rows of HTSeq and STAR that count reads of no gene."""
    summary = table.rows.isin(_SUMMARY)
    if not summary.any():
        return table
    logger.warning(
        "%r: the lines %r are no genes and left out.", str(table.path), list(table.rows[summary])
    )
    return Table(
        table.path,
        table.matrix[~summary],
        table.rows[~summary],
        table.columns,
        table.annotation[~summary],
        "columns",
    )


def _chunks(path: Path, layout: Layout, dtype: type) -> Iterator[pd.DataFrame]:
    """Yield blocks of rows, columns numbered from 0; only an absent field is a missing value."""
    text = set(_positions(layout))
    dtypes: dict[int, Any] = {0: str}
    for place in range(len(layout.columns)):
        dtypes[place + 1] = str if place in text else dtype
    with pd.read_csv(
        path,
        sep=layout.separator,
        decimal=layout.decimal if dtype is not str else ".",
        header=None,
        skiprows=layout.n_before,
        index_col=0,
        dtype=dtypes,
        keep_default_na=False,
        skipinitialspace=layout.separator == " ",
        chunksize=max(1, _CHUNK_VALUES // len(layout.columns)),
    ) as reader:
        for chunk in reader:
            chunk.columns = range(chunk.shape[1])
            yield chunk


def _first_bad_field(path: Path, layout: Layout) -> str | None:
    counts = [i for i in range(len(layout.columns)) if i not in _positions(layout)]
    for chunk in _chunks(path, layout, str):
        texts = chunk.iloc[:, counts]
        if layout.decimal == ",":
            texts = texts.apply(lambda column: column.str.replace(",", "."))
        values = texts.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, column = bad[0]
            text = texts.iat[row, column]
            where = f"row {chunk.index[row]!r}, column {layout.columns[counts[column]]!r}"
            if text == "" or not isinstance(text, str):
                return f"{where} has no value. Is the file cut off? Write 0 for no counts."
            return f"{text!r} in {where} is not a number that can be used. Remove or replace it."
    return None


def to_adata(table: Table, cells_in: CellsIn) -> AnnData:
    """Return the table as cells × genes (CSR, float32).

    Raises
    ------
    ValueError
        If ``cells_in`` is unknown, or the table has no cells or no genes.
    """
    if cells_in not in ("rows", "columns"):
        msg = f"`cells_in` {cells_in!r} must be 'rows', 'columns' or None."
        raise ValueError(msg)
    in_rows = cells_in == "rows"
    matrix = table.matrix if in_rows else table.matrix.T.tocsr()
    cells, genes = (table.rows, table.columns) if in_rows else (table.columns, table.rows)
    obs, var = pd.DataFrame(index=cells), pd.DataFrame(index=genes)
    for name in table.annotation:
        (obs if in_rows else var)[name] = table.annotation[name].to_numpy()
    is_protein = np.array([str(name).endswith(_BD_PROTEIN) for name in genes], dtype=bool)
    if is_protein.any():
        var[FEATURE_TYPES] = np.where(is_protein, OWN["ADT"][0], OWN["RNA"][0])
    with naming_file(table.path, "a table"), repeated_names_expected():
        return checked(AnnData(matrix, obs=obs, var=var), table.path)


def orient(tables: Sequence[Table], known_genes: pd.Index) -> list[AnnData]:
    """Return tables as cells × genes, and log by which rule.

    The first rule that applies decides which axis holds the genes or cells:

    1. The axis that shares more names with the genes of the other sources holds genes.
    2. Names that look like barcodes are cells; those that look like Ensembl ids or peaks, or are
       genes that every tissue expresses, are genes. If the header contradicts, a warning is logged.
    3. The header says it (``Geneid``, ``Cell_Index``).
    4. If all tables share names on one axis only, it holds genes.
    5. Else genes are in rows and cells in columns, as in the published package, with a warning.

    Parameters
    ----------
    tables
        Tables of one call.
    known_genes
        Names of the genes of its other sources; may be empty.
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
        cells_in: CellsIn = "rows" if look > 0 else "columns"
        if table.cells_in not in (None, cells_in):
            logger.warning(
                "%r: cells are taken to be in %s, by the look of the names, though the header "
                "says otherwise. If it is right: scalex_scvi.io.read_file(path, cells_in=%r).",
                str(table.path),
                cells_in,
                table.cells_in,
            )
        return cells_in, "names that look like barcodes or genes"
    if table.cells_in is not None:
        return table.cells_in, "what the header says"
    if common is not None:
        return common, "names on the other axis repeat between the tables"
    return "columns", None


def _look(names: pd.Index) -> int:
    """Return 1 if most names look like barcodes, -1 if like genes or peaks, else 0."""
    for pattern, verdict in ((_BARCODE, 1), (_FEATURE, -1)):
        if 2 * sum(bool(pattern.search(str(name))) for name in names) > len(names):
            return verdict
    common = {str(name).upper() for name in names if _COMMON_GENE.match(str(name))}
    return -1 if len(common) >= 3 else 0


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
