"""Conversion of annotations that ``.h5ad`` cannot hold, so that results can be written."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import write_elem
from pandas.api.types import is_object_dtype
from scipy import sparse

from scalex_scvi._core.keys import BATCH_COLUMN_KEY

logger = logging.getLogger(__name__)

_NUMBERS = "biufc"
_ABSENT = object()

_NOT_IN_FILES = (pd.Float32Dtype, pd.Float64Dtype, pd.ArrowDtype)
"""Types of numbers that anndata does not write, others of pandas' own with gaps it does."""


def make_writable(adata: AnnData) -> dict[Any, str]:
    """Convert annotations that ``.h5ad`` cannot hold, in place, with a warning that names them.

    Columns of dates, intervals, lists, sets and mixed types become text; missing values stay
    missing. Numbers of pandas' and Arrow's types become those of NumPy where a file can hold no
    others. Names of columns and keys become text without ``/``. An index with the name of a column
    loses its name. Functions and objects of other kinds are left out of ``uns`` and ``obsm``.

    Parameters
    ----------
    adata
        Cells × features; ``obs``, ``var``, ``obsm`` and ``uns`` are replaced. Tables, arrays and
        dictionaries that it shares with another object are not changed.

    Returns
    -------
    New names of columns of ``obs`` by their old names, of those that changed.

    Raises
    ------
    ValueError
        If names of cells or features hold characters that no file can.
    """
    notes: list[str] = []
    renamed: dict[Any, str] = {}
    frames = {}
    for where, frame in (("obs", adata.obs), ("var", adata.var)):
        _check_names(frame.index, where)
        names = _keys(frame.columns, where, notes)
        if where == "obs":
            renamed = {o: n for o, n in zip(frame.columns, names, strict=True) if o != n}
        frames[where] = _frame(frame, names, where, notes)
    adata.obs, adata.var = frames["obs"], frames["var"]
    for where in ("obsm", "uns"):
        values = dict(getattr(adata, where))
        names = _keys(values, where, notes)
        kept = {}
        for name, value in zip(names, values.values(), strict=True):
            plain = _plain(value, f"{where}[{name!r}]", notes)
            if plain is not _ABSENT:
                kept[name] = plain
        setattr(adata, where, kept)
    column = adata.uns.get(BATCH_COLUMN_KEY)
    if column in renamed:
        adata.uns[BATCH_COLUMN_KEY] = renamed[column]
    if notes:
        logger.warning(
            "The results differ from the data in what .h5ad cannot hold: %s.", "; ".join(notes)
        )
    return renamed


def _check_names(index: pd.Index, where: str) -> None:
    bad = [name for name in index if _clean(str(name)) != str(name)]
    if bad:
        msg = (
            f"{len(bad)} names in {where}_names hold characters that no file can, such as "
            f"{bad[0]!r}. Rename them first."
        )
        raise ValueError(msg)


def _keys(names: Iterable[Any], where: str, notes: list[str]) -> list[str]:
    """Return names that a file can hold: text without ``/``, each different from the others."""
    found: list[str] = []
    every = list(names)
    for name in every:
        key = _clean(str(name)).replace("/", "|")
        key = {"": "_", ".": "_.", "..": "_..", "_index": "own_index"}.get(key, key)
        while key in found or (key != name and key in every):
            key += "_"
        if key != name:
            notes.append(f"{where}[{name!r}] is {where}[{key!r}]")
        found.append(key)
    return found


def _frame(frame: pd.DataFrame, names: list[str], where: str, notes: list[str]) -> pd.DataFrame:
    columns = [
        _column(frame.iloc[:, i], f"{where}[{name!r}]", notes) for i, name in enumerate(names)
    ]
    made = pd.DataFrame(dict(zip(names, columns, strict=True)), index=frame.index)
    made.index.name = None
    if isinstance(frame.index.name, str) and frame.index.name not in names:
        key = _keys([frame.index.name], f"{where}.index", [])[0]
        made.index.name = key if key == frame.index.name else None
    return made


