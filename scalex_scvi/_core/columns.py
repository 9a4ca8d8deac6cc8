"""Columns of ``obs``: whether they are there and complete, and the groups in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from .keys import own_keys


def text_of(value: Any) -> str:
    """Return the name of a group as text, the same for the same value of another type.

    A column of whole numbers becomes one of floats where a value is missing, and a day has a time
    where it is read from another file: ``1``, ``1.0`` and ``"1"`` are one group, and so are a date
    and its midnight.
    """
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    if isinstance(value, pd.Timestamp | np.datetime64):
        day = pd.Timestamp(value)
        return day.date().isoformat() if day == day.normalize() else day.isoformat(" ")
    return str(value)


def as_text(values: Any) -> pd.Categorical:
    """Return groups as categories of text, in the order that they had; missing ones stay missing.

    Parameters
    ----------
    values
        A column of ``obs``, or an array: text, numbers, booleans, dates, categories, or a mixture.
        Categories that do not occur are left out.
    """
    if isinstance(values, pd.DataFrame):
        values = one_column(values, values.columns[0])
    groups = getattr(values, "array", values)
    if not isinstance(groups, pd.Categorical):
        groups = pd.Series(values).astype("category").array
    groups = groups.remove_unused_categories()
    names = [text_of(name) for name in groups.categories]
    unique = list(dict.fromkeys(names))
    place = np.array([unique.index(name) for name in names] + [-1], dtype=np.intp)
    return pd.Categorical.from_codes(place[groups.codes], categories=unique)


def one_column(obs: pd.DataFrame, key: Any) -> pd.Series:
    """Return a column of ``obs``; raise a ``ValueError`` if there are several of the name."""
    column = obs[key]
    if column.ndim > 1:
        msg = (
            f"adata.obs has {column.shape[1]} columns {key!r}. Keep one: "
            "`adata.obs = adata.obs.loc[:, ~adata.obs.columns.duplicated()]`."
        )
        raise ValueError(msg)
    return column


def set_groups(adata: AnnData, key: str, groups: Any) -> None:
    """Write a column of groups; the names keep the colors that ``uns`` has for the column.

    Those are in the order of its categories, which may be others now.

    Parameters
    ----------
    adata
        Cells, changed in place.
    key
        Column of ``obs``, new or not.
    groups
        Categories of text, for each cell.
    """
    colors = adata.uns.get(f"{key}_colors")
    by_name: dict[str, str] = {}
    if colors is not None and key in adata.obs:
        before = adata.obs[key].astype("category").cat.categories
        by_name = {text_of(name): str(color) for name, color in zip(before, colors, strict=False)}
    adata.obs[key] = pd.Series(groups, index=adata.obs_names)
    if colors is None:
        return
    names = adata.obs[key].cat.categories
    if set(names) <= set(by_name):
        adata.uns[f"{key}_colors"] = [by_name[name] for name in names]
    else:
        del adata.uns[f"{key}_colors"]  # of other names


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
        own = own_keys(adata.obs)
        msg = (
            f"`batch_key` {batch_key!r} is not a column of adata.obs: {own!r}. Of a query it is "
            "that of its reference; cells of one batch may be given a name: "
            f"`adata.obs[{batch_key!r}] = 'new'`."
        )
        raise KeyError(msg)
    check_no_missing(adata, batch_key, what="batch")
    if lone_cells:
        return
    codes, names = batch_codes(adata, batch_key)
    lone = [names[code] for code in np.flatnonzero(np.bincount(codes) == 1)]
    if lone:
        msg = (
            f"Batches with one cell: {lone[:5]!r} (adata.obs[{batch_key!r}]). A batch needs at "
            "least two cells to be scaled and normalized. Merge it with another, or remove it."
        )
        raise ValueError(msg)


def check_no_missing(adata: AnnData, key: str, *, what: str) -> None:
    """Raise if ``adata.obs[key]`` is NaN or None for any cell, or there are two such columns."""
    n_missing = int(one_column(adata.obs, key).isna().sum())
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
    column = as_text(adata.obs[batch_key])
    return column.codes.astype(np.intp), list(column.categories)
