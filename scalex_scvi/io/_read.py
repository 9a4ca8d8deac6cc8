"""Reading one or several data sets of any format."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData

from scalex_scvi._core.files import is_address, is_zarr_store, whole_file
from scalex_scvi._core.inputs import check_adata, way_out

from ._concat import Join, concatenate
from ._features import EVERYTHING, Choice, choose_features, name_by_id
from ._formats import (
    InputError,
    make_genes_unique,
    read_10x_h5,
    read_h5ad,
    read_h5mu,
    read_loom,
    read_zarr,
    repeated_names_expected,
)
from ._matrix_market import read_mtx_as_it_is
from ._run_folder import paths_of
from ._source import Taking
from ._tables import CellsIn, Table, orient, read_table, to_adata
from ._writable import make_writable

logger = logging.getLogger(__name__)

DataSource: TypeAlias = str | os.PathLike[str] | AnnData

FORMATS = (
    ".h5ad, .h5mu/<modality>, .h5 (10x), .zarr, .loom, .csv, .tsv, .txt, .mtx (these four also "
    ".gz), or a folder with a MatrixMarket matrix, barcodes and features"
)

_SUB_BATCH = "sub_batch"
_ANNDATA = {".h5ad": read_h5ad, ".zarr": read_zarr}
_TABLES = (".csv", ".tsv", ".txt")


def read(
    sources: DataSource | Sequence[DataSource],
    *,
    batch_key: str = "batch",
    batch_categories: Sequence[str] | None = None,
    join: Join = "inner",
    index_unique: str | None = None,
    backed: bool = False,
    profile: str | None = None,
    genome: str | None = None,
) -> AnnData:
    """Read one data set, or concatenate several, each a batch of its own.

    Parameters
    ----------
    sources
        A path (see :func:`read_file` for the formats), an AnnData, or several of these in any
        mixture. A pattern (``folder/*``, ``*.h5ad``) is one source: see :func:`read_files`.
    batch_key
        Column of ``obs`` for the batches when there are several sources; an existing column is
        replaced in the result.
    batch_categories
        Names of the batches, one for each source; by default 0 to N-1.
    join
        Genes that all sources have (``"inner"``, so that no value is made up), or that any source
        has (``"outer"``). Genes that a source lacks are then zeros in a sparse matrix, all genes
        are sorted by name, and a message says how many were missing.
    index_unique
        Text between the name of a cell and that of its batch, to make names unique. By default the
        batch is added (after ``-``) only if names repeat between sources.
    backed
        Whether to leave the matrix on disk; for one ``.h5ad`` file only, whose features are then
        all kept.
    profile, genome
        See :func:`read_file`. Each of several sources is reduced before they are joined.

    Returns
    -------
    Cells × genes. One source as it is (an AnnData as the same object), several as a new AnnData.
    Columns of ``obs`` that only some sources have are missing (NaN) for cells of the others.

    Raises
    ------
    FileNotFoundError, ValueError
        For a file that is absent, cannot be read, is empty or of an unknown format; for sources
        without a gene in common; for repeated batch names or gene names.
    TypeError
        For a source that is neither a path nor an AnnData, or a matrix that is a masked array.
    """
    return read_taking(
        sources,
        Taking(),
        Choice(profile, genome),
        batch_key=batch_key,
        batch_categories=batch_categories,
        join=join,
        index_unique=index_unique,
        backed=backed,
    )


def read_taking(
    sources: DataSource | Sequence[DataSource],
    taking: Taking,
    choice: Choice,
    *,
    batch_key: str = "batch",
    batch_categories: Sequence[str] | None = None,
    join: Join = "inner",
    index_unique: str | None = None,
    backed: bool = False,
) -> AnnData:
    """Read as :func:`read`, with a choice of counts, gene names and features of each source.

    Parameters
    ----------
    sources, batch_key, batch_categories, join, index_unique, backed
        See :func:`read`.
    taking
        Whether the counts are those in ``.raw``, and which column of ``var`` names the genes.
    choice
        Type and genome of the features that are wanted.

    Returns
    -------
    See :func:`read`.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        As :func:`read`.
    KeyError
        If a source has no ``.raw`` or no column of ``var`` that ``taking`` names.
    """
    sources = _as_list(sources)
    if not sources:
        msg = "No data: `sources` is empty."
        raise ValueError(msg)
    if join not in ("inner", "outer"):
        msg = f"`join` {join!r} must be 'inner' (genes of all sources) or 'outer' (of any)."
        raise ValueError(msg)
    if backed:
        return taking.of([_read_backed(sources, batch_categories)], ["The source"])[0]
    names = _batch_names(batch_categories, len(sources))
    adatas = taking.of(
        _read_all(sources, join, choice), [_called(s, i) for i, s in enumerate(sources)]
    )
    if len(adatas) == 1 and batch_categories is None:
        return adatas[0]
    return concatenate(adatas, names, key=batch_key, join=join, index_unique=index_unique)


def concat(
    data_list: DataSource | Sequence[DataSource],
    batch_categories: Sequence[str] | None = None,
    join: Join = "inner",
    batch_key: str = "batch",
    index_unique: str | None = None,
    save: str | os.PathLike[str] | None = None,
    *,
    profile: str | None = None,
    genome: str | None = None,
) -> AnnData:
    """Concatenate several data sets, as :func:`read` does, and optionally write the result.

    The arguments are in the order of ``concat_data`` of the published package.

    Parameters
    ----------
    data_list
        ``sources`` of :func:`read`.
    batch_categories, join, batch_key, index_unique
        See :func:`read`.
    save
        ``.h5ad`` file to write the result to. Its folder is created, and a run that fails leaves
        no incomplete file. Annotations that it cannot hold are converted, with a warning
        (:func:`make_writable`).
    profile, genome
        See :func:`read_file`.

    Returns
    -------
    See :func:`read`.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        As :func:`read`; ValueError if ``save`` does not end in ``.h5ad``, or is a source.
    """
    if save is not None and Path(save).suffix != ".h5ad":
        msg = f"`save` {str(save)!r} must end in .h5ad, the format that is written."
        raise ValueError(msg)
    sources = _as_list(data_list)
    read_from = [path.resolve() for path in paths_of(sources)]
    if save is not None and Path(save).expanduser().resolve() in read_from:
        msg = f"`save` {str(save)!r} is one of the sources, which it would replace. Choose another."
        raise ValueError(msg)
    adata = read(
        sources,
        batch_key=batch_key,
        batch_categories=batch_categories,
        join=join,
        index_unique=index_unique,
        profile=profile,
        genome=genome,
    )
    if save is not None:
        save = Path(save).expanduser()
        save.parent.mkdir(parents=True, exist_ok=True)
        # Writing turns text columns into categories: not in an object that is the user's.
        given = any(adata is source for source in sources)
        written = _in_memory_copy(adata) if given else adata
        make_writable(written)
        with whole_file(save) as temporary:
            written.write_h5ad(temporary, compression="gzip")
    return adata


def read_files(
    root: str | os.PathLike[str], *, profile: str | None = None, genome: str | None = None
) -> AnnData:
    """Read one source: a file, a folder, or all files that fit a pattern.

    Parameters
    ----------
    root
        A path (see :func:`read_file`), or a pattern such as ``folder/*``, ``*.h5ad`` or
        ``*.h5mu/rna``. Files are concatenated in the order of their names, with the genes that all
        of them have; ``obs["sub_batch"]`` holds the file names.
    profile, genome
        See :func:`read_file`.

    Returns
    -------
    Cells × genes.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`read`.
    """
    return _read_all([root], "inner", Choice(profile, genome))[0]


def read_file(
    path: str | os.PathLike[str],
    backed: bool = False,
    *,
    cells_in: CellsIn | None = None,
    profile: str | None = None,
    genome: str | None = None,
) -> AnnData:
    """Read one file, or one folder of MatrixMarket files or zarr.

    Parameters
    ----------
    path
        By its ending:

        - ``.h5ad``, ``.zarr``: an AnnData, as it is;
        - ``data.h5mu/<modality>``: one modality of a MuData, as it is;
        - ``.h5``: 10x Genomics, version 2 or later;
        - ``.loom``: its main matrix (extra ``io``);
        - ``.mtx``, ``.mtx.gz`` or a folder: see :func:`read_mtx`;
        - ``.csv``, ``.tsv``, ``.txt``, or these ``.gz``: a table of numbers with names in its
          first line and first column. Separators are commas or semicolons in ``.csv`` (with
          semicolons, numbers may have a decimal comma), else tabs, spaces, commas or semicolons.
          The header may be one field shorter than the rows (R's ``write.table``). Lines at the
          top that start with ``#`` are comments (BD Rhapsody, featureCounts). Columns of text, or
          that describe genes (``Chr``, ``Start``, ``End``, ``Strand``, ``Length``), become
          ``var`` (``obs`` if cells are in rows), with a warning; lines of HTSeq and STAR that
          count what was assigned to no gene are left out.

        Genes without a symbol are named by their id. Gene names are made unique, with a warning,
        except in AnnData and MuData files.
    backed
        Whether to leave the matrix on disk; ``.h5ad`` only.
    cells_in
        For a text table: whether its ``"rows"`` or its ``"columns"`` are cells. By default the
        first of these that applies decides: with several sources of :func:`read`, the axis that
        shares more names with the genes of the others; names that look like barcodes, Ensembl ids
        or peaks, or are genes that every tissue expresses; what the header says above the names
        (``Geneid``, ``Cell_Index``). If none applies, columns are cells, as in the published
        package, with a warning. Note that the published tutorial on gene activity writes cells in
        rows.
    profile
        Features of one type alone, where a file says of which type they are (10x, BD Rhapsody,
        ``var["feature_types"]``): ``"RNA"`` (gene expression), ``"ATAC"`` (peaks) or ``"ADT"``
        (antibodies, without hashtags). A warning names what is left out. By default all features
        are kept, with a warning if they are of several types.
    genome
        Genome whose features are taken where a file has several, e.g. ``"GRCh38"``; it is then
        removed from the names. ``"all"`` takes the features of every genome.

    Returns
    -------
    Cells × genes; from text and MatrixMarket, 10x and loom as CSR float32.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, incomplete, empty, without names, or of an unknown format; if it
        has several genomes and none was chosen; if it has no feature of the profile's type.
    ImportError
        For ``.loom`` without loompy.
    """
    if backed:
        return _read_backed([path], None)
    choice = Choice(profile, genome)
    loaded = _load(path, choice)
    if isinstance(loaded, Table):
        adata = (
            orient([loaded], pd.Index([]))[0] if cells_in is None else to_adata(loaded, cells_in)
        )
        return _chosen(adata, choice, path)
    if cells_in is not None:
        msg = f"`cells_in` is for .csv, .tsv and .txt; {str(path)!r} says itself where cells are."
        raise ValueError(msg)
    return loaded


def _as_list(sources: DataSource | Sequence[DataSource]) -> list[DataSource]:
    if isinstance(sources, str | os.PathLike | AnnData):
        return [sources]
    if isinstance(sources, Sequence | Iterator | np.ndarray | pd.Series | pd.Index):
        return list(sources)
    msg = (
        f"The data are a {type(sources).__name__!r}; allowed are a path, an AnnData, or a list of "
        f"these. {way_out(sources)}"
    )
    raise TypeError(msg.strip())


def _read_backed(sources: list[DataSource], batch_categories: Sequence[str] | None) -> AnnData:
    source = sources[0]
    if len(sources) == 1 and batch_categories is None:
        if isinstance(source, AnnData) and source.isbacked:
            return source
        if isinstance(source, str | os.PathLike) and Path(source).suffix == ".h5ad":
            path = Path(source).expanduser()
            _check_exists(path)
            return read_h5ad(path, backed=True)
    given = [_describe(source) for source in sources]
    msg = (
        f"`backed=True` is for one .h5ad file without `batch_categories`; given were {given!r}. "
        "Put them together first: scalex_scvi.io.concat(..., save='all.h5ad')."
    )
    raise ValueError(msg)


def _batch_names(batch_categories: Sequence[str] | None, n_sources: int) -> list[str]:
    if batch_categories is None:
        return [str(i) for i in range(n_sources)]
    if isinstance(batch_categories, str) and n_sources > 1:
        msg = f"`batch_categories` {batch_categories!r} must be a list, of a name for each source."
        raise TypeError(msg)
    given = [batch_categories] if isinstance(batch_categories, str) else batch_categories
    names = [str(name) for name in given]
    if len(names) != n_sources or len(set(names)) != len(names):
        msg = (
            f"`batch_categories` {names!r} must be {n_sources} different names, one for each "
            "source."
        )
        raise ValueError(msg)
    return names


def _describe(source: DataSource) -> str:
    return "AnnData" if isinstance(source, AnnData) else str(source)


def _called(source: DataSource, number: int) -> str:
    """Return the name of a source in messages."""
    return f"Source {number}" if isinstance(source, AnnData) else f"Source {str(source)!r}"


def _read_all(sources: Sequence[DataSource], join: Join, choice: Choice) -> list[AnnData]:
    """Read all sources; the files of a pattern are concatenated.

    Text tables are oriented last: the gene names of the other sources tell where their cells are.
    """
    groups = [_expand(source) for source in sources]
    _warn_of_repeats([part for group in groups for part in group])
    loaded = [_load(part, choice) for group in groups for part in group]
    genes = pd.Index([])
    for item in loaded:
        if isinstance(item, AnnData):
            genes = genes.union(item.var_names)
    tables = iter(
        _chosen(adata, choice, table.path)
        for table, adata in _turned([item for item in loaded if isinstance(item, Table)], genes)
    )
    ready = iter([next(tables) if isinstance(item, Table) else item for item in loaded])
    adatas = []
    for source, group in zip(sources, groups, strict=True):
        parts = [next(ready) for _ in group]
        is_pattern = not isinstance(source, AnnData) and group != [source]
        adatas.append(_put_files_together(parts, group, join) if is_pattern else parts[0])
    return adatas


def _warn_of_repeats(parts: Sequence[DataSource]) -> None:
    """Say which sources are given more than once: each of their cells counts as often."""
    places: dict[Any, list[int]] = {}
    for number, part in enumerate(parts):
        if isinstance(part, AnnData):
            place: Any = id(part)
        else:
            place = part if is_address(part) else Path(part).expanduser().resolve()
        places.setdefault(place, []).append(number)
    for numbers in places.values():
        if len(numbers) > 1:
            logger.warning(
                "%s is given %d times, so that each of its cells is there as often. Give it once, "
                "unless this is meant.",
                _called(parts[numbers[0]], numbers[0]),
                len(numbers),
            )


def _turned(tables: list[Table], genes: pd.Index) -> list[tuple[Table, AnnData]]:
    return list(zip(tables, orient(tables, genes), strict=True))


def _put_files_together(parts: list[AnnData], files: list[Any], join: Join) -> AnnData:
    names = [os.path.basename(file) for file in files]
    if len(set(names)) < len(names):
        folder = os.path.commonpath(files)
        names = [os.path.relpath(file, folder) for file in files]
    logger.info("%d files are one source, told apart by obs[%r].", len(names), _SUB_BATCH)
    return concatenate(parts, names, key=_SUB_BATCH, join=join, index_unique=None)


def _expand(source: DataSource) -> list[Any]:
    """Return the files of a pattern; anything else as it is, in a list."""
    if isinstance(source, AnnData):
        check_adata(source, name="source")
        return [source]
    if not isinstance(source, str | os.PathLike):
        msg = (
            f"A source is a {type(source).__name__!r}; allowed are paths and AnnData objects. "
            f"{way_out(source)}"
        )
        raise TypeError(msg.strip())
    if not os.fspath(source):
        msg = "A source is '', no path of a file."
        raise ValueError(msg)
    pattern, modality = _split_modality(source)
    if pattern.exists() or not any(sign in str(pattern) for sign in "*?["):
        return [source]
    files = sorted(glob.glob(str(pattern)))
    if not files:
        msg = f"There is no file {str(source)!r}: nothing fits this pattern."
        raise FileNotFoundError(msg)
    return files if modality is None else [f"{file}/{modality}" for file in files]


def _load(source: DataSource, choice: Choice = EVERYTHING) -> AnnData | Table:
    """Read one file or folder by its kind, with the wanted features."""
    if isinstance(source, AnnData):
        return choose_features(source, choice, "AnnData")
    if is_address(source):
        msg = (
            f"{str(source)!r} is an address, and no file. Of a zarr store, open it by "
            "`scalex_scvi.io.read_lazy(address)`, or read it into memory by "
            "`anndata.io.read_zarr(address)`, and give that. Copy other files to this machine."
        )
        raise InputError(msg)
    path, modality = _split_modality(source)
    _check_exists(path)
    name = path.name.lower()
    plain = name.removesuffix(".gz")
    if name.endswith(".h5mu"):
        return choose_features(read_h5mu(path, modality), choice, path)
    for suffix, reader in _ANNDATA.items():
        if name.endswith(suffix) or (suffix == ".zarr" and is_zarr_store(path)):
            return choose_features(reader(path), choice, path)
    if path.is_dir() or plain.endswith(".mtx"):
        return _chosen(read_mtx_as_it_is(path, choice.genome), choice, path)
    if name.endswith(".h5"):
        return _chosen(read_10x_h5(path, choice.genome), choice, path)
    if name.endswith(".loom"):
        return _chosen(read_loom(path), choice, path)
    if plain.endswith(_TABLES):
        return read_table(path)
    msg = f"{str(path)!r} is of an unknown format. Allowed are {FORMATS}."
    raise InputError(msg)


def _chosen(adata: AnnData, choice: Choice, path: str | os.PathLike[str]) -> AnnData:
    """Return the wanted features of a file whose names may repeat or lack."""
    with repeated_names_expected():
        if "gene_ids" in adata.var:
            adata.var_names = name_by_id(adata.var_names, pd.Index(adata.var["gene_ids"]))
        adata = choose_features(adata, choice, path, must_choose=True)
    return make_genes_unique(adata, path)


def _check_exists(path: Path) -> None:
    if not path.exists():
        msg = f"There is no file {str(path)!r}."
        raise FileNotFoundError(msg)


def _split_modality(source: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """Split ``data.h5mu/rna`` into the file and the modality."""
    path = Path(source).expanduser()
    if path.parent.suffix.lower() == ".h5mu":
        return path.parent, path.name
    return path, None


def _in_memory_copy(adata: AnnData) -> AnnData:
    return adata.to_memory() if adata.isbacked else adata.copy()
