"""Columns of ``obs``: whether they are there and complete, and the groups in them."""

from __future__ import annotations

import numpy as np
from anndata import AnnData


def check_batch_column(adata: AnnData, batch_key: str | None, *, lone_cells: bool = False) -> None:
    """Raise unless ``adata.obs[batch_key]`` names the batch of every cell, two cells or more.

    With ``lone_cells`` a batch may have one cell: a query needs no more.

    Raises
    ------
    KeyError
        If there is no such column.
    TypeError
        For several columns.
    ValueError
        For missing values or a batch of one cell.
    """
    if batch_key is None:
        return
    if not isinstance(batch_key, str):
        msg = (
            f"`batch_key` must be the name of one column of adata.obs, got {batch_key!r}. Join "
            "several columns into one first."
        )
        raise TypeError(msg)
    if batch_key not in adata.obs:
        msg = (
            f"`batch_key` {batch_key!r} is not a column of adata.obs: {list(adata.obs.columns)!r}."
        )
        raise KeyError(msg)
    check_no_missing(adata, batch_key, what="batch")
    if lone_cells:
        return
    counts = adata.obs[batch_key].astype(str).value_counts()
    lone = list(counts.index[counts == 1])
    if lone:
        msg = (
            f"Batches with one cell: {lone[:5]!r} (adata.obs[{batch_key!r}]). A batch needs at "
            "least two cells to be scaled and normalized. Merge it with another, or remove it."
        )
        raise ValueError(msg)


def check_no_missing(adata: AnnData, key: str, *, what: str) -> None:
    """Raise if ``adata.obs[key]`` is NaN or None for any cell."""
    n_missing = int(adata.obs[key].isna().sum())
    if n_missing:
        msg = (
            f"adata.obs[{key!r}] is missing (NaN or None) for {n_missing} of {adata.n_obs} cells. "
            f"Name the {what} of each cell, for example 'unknown', or remove those cells."
        )
        raise ValueError(msg)


def batch_codes(adata: AnnData, batch_key: str | None) -> tuple[np.ndarray, list[str]]:
    """Return the batch of each cell as an integer, and the batch names as strings."""
    if batch_key is None:
        return np.zeros(adata.n_obs, dtype=np.intp), ["0"]
    column = adata.obs[batch_key].astype("category").cat.remove_unused_categories()
    return column.cat.codes.to_numpy().astype(np.intp), [str(c) for c in column.cat.categories]
