"""A representation of cells in ``obsm``, checked."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from scipy import sparse

from scalex_scvi._core.matrices import check_no_mask


def points_of(adata: AnnData, use_rep: str, which: str) -> np.ndarray:
    """Return ``adata.obsm[use_rep]`` as an array, cells × dimensions.

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
        For a sparse matrix or a masked array.
    ValueError
        For values that are NaN or infinite.
    """
    if use_rep not in adata.obsm:
        msg = (
            f"`use_rep` {use_rep!r} is not in {which}.obsm: {list(adata.obsm)!r}. Name a "
            "representation that is there."
        )
        raise KeyError(msg)
    name, values = f"{which}.obsm[{use_rep!r}]", adata.obsm[use_rep]
    if sparse.issparse(values):
        msg = f"{name} is a sparse matrix; allowed is a dense array: `{name}.toarray()`."
        raise TypeError(msg)
    check_no_mask(values, name=name)
    points = np.asarray(values)
    if not np.isfinite(points).all():
        msg = f"{name} holds values that are NaN or infinite. Leave those cells out."
        raise ValueError(msg)
    return points
