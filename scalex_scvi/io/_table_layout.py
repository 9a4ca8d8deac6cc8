"""The layout of a text table: comments, separator, header, and which columns are numbers."""

from __future__ import annotations

import csv
import gzip
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scalex_scvi._core.reading import InputError

# Lines that are looked at to tell text from numbers.
_SAMPLE = 50
_MOST_COMMENTS = 1000
_ENDING = {".csv": ",;\t", ".tsv": "\t,; ", ".txt": "\t,; "}
"""Separators by the ending of a name; the first is meant if several divide the lines alike."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|na|inf|-inf|", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(e[+-]?\d+)?", re.IGNORECASE)

GENE_COLUMNS = frozenset(
    "chr chrom chromosome seqname seqnames start end stop strand length gene_length width geneid "
    "gene_id gene_name gene_names genename gene_symbol gene_symbols symbol gene_short_name "
    "gene_biotype gene_type biotype description gene_description entrezid entrez_id ensembl_id "
    "transcript_id".split()
)
"""Columns that describe genes: what featureCounts, RSEM, nf-core and GEO write beside counts."""

_GENES_BELOW = GENE_COLUMNS | frozenset("gene genes feature features peak peaks".split())
_CELLS_BELOW = frozenset("cell cells cell_index cell_id cellid cell_name barcode barcodes".split())


@dataclass(frozen=True)
class Layout:
    """How the lines of a table are read.

    Attributes
    ----------
    separator, decimal
        Character between fields, and decimal mark of numbers.
    n_before
        Number of lines before the data: comments and the header.
    corner
        Field of the header above the names of the rows, in lower case; often empty.
    columns
        Names in the header, without the corner.
    annotation
        Those of ``columns`` that do not hold counts.
    """

    separator: str
    decimal: str
    n_before: int
    corner: str
    columns: list[str]
    annotation: list[str]

    @property
    def cells_in(self) -> str | None:
        """Where the cells are, if the header says it."""
        if self.corner in _CELLS_BELOW:
            return "rows"
        of_genes = any(name.strip().lower() in GENE_COLUMNS for name in self.annotation)
        return "columns" if self.corner in _GENES_BELOW or of_genes else None


def find_layout(path: Path) -> Layout:
    """Find the layout of a table by its first lines.

    Raises
    ------
    InputError
        If there is no header, no line below it, or one column only, or if the header has neither as
        many fields as the next line nor one fewer.
    """
    comments, lines = _first_lines(path)
    if len(lines) < 2 or not lines[0].strip() or not lines[1].strip():
        msg = (
            f"{str(path)!r} is empty: it needs a header line with names, and below it lines with "
            "a name and numbers."
        )
        raise InputError(msg)
    separator = _separator(path, lines)
    header, row = (fields(line, separator) for line in lines[:2])
    n_before = len(comments) + 1
    commented = fields(comments[-1].lstrip("#"), separator) if comments else []
    if _is_header(commented, header, row):
        header, n_before, lines = commented, len(comments), ["", *lines]
    if len(row) < 2:
        msg = (
            f"{str(path)!r} has one column only: no comma, semicolon, tab or space in its lines. "
            "Expected are commas or semicolons in .csv, tabs or spaces in .tsv and .txt."
        )
        raise InputError(msg)
    corner, columns = _names(path, header, row)
    sample = [fields(line, separator)[1:] for line in lines[1:] if line.strip()]
    values = [field.strip() for line in sample for field in line]
    comma = separator == ";" and any(_DECIMAL_COMMA.fullmatch(value) for value in values)
    annotation = _annotation(columns, sample)
    return Layout(separator, "," if comma else ".", n_before, corner, columns, annotation)


def fields(line: str, separator: str) -> list[str]:
    """Return the fields of a line."""
    if separator == " ":
        return next(csv.reader([line.strip()], delimiter=" ", skipinitialspace=True), [])
    return next(csv.reader([line], delimiter=separator), [])


def _first_lines(path: Path) -> tuple[list[str], list[str]]:
    """Return the comments at the top, and the lines below them that the layout is found by."""
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8-sig", newline="\n") as file:
        comments: list[str] = []
        first = file.readline()
        while first.startswith("#") and len(comments) < _MOST_COMMENTS:
            comments.append(first.rstrip("\r\n"))
            first = file.readline()
        lines = [first, *itertools.islice(file, _SAMPLE)]
    lines = [line.rstrip("\r\n") for line in lines]
    if comments and not lines[0].strip():
        return comments[:-1], [comments[-1], *lines[1:]]
    return comments, lines


def _separator(path: Path, lines: Sequence[str]) -> str:
    """Return the separator that gives the most fields, and as many in the header as below it.

    The header may have one field fewer.
    """
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    best, most = None, 0
    for separator in _ENDING[suffix]:
        n_header, n_row = (len(fields(line, separator)) for line in lines[:2])
        if n_row >= 2 and n_row - 1 <= n_header <= n_row and n_header > most:
            best, most = separator, n_header
        if separator == "\t" and "\t" in lines[0] + lines[1]:
            break  # spaces are then within names
    if best is not None:
        return best
    present = [separator for separator in _ENDING[suffix] if separator in lines[1]]
    return present[0] if present else _ENDING[suffix][0]


def _is_header(commented: list[str], header: list[str], row: list[str]) -> bool:
    """Whether the last comment is the header, since the line below it holds numbers."""
    if len(header) < 2 or len(header) != len(row) or len(row) - len(commented) not in (0, 1):
        return False
    return all(_NUMBER.fullmatch(field.strip()) for field in header[1:])


def _names(path: Path, header: list[str], row: list[str]) -> tuple[str, list[str]]:
    """Return the corner and the names of the columns."""
    corner = ""
    if len(header) == len(row):
        corner, header = header[0].strip().lower().replace(" ", "_"), header[1:]
    elif len(header) != len(row) - 1:
        msg = (
            f"{str(path)!r} has {len(header)} fields in its header but {len(row)} in the next "
            "line. Is the header, or the file, incomplete?"
        )
        raise InputError(msg)
    if corner not in _GENES_BELOW:  # else cells may have numbers as names
        check_names(path, header, "header")
    return corner, header


def check_names(path: Path, names: Sequence[str], what: str) -> None:
    """Raise an InputError if all names are numbers, which are taken for data."""
    if all(_NUMBER.fullmatch(name.strip()) for name in names):
        msg = (
            f"{str(path)!r} has no {what}: there are only numbers, {list(names[:3])!r} …. The "
            "first line and the first column must name cells and genes; if these numbers are "
            "names, put a letter before them."
        )
        raise InputError(msg)


def _annotation(columns: list[str], sample: list[list[str]]) -> list[str]:
    """Return the columns that do not hold counts: by their names, or because they hold text."""
    found = []
    for position, name in enumerate(columns):
        values = [line[position].strip() for line in sample if position < len(line)]
        is_text = bool(values) and not any(
            _NUMBER.fullmatch(value) or _DECIMAL_COMMA.fullmatch(value) for value in values
        )
        if is_text or name.strip().lower() in GENE_COLUMNS:
            found.append(name)
    return found
