"""The mark of genes that a data set came without, and that were added as zeros."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from .keys import MEASURED_IN_QUERY_KEY, MEASURED_KEY


def measured_genes(var: pd.DataFrame, key: str = MEASURED_KEY) -> np.ndarray | None:
    """Return the mask of the genes that cells came with.

    Parameters
    ----------
    var
        Annotation of the genes.
    key
        Column of the mark.

    Returns
    -------
    ``None`` if nothing is marked: there is no such column, or one of another kind.
    """
    if key not in var or not pd.api.types.is_bool_dtype(var[key]):
        return None
    measured = var[key].astype("boolean").fillna(True).to_numpy(dtype=bool)
    return measured if measured.any() else None


def mark_measured(var: pd.DataFrame, measured: np.ndarray | None, key: str = MEASURED_KEY) -> None:
    """Mark the genes that cells came with, if some are missing, in place.

    Parameters
    ----------
    var
        Annotation of the genes.
    measured
        Mask of them; ``None``: all.
    key
        Column of the mark.
    """
    if measured is not None and not measured.all():
        var[key] = measured


def query_cells(joined: AnnData, is_query: np.ndarray) -> AnnData:
    """Return a query's cells from beside their reference, with the mark of their own genes.

    Parameters
    ----------
    joined
        Cells of both, see :func:`scalex_scvi.SCALEX`.
    is_query
        Mask of the query's cells.
    """
    query = joined[is_query]
    in_query = measured_genes(joined.var, MEASURED_IN_QUERY_KEY)
    if in_query is not None:
        query = query.copy()
        del query.var[MEASURED_IN_QUERY_KEY]
        mark_measured(query.var, in_query)
    return query
