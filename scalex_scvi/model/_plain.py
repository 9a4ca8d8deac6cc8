"""Model state as tensors and plain types, so that a file can be read without running its code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

_ARRAY, _FRAME, _TUPLE = "__array__", "__frame__", "__tuple__"


def to_plain(value: Any, *, name: str) -> Any:
    """Turn nested containers, arrays and data frames into tensors and plain Python types.

    Parameters
    ----------
    value
        What to store.
    name
        What to call it in a message.

    Raises
    ------
    TypeError
        For anything that cannot be stored as plain types.
    """
    if isinstance(value, str):
        return str(value)  # not a class of its own, which no file would be read with
    if isinstance(value, np.generic):  # before floats, of which numpy's are a subclass
        return value.item()
    if value is None or isinstance(value, bool | int | float | torch.Tensor):
        return value
    if isinstance(value, Mapping):
        return {
            to_plain(key, name=name): to_plain(item, name=f"{name}[{key!r}]")
            for key, item in value.items()
        }
    if isinstance(value, tuple):
        return {_TUPLE: [to_plain(item, name=name) for item in value]}
    if isinstance(value, list):
        return [to_plain(item, name=name) for item in value]
    if isinstance(value, np.ndarray):
        return {_ARRAY: _array_to_plain(value, name)}
    if isinstance(value, pd.DataFrame):
        columns = [_array_to_plain(value[column].to_numpy(), name) for column in value]
        axes = {"index": list(value.index), "columns": list(value.columns)}
        return {_FRAME: columns, "name": value.index.name} | to_plain(axes, name=name)
    msg = f"{name} is a {type(value).__name__!r}, which cannot be saved as plain types."
    raise TypeError(msg)


def _array_to_plain(array: np.ndarray, name: str) -> Any:
    if array.dtype.kind in "biuf":
        return torch.from_numpy(array.copy())  # pandas 3 lends read-only memory
    return [to_plain(item, name=name) for item in array.tolist()]


def from_plain(value: Any) -> Any:
    """Undo :func:`to_plain`."""
    if isinstance(value, list):
        return [from_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    if _ARRAY in value:
        return _array_from_plain(value[_ARRAY])
    if _TUPLE in value:
        return tuple(from_plain(item) for item in value[_TUPLE])
    if _FRAME in value:
        columns = dict(enumerate(_array_from_plain(column) for column in value[_FRAME]))
        frame = pd.DataFrame(columns, index=pd.Index(value["index"], name=value["name"]))
        return frame.set_axis(pd.Index(value["columns"]), axis=1)
    return {key: from_plain(item) for key, item in value.items()}


def _array_from_plain(stored: torch.Tensor | list[Any]) -> np.ndarray:
    if isinstance(stored, torch.Tensor):
        return stored.numpy()
    array = np.empty(len(stored), dtype=object)
    array[:] = stored
    return array
