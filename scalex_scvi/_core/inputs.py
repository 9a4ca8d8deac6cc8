"""Checks that an argument is an AnnData, with advice for other types."""

from __future__ import annotations

from typing import Any

import pandas as pd
from anndata import AnnData

_WAYS_OUT = {
    "MuData": (
        "Give one modality, `mdata['rna']` for example, or set up a model by "
        "`SCALEXModel.setup_mudata`."
    ),
    "SpatialData": "Give its table, `sdata.tables['table']` for example.",
    "DataFrame": "Make it one: `AnnData(frame)`, with cells in rows, and its `obs`.",
    "ndarray": "Make it one: `AnnData(array, obs=..., var=...)`.",
    "dict": "Give its values one by one, or as a list: `list(data.values())`.",
    "list": "Put several together first: `scalex_scvi.io.read(sources)`.",
    "str": "Read the file first: `scalex_scvi.io.read(path)`.",
    "PurePath": "Read the file first: `scalex_scvi.io.read(path)`.",
}


def way_out(value: Any) -> str:
    """Return how to make an AnnData of another type; empty if there is no advice."""
    kinds = [kind.__name__ for kind in type(value).__mro__]
    return next((_WAYS_OUT[kind] for kind in kinds if kind in _WAYS_OUT), "")


def check_adata(
    value: Any, *, name: str = "adata", lazy_obs: bool = False, is_filled: bool = False
) -> None:
    """Raise unless ``value`` is an AnnData whose ``obs`` is in memory.

    Parameters
    ----------
    value
        What was given.
    name
        The parameter.
    lazy_obs
        Whether ``obs`` may be on disk.
    is_filled
        Whether results are added to it, which a view of another AnnData does not take.

    Raises
    ------
    TypeError
        With what was given and how to make cells of it.
    ValueError
        For a view, where results are added.
    """
    if not isinstance(value, AnnData):
        msg = f"`{name}` is a {type(value).__name__!r}; allowed is an AnnData. {way_out(value)}"
        raise TypeError(msg.strip())
    if not lazy_obs and not isinstance(value.obs, pd.DataFrame):
        msg = (
            f"`{name}` was read lazily, obs and all (anndata.experimental.read_lazy). Read it by "
            "`scalex_scvi.io.read_lazy(path)`, which leaves the matrix alone on disk, or call "
            "`adata.to_memory()`."
        )
        raise TypeError(msg)
    if is_filled and value.is_view:
        msg = (
            f"`{name}` is a view of another AnnData, such as `adata[cells]` returns: results "
            f"cannot be added to it. Copy it first: `{name} = {name}.copy()`."
        )
        raise ValueError(msg)
