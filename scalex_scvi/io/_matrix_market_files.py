"""Finding the files of a MatrixMarket folder by their names."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from scalex_scvi._core.reading import InputError

logger = logging.getLogger(__name__)

_MATRIX = re.compile(r"\.mtx(\.gz)?$", re.IGNORECASE)
_NAMES = re.compile(r"\.(tsv|txt|csv|bed)(\.gz)?$", re.IGNORECASE)
_CELLS_IN_ROWS = re.compile(r"cells_x_(genes|tcc)|(^|[._-])dge", re.IGNORECASE)
"""Names of kb-python and Parse Biosciences, whose square matrices are taken for cells × genes."""

_BARCODES = ("barcode",)
_CELLS = ("cell",)
_FEATURES = ("feature", "gene", "peak")
_SYMBOLS = (".genes.", ".genes.names.")
"""kb-python writes cells_x_genes.genes.txt (ids) and cells_x_genes.genes.names.txt (symbols)."""

# The rest of a file's name, without these, names the sample.
_ROLES = re.compile(
    r"cells_x_(?:genes|tcc)|cell_metadata|all_genes|\.names|barcodes?|features?|genes?|peaks?|cells?"
    r"|matrix|counts?|dge|data"
)


@dataclass(frozen=True)
class MatrixFiles:
    """Paths of a matrix and of the files that name its cells and features.

    Attributes
    ----------
    matrix, cells, features
        The three files.
    symbols
        File with the symbols of the features, if they are not in ``features``.
    """

    matrix: Path
    cells: Path
    features: Path
    symbols: Path | None

    @property
    def cells_in_rows(self) -> bool:
        """Whether the name is one of those whose matrices are cells × genes."""
        of_parse = "cell_metadata" in self.cells.name and "all_genes" in self.features.name
        return of_parse or bool(_CELLS_IN_ROWS.search(self.matrix.name))


def find_files(path: Path, genome: str | None = None) -> MatrixFiles:
    """Find the files that belong to a matrix.

    Parameters
    ----------
    path
        A folder with one matrix, or the file of the matrix.
    genome
        Name of the folder that is meant, if ``path`` holds one for each genome.

    Raises
    ------
    InputError
        If a file is missing, or if there are several of a kind.
    """
    matrix = _find_matrix(path, genome) if path.is_dir() else path
    cells = _find_list(matrix, _BARCODES, or_else=_CELLS)
    features = _find_list(matrix, _FEATURES)
    symbols = features.with_name(features.name.replace(*_SYMBOLS))
    return MatrixFiles(matrix, cells, features, symbols if _are_symbols(symbols) else None)


def _are_symbols(file: Path) -> bool:
    """Whether a file holds the symbols to the ids of another one."""
    ids = file.with_name(file.name.replace(*_SYMBOLS[::-1]))
    return ids != file and file.exists() and ids.exists()


def _find_matrix(folder: Path, genome: str | None) -> Path:
    found = sorted(file for file in folder.iterdir() if _MATRIX.search(file.name))
    if len(found) == 1:
        return found[0]
    if found:
        msg = (
            f"{str(folder)!r} holds several matrices, {_names(found)!r}: give the path of one, or "
            f"{str(folder / '*.mtx*')!r} for all of them."
        )
        raise InputError(msg)
    return _find_matrix(_inner_folder(folder, genome), None)


def _inner_folder(folder: Path, genome: str | None) -> Path:
    """Return the folder inside that holds a matrix: Cell Ranger 2 made one for each genome."""
    inner = sorted(
        sub
        for sub in folder.iterdir()
        if sub.is_dir() and any(_MATRIX.search(file.name) for file in sub.iterdir())
    )
    chosen = [sub for sub in inner if sub.name == genome] or inner
    if len(chosen) == 1 and genome in (None, chosen[0].name):
        logger.info("%r: the matrix is in %r.", str(folder), chosen[0].name)
        return chosen[0]
    if inner:
        msg = (
            f"{str(folder)!r} holds no matrix, but its folders {_names(inner)!r} do: give the path "
            "of one or, of genomes, its name as `genome`."
        )
    else:
        msg = (
            f"{str(folder)!r} is a folder without a MatrixMarket file (.mtx, .mtx.gz). If it "
            f"holds data files of another kind, give one of them, or {str(folder / '*')!r} for all."
        )
    raise InputError(msg)


def _find_list(
    matrix: Path, words: tuple[str, ...], *, or_else: tuple[str, ...] | None = None
) -> Path:
    """Return the file beside the matrix that has one of the words in its name."""
    folder = matrix.parent
    files = sorted(file for file in folder.iterdir() if _NAMES.search(file.name))
    found = [file for file in files if _kind(file) == words]
    if not found and or_else is not None:
        found = [file for file in files if _kind(file) == or_else]
    prefix = re.sub(r"(matrix|counts?|data)$", "", _MATRIX.sub("", matrix.name), flags=re.I)
    same_sample = [file for file in found if _sample(file) == _sample(matrix)]
    same_prefix = [file for file in found if file.name.startswith(prefix)]
    # Barcodes of another sample must not be taken; genes are often one file for all samples.
    alone = sum(bool(_MATRIX.search(file.name)) for file in folder.iterdir()) == 1
    fallback = found if alone or words == _FEATURES else []
    candidates = same_sample or same_prefix or fallback
    if len(candidates) == 1:
        return candidates[0]
    what = "', '".join(words)
    if candidates:
        msg = (
            f"{str(matrix)!r} has several files with '{what}' in their names beside it: "
            f"{_names(candidates)!r}. Leave one."
        )
    else:
        msg = (
            f"{str(matrix)!r} lacks a file beside it with '{what}' in its name (.tsv, .txt, "
            f".csv, .bed or these .gz) and prefix {prefix!r}; there are {_names(files)!r}."
        )
    raise InputError(msg)


def _kind(file: Path) -> tuple[str, ...] | None:
    if _are_symbols(file):
        return None
    # What kallisto calls all its files, cells_x_genes, says nothing of one of them.
    name = file.name.lower().replace("cells_x_genes", "")
    # Barcodes first, for "gene_barcodes"; cells last, for "single_cell_genes".
    for words in (_BARCODES, _FEATURES, _CELLS):
        if any(word in name for word in words):
            return words
    return None


def _sample(file: Path) -> str:
    """Return the sample's part of a file's name: ``gsm1`` of ``GSM1_barcodes.tsv.gz``."""
    stem = _NAMES.sub("", _MATRIX.sub("", file.name)).lower()
    return re.sub(r"[._\-\s]+", "_", _ROLES.sub("_", stem)).strip("_")


def _names(files: list[Path]) -> list[str]:
    return [file.name for file in files]
