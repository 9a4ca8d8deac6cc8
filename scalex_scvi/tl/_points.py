"""A representation of cells in ``obsm``, checked."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse

from scalex_scvi._core.matrices import check_finite, check_no_mask, check_numbers


def points_of(adata: AnnData, use_rep: str, which: str) -> np.ndarray:
    """Return ``adata.obsm[use_rep]`` as an array, cells × dimensions, checked.

    Parameters
    ----------
    adata
        Cells.
    use_rep
        Key in ``obsm``.
    which
        What to call the cells in messages.

    Raises
    ------
    KeyError
        If there is no such key.
    TypeError
        For a sparse matrix, a masked array, or no numbers.
    ValueError
        For values that are NaN or infinite.
    """
    if use_rep not in adata.obsm:
        msg = (
            f"`use_rep` {use_rep!r} is not in {which}.obsm: {list(adata.obsm)!r}. Name "
            "one that is there, or add it first: integrate and map_query add 'X_scalex'."
        )
        raise KeyError(msg)
    return as_points(adata.obsm[use_rep], name=f"{which}.obsm[{use_rep!r}]")


def as_points(values: Any, *, name: str) -> np.ndarray:
    """Return an array of finite numbers, cells × dimensions; see :func:`points_of`."""
    if sparse.issparse(values):
        msg = f"{name} is a sparse matrix; allowed is a dense array: `{name}.toarray()`."
        raise TypeError(msg)
    check_no_mask(values, name=name)
    points = np.asarray(values)
    check_numbers(points, name=name)
    check_finite(points, name=name)
    return points
