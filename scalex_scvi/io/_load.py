"""From sources of any kind to one AnnData of counts, or of prepared expression."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scalex_scvi import pp
from scalex_scvi._core.columns import check_no_missing
from scalex_scvi._core.seeds import resolve_seed

from ._read import DataSource, read

logger = logging.getLogger(__name__)

BATCH = "batch"
"""Column of ``obs`` that holds the batches of everything that is loaded here."""

QUERY_BATCH = "query"
"""Batch of a query that names none."""


def load_data(
    data_list: DataSource | Sequence[DataSource],
    batch_categories: Sequence[str] | None = None,
    profile: str = "RNA",
    join: Literal["inner", "outer"] = "inner",
    batch_key: str = "batch",
    batch_name: str = "batch",
    min_features: int | None = None,
    min_cells: int | None = None,
    target_sum: float | None = None,
    n_top_features: int | str | Sequence[str] | None = None,
    backed: bool = False,
    fraction: float | None = None,
    n_obs: int | None = None,
    processed: bool = False,
    use_layer: str = "X",
    seed: int | None = None,
    **preprocessing: Any,
) -> AnnData:
    """Read data sets, put them together and prepare them for a model.

    Parameters
    ----------
    data_list, batch_categories, join, batch_key, batch_name, backed, fraction, n_obs, use_layer, seed
        See :func:`load_counts`.
    profile, min_features, min_cells, target_sum, n_top_features, **preprocessing
        See :func:`scalex_scvi.pp.preprocess`.
    processed
        Whether the values are processed already: nothing is filtered, normalised or selected,
        features are only scaled to [0, 1] within each batch.

    Returns
    -------
    Cells × selected features in [0, 1] with ``obs["batch"]``, as
    :func:`scalex_scvi.pp.preprocess` returns them. Minibatches are made by scvi-tools' loaders.
    """  # noqa: E501 a line of names cannot be broken in numpydoc
    counts = load_counts(
        data_list,
        batch_categories,
        join=join,
        batch_key=batch_key,
        batch_name=batch_name,
        backed=backed,
        fraction=fraction,
        n_obs=n_obs,
        use_layer=use_layer,
        seed=seed,
    )
    if processed:
        return pp.preprocess(counts, profile, batch_key=BATCH, **_only_scaled(profile))
    declared = {key: value for key, value in preprocessing.items() if value is not None}
    return pp.preprocess(
        counts,
        profile,
        batch_key=BATCH,
        min_features=min_features,
        min_cells=min_cells,
        target_sum=target_sum,
        n_top_features=n_top_features,
        **declared,
    )


def _only_scaled(profile: str) -> dict[str, Any]:
    """Arguments of :func:`scalex_scvi.pp.preprocess` that switch off all but the scaling."""
    options = {"min_features": 0, "min_cells": 0, "n_top_features": -1, "log_normalized": True}
    return options | ({"dropped_prefixes": ()} if profile.upper() == "RNA" else {})


def load_counts(
    data_list: DataSource | Sequence[DataSource],
    batch_categories: Sequence[str] | None = None,
    *,
    join: Literal["inner", "outer"] = "inner",
    batch_key: str = "batch",
    batch_name: str = "batch",
    backed: bool = False,
    fraction: float | None = None,
    n_obs: int | None = None,
    use_layer: str = "X",
    seed: int | None = None,
    is_query: bool = False,
) -> AnnData:
    """Read data sets and put them together, with the batch of each cell in ``obs["batch"]``.

    Parameters
    ----------
    data_list
        See :func:`scalex_scvi.io.read`. An AnnData is not changed.
    batch_categories, join, batch_key
        Names of several sources, how their features are joined, and the column for their names:
        see :func:`scalex_scvi.io.read`.
    batch_name
        Column of ``obs`` with the batches, or several columns, ``"donor,protocol"``, whose
        values are joined by ``_``.
    backed
        Whether to read from disk only what is used (one ``.h5ad`` file).
    fraction, n_obs
        Share or number of cells to draw at random, without changing their order.
    use_layer
        ``"X"``, or the key of a layer or of ``obsm`` to use instead, e.g. surface proteins.
    seed
        Seed of the draw.
    is_query
        Whether the cells are to be projected: then they need no batch column, and without one
        are a single new batch, ``"query"``.

    Raises
    ------
    KeyError
        If there is no such column, layer or ``obsm``.
    ValueError
        For missing batches, or a ``fraction`` or ``n_obs`` out of range.
    """
    adata = read(
        data_list,
        batch_key=batch_key,
        batch_categories=batch_categories,
        join=join,
        backed=backed,
    )
    batch = _batches(adata, batch_name, is_query=is_query)
    rows = _draw(adata.n_obs, fraction, n_obs, seed)
    chosen = _with_matrix(adata, use_layer, rows)
    if BATCH in adata.obs and not adata.obs[BATCH].astype(str).equals(batch.astype(str)):
        logger.info("obs['batch'] is replaced, in the result, by %s.", batch_name)
    chosen.obs[BATCH] = batch.iloc[rows]
    return chosen


def _batches(adata: AnnData, batch_name: str, *, is_query: bool) -> pd.Series:
    single = batch_name in adata.obs or "," not in batch_name
    columns = [batch_name] if single else [name.strip() for name in batch_name.split(",")]
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
    if single:
        return adata.obs[batch_name].astype("category")
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
