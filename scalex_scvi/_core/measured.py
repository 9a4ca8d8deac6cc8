"""The mark of genes that a data set came without, and that were added as zeros."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .keys import MEASURED_KEY


def measured_genes(var: pd.DataFrame) -> np.ndarray | None:
    """Return the mask of the genes that cells came with.

    Parameters
    ----------
    var
        Annotation of the genes.

    Returns
    -------
    ``None`` if nothing is marked: there is no such column, or one of another kind.
    """
    if MEASURED_KEY not in var or not pd.api.types.is_bool_dtype(var[MEASURED_KEY]):
        return None
    measured = var[MEASURED_KEY].astype("boolean").fillna(True).to_numpy(dtype=bool)
    return measured if measured.any() else None
