"""What the scores take: arrays, or an AnnData and keys. Optional packages are imported here."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scalex_scvi._core.columns import as_text, one_column
from scalex_scvi._core.keys import own_keys
from scalex_scvi._core.matrices import check_finite, check_no_mask


def import_extra(module: str) -> Any:
    """Import a module that comes with the extra ``benchmark``, or say how to get it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        msg = (
            f"This score needs {package!r}, which is not installed: "
            "`pip install 'scalex-scvi[benchmark]'`."
        )
        raise ImportError(msg) from error


def representation(adata: AnnData, key: str, *, name: str = "use_rep") -> Any:
    """Return ``obsm[key]``, or the matrix itself for ``"X"``."""
    if key == "X":
        check_no_mask(adata.X, name="adata.X")
        return adata.X
    if key not in adata.obsm:
        msg = f"`{name}` {key!r} is not in adata.obsm: {list(adata.obsm)!r}."
        raise KeyError(msg)
    check_no_mask(adata.obsm[key], name=f"adata.obsm[{key!r}]")
    return adata.obsm[key]


def as_points(values: Any, *, name: str = "representation") -> Any:
    """Return points × dimensions as scikit-learn takes them: CSR, or an array, of finite values."""
    if sparse.issparse(values):
        rows = sparse.csr_matrix(values)
        if not np.isfinite(rows.data).all():
            msg = f"{name} holds values that are NaN or infinite. Leave those cells out."
            raise ValueError(msg)
        return rows
    points = np.asarray(values)
    if points.dtype.kind in "fc":
        check_finite(points, name=name)
    return points


def points_in(adata: AnnData, key: str) -> Any:
    """Return ``obsm[key]``, or the matrix itself for ``"X"``, as :func:`as_points` does."""
    name = "adata.X" if key == "X" else f"adata.obsm[{key!r}]"
    return as_points(representation(adata, key), name=name)


def column(adata: AnnData, key: str, *, name: str) -> np.ndarray:
    """Return a complete column of ``obs``."""
    if key not in adata.obs:
        msg = f"`{name}` {key!r} is not a column of adata.obs: {own_keys(adata.obs)!r}."
        raise KeyError(msg)
    return complete(one_column(adata.obs, key), name=f"adata.obs[{key!r}]")


def complete(groups: npt.ArrayLike, *, name: str) -> np.ndarray:
    """Return one group for each cell, none of them missing."""
    groups = np.asarray(groups)
    if groups.ndim != 1:
        msg = (
            f"{name} must be one column, the group of each cell, such as `adata.obs['batch']`; its "
            f"shape is {groups.shape}."
        )
        raise ValueError(msg)
    n_missing = int(pd.isna(groups).sum())
    if n_missing:
        msg = (
            f"{name} is missing for {n_missing} of {len(groups)} cells. Remove these cells or "
            "give them a value."
        )
        raise ValueError(msg)
    # Text beside numbers cannot be sorted.
    return np.asarray(as_text(groups), dtype=object) if groups.dtype == object else groups


def points_and_groups(
    data: Any,
    groups: npt.ArrayLike | str | None,
    *,
    use_rep: str,
    key: str,
    key_name: str,
    name: str,
    kind: str,
) -> tuple[Any, np.ndarray]:
    """Return points and one group for each, from arrays or from an AnnData and its keys.

    ``name`` and ``key_name`` are the parameters of the array and of the key, ``kind`` what is in
    them, as errors call it.
    """
    if isinstance(data, AnnData):
        points = points_in(data, use_rep)
        if groups is None or isinstance(groups, str):
            return points, column(data, groups or key, name=name if groups else key_name)
    elif groups is None or isinstance(groups, str):
        msg = f"`{name}` is {groups!r}; with an array, give the {kind} of each cell as an array."
        raise ValueError(msg)
    else:
        check_no_mask(data, name="The representation")
        points = as_points(data)
    groups = complete(groups, name=f"`{name}`")
    n_points = points.shape[0]
    if groups.shape != (n_points,):
        msg = f"`{name}` has shape {groups.shape}; with {n_points} cells it must be ({n_points},)."
        raise ValueError(msg)
    return points, groups
