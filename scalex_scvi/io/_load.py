"""From sources of any kind to one AnnData of counts, with the batch of each cell."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scalex_scvi._core.columns import check_no_missing
from scalex_scvi._core.seeds import resolve_seed

from ._features import Choice, choose_features
from ._read import DataSource, _as_list, read
from ._reading import Reading

logger = logging.getLogger(__name__)

BATCH = "batch"
"""Column of ``obs`` that holds the batches, unless the user has another one of this name."""

BATCH_COLUMN_KEY = "scalex_batch_key"
"""Where ``uns`` says which column of ``obs`` holds the batches."""

QUERY_BATCH = "query"
"""Batch of a query that names none."""


def load_counts(
    data: DataSource | Sequence[DataSource],
    reading: Reading = Reading(),  # noqa: B008 frozen
    *,
    seed: int | None = None,
    is_query: bool = False,
    profile: str | None = None,
) -> AnnData:
    """Read data sets and put them together, with the batch of each cell in ``obs``.

    Parameters
    ----------
    data
        See :func:`scalex_scvi.io.read`. An AnnData is not changed.
    reading
        What to read of it, and where the batches are.
    seed
        Seed of the draw of cells.
    is_query
        Whether the cells are to be projected: then they need no batch column, and without one
        are a single new batch, ``"query"``.
    profile
        Features of the type of a kind of data alone: see :func:`scalex_scvi.io.read_file`. What
        ``obsm`` holds is taken whole.

    Returns
    -------
    The cells. Their batches are in ``obs["batch"]``; where the data have a column of this name
    that says otherwise, it stays, and the batches are in the column that ``reading`` names. Which
    one it is tells :func:`batch_column`.

    Raises
    ------
    KeyError
        If there is no such column, layer or ``obsm``.
    ValueError
        For missing batches, two different columns named for the batches of one source, or a
        ``fraction`` or ``n_obs`` out of range.
    """
    choice = Choice(profile, reading.genome)
    adata = read(
        data,
        batch_key=reading.batch_key,
        batch_categories=reading.batch_categories,
        join=reading.join,
        backed=reading.backed,
        # Another matrix may be of features of its own.
        profile=profile if reading.use_layer == "X" else None,
        genome=reading.genome,
    )
    one_source = len(_as_list(data)) == 1 and reading.batch_categories is None
    name = (_name_in_one if one_source else _name_in_several)(adata, reading)
    batch = _batches(adata, name, is_query=is_query)
    rows = _draw(adata.n_obs, reading.fraction, reading.n_obs, seed)
    # Not done yet for a layer, and for cells on disk.
    chosen = choose_features(_with_matrix(adata, reading.use_layer, rows), choice, "The data")
    _store_batches(chosen, batch.iloc[rows], name)
    return chosen


def batch_column(adata: AnnData) -> str:
    """Return the column of ``obs`` with the batches of a run: ``"batch"``, if none is noted."""
    return str(adata.uns.get(BATCH_COLUMN_KEY, BATCH))


def rename_batches(adata: AnnData, column: str) -> None:
    """Put the batches of cells from :func:`load_counts` into another column of ``obs``.

    A different column of this name is kept as ``obs[f"own_{column}"]``, with a warning.
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
    adata.obs[column] = batch
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
    adata.obs[column] = batch
    adata.uns[BATCH_COLUMN_KEY] = column


def _same(one: pd.Series, other: pd.Series) -> bool:
    return bool((one.astype(str).to_numpy() == other.astype(str).to_numpy()).all())


def _columns(adata: AnnData, batch_name: str) -> list[str]:
    """Columns that a name means: itself, or those between commas."""
    single = batch_name in adata.obs or "," not in batch_name
    return [batch_name] if single else [name.strip() for name in batch_name.split(",")]


def _batches(adata: AnnData, batch_name: str, *, is_query: bool) -> pd.Series:
    columns = _columns(adata, batch_name)
    absent = [name for name in columns if name not in adata.obs]
    if absent and is_query:
        logger.warning("The query has no %r: its cells are one batch, %r.", absent, QUERY_BATCH)
        return pd.Series(QUERY_BATCH, index=adata.obs_names, dtype="category")
    if absent:
        msg = (
            f"`batch_name` {batch_name!r}: there is no column {absent!r} in obs: "
            f"{list(adata.obs.columns)!r}. Cells of one batch need a column of one value."
        )
        raise KeyError(msg)
    for name in columns:
        check_no_missing(adata, name, what="batch")
    if len(columns) == 1:
        return adata.obs[columns[0]].astype("category")
    joined = adata.obs[columns[0]].astype(str)
    for name in columns[1:]:
        joined = joined + "_" + adata.obs[name].astype(str)
    return joined.astype("category")


def _draw(n_cells: int, fraction: float | None, n_obs: int | None, seed: int | None) -> np.ndarray:
    """Rows to use, in order."""
    if fraction is None and n_obs is None:
        return np.arange(n_cells)
    if fraction is not None and n_obs is not None:
        msg = f"Give `fraction` ({fraction!r}) or `n_obs` ({n_obs!r}), not both."
        raise ValueError(msg)
    if fraction is not None and not 0 < fraction <= 1:
        msg = f"`fraction` must lie in (0, 1], got {fraction!r}."
        raise ValueError(msg)
    wanted = round(n_cells * fraction) if fraction is not None else n_obs
    if wanted is None or not 1 <= wanted <= n_cells:
        msg = f"`n_obs` must lie between 1 and the {n_cells} cells, got {wanted!r}."
        raise ValueError(msg)
    rows = np.random.default_rng(resolve_seed(seed)).choice(n_cells, wanted, replace=False)
    logger.info("Drew %d of %d cells.", wanted, n_cells)
    return np.sort(rows)


def _with_matrix(adata: AnnData, use_layer: str, rows: np.ndarray) -> AnnData:
    """Chosen cells with the chosen matrix, in memory; shares nothing that is changed later."""
    everything = len(rows) == adata.n_obs
    part = adata if everything else adata[rows]
    if adata.isbacked:
        part = part.to_memory()
    if use_layer == "X":
        matrix, var = part.X, part.var
    elif use_layer in part.layers:
        matrix, var = part.layers[use_layer], part.var
    elif use_layer in part.obsm:
        matrix, var = _from_obsm(part.obsm[use_layer], use_layer)
    else:
        msg = (
            f"`use_layer` {use_layer!r} must be 'X', one of the layers {list(adata.layers)!r}, "
            f"or a key of obsm: {list(adata.obsm)!r}."
        )
        raise KeyError(msg)
    return AnnData(
        X=matrix, obs=part.obs.copy(), var=var.copy(), obsm=dict(part.obsm), uns=dict(part.uns)
    )


def _from_obsm(matrix: Any, key: str) -> tuple[Any, pd.DataFrame]:
    if isinstance(matrix, pd.DataFrame):
        return matrix.to_numpy(), pd.DataFrame(index=matrix.columns.astype(str))
    names = [f"{key}_{i}" for i in range(matrix.shape[1])]
    return matrix, pd.DataFrame(index=pd.Index(names))
