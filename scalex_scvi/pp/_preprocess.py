"""One entry for all kinds of data."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from anndata import AnnData

from ._adt import adt
from ._atac import atac
from ._profiles import ADT, ATAC, RNA, get_profile
from ._rna import rna
from ._select import Selection

_FUNCTIONS: dict[str, Callable[..., AnnData]] = {RNA.name: rna, ATAC.name: atac, ADT.name: adt}


def preprocess(
    adata: AnnData,
    profile: str = "RNA",
    *,
    batch_key: str | None = None,
    layer: str | None = None,
    min_features: int | None = None,
    min_cells: int | None = None,
    target_sum: float | None = None,
    n_top_features: Selection | None = None,
    **more: Any,
) -> AnnData:
    """Prepare counts for integration, as the kind of data needs it.

    ``None`` means the profile's own default:

    ======================  ======  ======  ====
    ..                      RNA     ATAC    ADT
    ======================  ======  ======  ====
    ``min_features``        600     100     0
    ``min_cells``           3       3       1
    ``target_sum``          1e4     1e4     not taken
    ``n_top_features``      2000    30 000  -1 (all)
    ======================  ======  ======  ====

    Parameters
    ----------
    adata
        Cells × genes (peaks, proteins), counts. It is not changed.
    profile
        ``"RNA"`` (:func:`rna`), ``"ATAC"`` (:func:`atac`) or ``"ADT"`` (:func:`adt`), upper or
        lower case.
    batch_key
        Column of ``adata.obs`` with the batches; ``None``: all cells are one batch.
    layer
        Layer with the counts, instead of ``adata.X``.
    min_features
        Cells with fewer detected features are removed.
    min_cells
        Features detected in fewer cells are removed.
    target_sum
        Total of a cell after normalisation. For the median call :func:`rna` or :func:`atac`.
    n_top_features
        Number of features to select, -1 for all, a list of names, or the path of a text file with
        one name a line. More than there are means all.
    **more
        Further arguments of the profile's function: ``scale_by``, ``log_normalized``, for RNA
        ``dropped_prefixes`` and for ATAC ``log1p``.

    Returns
    -------
    What the profile's function returns.

    Raises
    ------
    KeyError, TypeError, ValueError, FileNotFoundError
        As the profile's function; also for an unknown profile, or an argument that it does not
        take.
    """
    name = get_profile(profile).name
    options = {
        "batch_key": batch_key,
        "layer": layer,
        "min_features": min_features,
        "min_cells": min_cells,
        "target_sum": target_sum,
        "n_top_features": n_top_features,
    }
    given = {key: value for key, value in options.items() if value is not None} | more
    allowed = list(inspect.signature(_FUNCTIONS[name]).parameters)[1:]
    unknown = [key for key in given if key not in allowed]
    if unknown:
        msg = f"`profile` {name!r} takes no {unknown!r}; allowed are {allowed!r}."
        raise TypeError(msg)
    return _FUNCTIONS[name](adata, **given)