def _column(column: pd.Series, where: str, notes: list[str]) -> pd.Series:
    dtype = column.dtype
    if isinstance(dtype, pd.SparseDtype):
        return column.sparse.to_dense()
    if isinstance(dtype, pd.CategoricalDtype):
        kinds = dtype.categories.to_series()
        converted = _column(kinds, where, notes)
        if converted is kinds:
            return column
        if converted.is_unique:
            return column.cat.rename_categories(list(converted))
        return column.astype(object).map(_text).astype("category")
    if pd.api.types.is_numeric_dtype(dtype) and not isinstance(dtype, _NOT_IN_FILES):
        return column  # or booleans
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind == "string":
        as_object = column.astype(object)
        clean = as_object.map(_text)
        unchanged = clean.equals(as_object) or (clean.isna() | (clean == as_object)).all()
        if unchanged and not is_object_dtype(dtype):
            return _plain_text(column)
        if unchanged:  # a file holds text, or categories, which may be missing
            return column.astype("category") if column.isna().any() else column
        notes.append(f"{where} is without characters that no file can hold")
        return clean
    if kind == "empty":
        return pd.Series(np.nan, index=column.index)
    exact = {"boolean": "boolean", "integer": "Int64", "floating": "float64"}.get(kind)
    if exact is not None:
        try:
            return column.astype(exact)
        except (TypeError, ValueError, OverflowError):
            pass
    notes.append(f"{where} ({kind}) is text")
    if is_object_dtype(dtype):
        return column.map(_text)
    return column.astype(str).astype(object).where(column.notna())


def _plain_text(column: pd.Series) -> pd.Series:
    """Text of pandas' own type, which older files cannot hold where no value repeats."""
    if column.isna().any() or column.duplicated().any():
        return column.astype(object).astype("category")
    return column.astype(object) if pd.__version__ < "3" else column


def _text(value: Any) -> Any:
    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return np.nan
    if isinstance(value, set | frozenset):
        return _clean("{" + ", ".join(sorted(str(one) for one in value)) + "}")
    if isinstance(value, bytes):
        return _clean(value.decode("utf-8", "backslashreplace"))
    return _clean(str(value))


def _clean(text: str) -> str:
    return text.replace("\x00", "").encode("utf-8", "backslashreplace").decode("utf-8")


def _plain(value: Any, where: str, notes: list[str]) -> Any:
    """Return a value of ``uns`` or ``obsm`` as it can be written, or ``_ABSENT``."""
    if isinstance(value, Mapping):
        names = _keys(value, where, notes)
        parts = {
            name: _plain(part, f"{where}[{name!r}]", notes)
            for name, part in zip(names, value.values(), strict=True)
        }
        return {name: part for name, part in parts.items() if part is not _ABSENT}
    if isinstance(value, pd.DataFrame):
        return _frame(value, _keys(value.columns, where, notes), where, notes)
    if isinstance(value, set | frozenset | tuple | list):
        value = _array(value, where, notes)
    elif isinstance(value, bytes | np.datetime64) or (
        pd.api.types.is_scalar(value)
        and not isinstance(value, str | bool | int | float | complex | np.generic | None)
    ):
        notes.append(f"{where} ({type(value).__name__}) is text")
        value = _text(value)
    if _can_be_written(value):
        return value
    notes.append(f"{where} ({type(value).__name__}) is left out")
    return _ABSENT


def _array(values: Any, where: str, notes: list[str]) -> np.ndarray:
    items = sorted(values, key=str) if isinstance(values, set | frozenset) else list(values)
    numbers = all(isinstance(item, bool | int | float | np.number) for item in items)
    if not items or numbers:
        return np.asarray(items)
    if not all(isinstance(item, str) for item in items):
        notes.append(f"{where} ({type(values).__name__}) is text")
    return np.asarray([str(_text(item)) for item in items], dtype=object)


def _can_be_written(value: Any) -> bool:
    """Try in memory whether anndata can write a value; it can write any matrix of numbers."""
    if sparse.issparse(value) and value.dtype.kind in _NUMBERS:
        return True
    if isinstance(value, np.ndarray) and value.dtype.kind in _NUMBERS:
        return True
    try:
        with h5py.File("in memory", "w", driver="core", backing_store=False) as file:
            write_elem(file, "value", value)
    except Exception:  # of any library below
        return False
    return True
