"""Reading sources of any kind into one AnnData of counts, with the batch of each cell."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scalex_scvi._core.columns import as_text, check_no_missing, set_groups
from scalex_scvi._core.keys import BATCH_COLUMN_KEY as BATCH_COLUMN_KEY
from scalex_scvi._core.matrices import check_no_mask, layer_names
from scalex_scvi._core.ranges import check_share, check_whole
from scalex_scvi._core.seeds import random_rows, resolve_seed

from ._features import Choice, choose_features
from ._large import read_if_large
from ._read import DataSource, _as_list, read_taking
from ._reading import Reading
from ._source import RAW, Taking, layers_of_counts

logger = logging.getLogger(__name__)

BATCH = "batch"
"""Column of ``obs`` that holds the batches, unless the user has another one of this name."""

QUERY_BATCH = "query"
"""Batch of a query without a batch column; of several sources ``query0``, ``query1`` …"""


def load_counts(
    data: DataSource | Sequence[DataSource],
    reading: Reading = Reading(),  # noqa: B008 frozen
    *,
    seed: int | None = None,
    reference: Sequence[str] | None = None,
    counts_wanted: bool = False,
    profile: str | None = None,
    in_blocks: bool = False,
) -> AnnData:
    """Read data sets and concatenate them, with the batch of each cell in ``obs``.

    Parameters
    ----------
    data
        See :func:`scalex_scvi.io.read`. An AnnData is not changed.
    reading
        What to read of it, and where the batches are.
    seed
        Seed for ``reading.fraction`` and ``reading.n_obs``, which draw cells at random.
    reference
        Names of the reference's batches, if the cells are to be projected. They then need no batch
        column: without one, all cells are a single new batch, ``"query"``, or one batch for each of
        several sources, ``"query0"``, ``"query1"`` …. A batch with a name of the reference would be
        scaled as that batch, so underscores are added to a new name until it differs.
    counts_wanted
        Whether counts in ``.raw`` are taken where ``X`` holds normalized values.
    profile
        ``"RNA"``, ``"ATAC"`` or ``"ADT"``: features of this type alone, see
        :func:`scalex_scvi.io.read_file`. A matrix in ``obsm`` is taken whole.
    in_blocks
        Whether ``X`` of one ``.h5ad`` or zarr store that takes 2 GB or more in memory (with
        ``reading.backed``, of any size) is left on disk, as :func:`scalex_scvi.io.read_lazy` opens
        it, where it is stored by cells.

    Returns
    -------
    Cells × features, in memory but for ``in_blocks``. The batches are in ``obs["batch"]``. If the
    data have a column of this name with other values, it stays, and the batches are in the column
    that ``reading`` names. :func:`batch_column` returns which one it is.

    Raises
    ------
    FileNotFoundError, TypeError
        As :func:`scalex_scvi.io.read`.
    KeyError
        If a column, layer or key of ``obsm`` that was named is absent.
    ValueError
        As :func:`scalex_scvi.io.read`; if batches are missing, two different columns are named for
        the batches of one source, or ``fraction`` or ``n_obs`` is out of range.
    """
    data = _as_list(data)
    choice = Choice(profile, reading.genome)
    taking = _taking(reading, counts_wanted)
    # Another matrix may be of features of its own.
    of_sources = choice if reading.use_layer == "X" else Choice(None, reading.genome)
    large = read_if_large(data, reading, taking, of_sources) if in_blocks else None
    if large is not None:
        adata = large
    else:
        adata = read_taking(
            data,
            taking,
            of_sources,
            batch_key=reading.batch_key,
            batch_categories=_source_names(data, reading, reference),
            join=reading.join,
            backed=reading.backed,
        )
    one_source = len(data) == 1 and reading.batch_categories is None
    name = (_name_in_one if one_source else _name_in_several)(adata, reading)
    is_named = reading.batch_name != reading.batch_key
    batch = _batches(adata, name, None if is_named else reference)
    rows = _draw(adata.n_obs, reading.fraction, reading.n_obs, seed)
    # Not done yet for a layer, and for cells on disk.
    if taking.raw is None:
        for layer in layers_of_counts(adata)[:1]:
            logger.warning(
                "X holds values that are not whole numbers, the layer %r whole ones, as counts "
                "are. To use these pass `use_layer=%r`.",
                layer,
                layer,
            )
    matrix = reading.use_layer if large is None else "X"
    chosen = choose_features(_with_matrix(adata, matrix, rows), choice, "The data")
    _store_batches(chosen, batch.iloc[rows], name)
    return chosen


def batch_column(adata: AnnData) -> str:
    """Return the name of the column of ``obs`` with the batches of a run.

    Parameters
    ----------
    adata
        Cells from :func:`load_counts`, or results of a run.

    Returns
    -------
    What ``uns["scalex_batch_key"]`` says, else ``"batch"``.
    """
    return str(adata.uns.get(BATCH_COLUMN_KEY, BATCH))


def rename_batches(adata: AnnData, column: str) -> None:
    """Put the batches of cells from :func:`load_counts` into another column of ``obs``.

    Parameters
    ----------
    adata
        The cells; changed in place.
    column
        New column, which :func:`batch_column` returns from then on. If the cells have a column of
        this name with other values, it is kept as ``obs[f"own_{column}"]``, with a warning.
    """
    batch = adata.obs[batch_column(adata)]
    if column in adata.obs and not _same(adata.obs[column], batch):
        own = f"own_{column}"
        adata.obs[own] = adata.obs[column]
        logger.warning(
            "obs[%r] holds the batches, as in the reference: those of obs[%r]. The column %r of "
            "the data is now obs[%r].",
            column,
            batch_column(adata),
            column,
            own,
        )
    set_groups(adata, column, batch)
    adata.uns[BATCH_COLUMN_KEY] = column


def _name_in_one(adata: AnnData, reading: Reading) -> str:
    """Column (or columns) with the batches of one source: the one that was named."""
    name, key = reading.batch_name, reading.batch_key
    if key in (Reading.batch_key, name):
        return name
    if name == Reading.batch_name:
        if key not in adata.obs:
            msg = (
                f"`batch_key` {key!r} is not a column of obs: {list(adata.obs.columns)!r}. Of one "
                "source it is the column with the batches, like `batch_name`."
            )
            raise KeyError(msg)
        return key
    if key in adata.obs and set(_columns(adata, name)) <= set(adata.obs):
        msg = (
            f"Both `batch_name` {name!r} and `batch_key` {key!r} are columns of obs: give one of "
            f"them for the batches, or `batch_name={f'{name},{key}'!r}` to combine them."
        )
        raise ValueError(msg)
    return name


def _name_in_several(adata: AnnData, reading: Reading) -> str:
    """Column (or columns) with the batches of several sources, whose names are in ``batch_key``."""
    name, key = reading.batch_name, reading.batch_key
    if name != Reading.batch_name or key == name:
        return name
    if name not in adata.obs:
        return key
    logger.warning(
        "The batches are obs[%r]; obs[%r] (`batch_key`) holds the names of the sources. To "
        "integrate these, pass `batch_name=%r`.",
        name,
        key,
        key,
    )
    return name


def _store_batches(adata: AnnData, batch: pd.Series, name: str) -> None:
    """Write the batches into ``obs``, and into ``uns`` where they are."""
    column = BATCH
    if BATCH in adata.obs and not _same(adata.obs[BATCH], batch):
        column = name
        logger.warning(
            "The batches are obs[%r]: obs[%r] of the data differs from them, and stays as it is.",
            column,
            BATCH,
        )
    set_groups(adata, column, batch)
    adata.uns[BATCH_COLUMN_KEY] = column


def _same(one: pd.Series, other: pd.Series) -> bool:
    """Whether two columns hold the same values as text."""
    return bool((np.asarray(as_text(one)) == np.asarray(as_text(other))).all())


def _columns(adata: AnnData, batch_name: str) -> list[str]:
    """Columns that ``batch_name`` means: the column of this name, or those between commas."""
    single = batch_name in adata.obs or "," not in batch_name
    return [batch_name] if single else [name.strip() for name in batch_name.split(",")]


def _taking(reading: Reading, counts_wanted: bool) -> Taking:
    undecided = counts_wanted and reading.use_layer == Reading.use_layer
    return Taking(None if undecided else reading.use_layer == RAW, reading.gene_names)


def _source_names(
    data: DataSource | Sequence[DataSource], reading: Reading, reference: Sequence[str] | None
) -> Sequence[str] | None:
    """Names of the sources: those given, else of a query names that the reference does not have."""
    n_sources = len(_as_list(data))
    if reading.batch_categories is not None or reference is None or n_sources == 1:
        return reading.batch_categories
    names = [_new_name(f"{QUERY_BATCH}{i}", reference) for i in range(n_sources)]
    if reading.batch_name == reading.batch_key:
        logger.warning(
            "The sources of the query are the new batches %s. Name them by `batch_categories`: "
            "batches that have a name of the reference are scaled as there.",
            ", ".join(names),
        )
    return names


def _new_name(name: str, reference: Sequence[str]) -> str:
    while name in map(str, reference):
        name += "_"
    return name


def _batches(adata: AnnData, batch_name: str, reference: Sequence[str] | None) -> pd.Series:
    """Batch of each cell. With a reference, cells without the column are one new batch."""
    columns = _columns(adata, batch_name)
    absent = [name for name in columns if name not in adata.obs]
    if absent and reference is not None:
        new = _new_name(QUERY_BATCH, reference)
        logger.warning("The query has no %r: its cells are one batch, %r.", absent, new)
        return pd.Series(new, index=adata.obs_names, dtype="category")
    if absent:
        msg = (
            f"`batch_name` {batch_name!r}: there is no column {absent!r} in obs: "
            f"{list(adata.obs.columns)!r}. Name the column "
            "with the batches; if all cells are of one batch, add a column of one value."
        )
        raise KeyError(msg)
    for name in columns:
        check_no_missing(adata, name, what="batch")
    if len(columns) == 1:
        return pd.Series(as_text(adata.obs[columns[0]]), index=adata.obs_names)
    parts = [np.asarray(as_text(adata.obs[name]), dtype=object) for name in columns]
    joined = ["_".join(names) for names in zip(*parts, strict=True)]
    return pd.Series(joined, index=adata.obs_names, dtype="category")


def _draw(n_cells: int, fraction: float | None, n_obs: int | None, seed: int | None) -> np.ndarray:
    """Rows to use, in order."""
    if fraction is not None and n_obs is not None:
        msg = f"Give `fraction` ({fraction!r}) or `n_obs` ({n_obs!r}), not both."
        raise ValueError(msg)
    if fraction is not None:
        check_share(fraction, name="fraction")
        wanted = round(n_cells * fraction)
        if not wanted:
            msg = f"`fraction` {fraction!r} of {n_cells} cells is none. Give a larger one."
            raise ValueError(msg)
    elif n_obs is not None:
        check_whole(n_obs, 1, name="n_obs")
        wanted = int(n_obs)
        if wanted > n_cells:
            msg = f"`n_obs` must be at most the number of cells, {n_cells}, got {n_obs!r}."
            raise ValueError(msg)
    else:
        return np.arange(n_cells)
    logger.info("Drew %d of %d cells.", wanted, n_cells)
    return random_rows(n_cells, wanted, resolve_seed(seed))


def _with_matrix(adata: AnnData, use_layer: str, rows: np.ndarray) -> AnnData:
    """Return rows with the chosen matrix as ``X``, in memory, in an object of our own."""
    everything = len(rows) == adata.n_obs
    part = adata if everything else adata[rows]
    if adata.isbacked:
        part = part.to_memory()
    if use_layer == "X" or (use_layer == RAW and RAW not in part.layers):  # X is from .raw
        matrix, var = part.X, part.var
    elif use_layer in part.layers:
        matrix, var = part.layers[use_layer], part.var
    elif use_layer in part.obsm:
        matrix, var = _from_obsm(part.obsm[use_layer], use_layer)
    else:
        msg = (
            f"`use_layer` {use_layer!r} must be 'X', 'raw', a layer, {layer_names(adata)!r}, "
            f"or a key of obsm: {list(adata.obsm)!r}."
        )
        raise KeyError(msg)
    return AnnData(
        X=matrix, obs=part.obs.copy(), var=var.copy(), obsm=dict(part.obsm), uns=dict(part.uns)
    )


def _from_obsm(matrix: Any, key: str) -> tuple[Any, pd.DataFrame]:
    check_no_mask(matrix, name=f"obsm[{key!r}]")
    if isinstance(matrix, pd.DataFrame):
        return matrix.to_numpy(), pd.DataFrame(index=matrix.columns.astype(str))
    names = [f"{key}_{i}" for i in range(matrix.shape[1])]
    return matrix, pd.DataFrame(index=pd.Index(names))
