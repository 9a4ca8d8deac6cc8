"""Selection of features: a number of the best, all, or a list."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData

from ._checks import check_unique_genes
from ._profiles import Profile

logger = logging.getLogger(__name__)

Selection: TypeAlias = int | str | Path | Sequence[str] | np.ndarray | pd.Index
"""What ``n_top_features`` may be."""

ALL = -1


def read_selection(n_top_features: Selection) -> int | list[str]:
    """Turn ``n_top_features`` into a number (-1 for all) or a list of names.

    Parameters
    ----------
    n_top_features
        A number, also as a string; -1 for all; a list, array or index of names; or the path of a
        text file with one name a line.

    Raises
    ------
    FileNotFoundError
        If a string is neither a number nor a file.
    TypeError
        For anything else.
    ValueError
        For a number below 1 other than -1, and for an empty list or file.
    """
    given: Any = n_top_features
    if isinstance(given, str | Path):
        given = _read_text(given)
    if isinstance(given, Integral) and not isinstance(given, bool):
        if given != ALL and given < 1:
            msg = f"`n_top_features` must be positive, -1 (all) or a list, got {given!r}."
            raise ValueError(msg)
        return int(given)
    is_array = isinstance(given, np.ndarray | pd.Index | pd.Series)
    if not (isinstance(given, Sequence) or is_array) or np.ndim(given) != 1:
        msg = (
            "`n_top_features` must be a number, -1 (all), a list of names or the path of a file "
            f"with one name a line, got {given!r}."
        )
        raise TypeError(msg)
    names = [str(name) for name in given]
    if not names:
        msg = "`n_top_features` is an empty list. Give names, a number, or -1 for all."
        raise ValueError(msg)
    return names


def _read_text(text: str | Path) -> int | list[str]:
    try:
        return int(str(text))
    except ValueError:
        path = Path(text).expanduser()
    if not path.is_file():
        msg = f"`n_top_features` {str(text)!r} is neither a number nor a file with names."
        raise FileNotFoundError(msg)
    lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    names = [line for line in lines if line]
    if not names:
        msg = f"The file {str(text)!r} (`n_top_features`) holds no names."
        raise ValueError(msg)
    return names


def select_features(
    adata: AnnData,
    selection: int | list[str],
    best: Callable[[int], np.ndarray],
    profile: Profile,
) -> AnnData:
    """Subset to the selected features.

    Parameters
    ----------
    adata
        Cells × features.
    selection
        See :func:`read_selection`. More than there are means all.
    best
        Returns a mask of the given number of best features.
    profile
        The kind of data.
    """
    if isinstance(selection, list):
        return _select_listed(adata, pd.Index(selection), profile)
    if selection == ALL or selection >= adata.n_vars:
        return adata
    mask = best(selection)
    logger.info(
        "Selected %d of %d %s (n_top_features=%d).",
        mask.sum(),
        adata.n_vars,
        profile.features,
        selection,
    )
    return adata[:, mask].copy()


def _select_listed(adata: AnnData, names: pd.Index, profile: Profile) -> AnnData:
    check_unique_genes(names, what="`n_top_features`", profile=profile)
    found = names.isin(adata.var_names)
    missing = list(names[~found])
    if not found.any():
        msg = (
            f"None of the {len(names)} listed {profile.features} is in the data, "
            f"e.g. {missing[:5]!r}."
        )
        raise ValueError(msg)
    if missing:
        logger.warning(
            "%d of %d listed %s are not in the data (after filtering), for example %s.",
            len(missing),
            len(names),
            profile.features,
            missing[:5],
        )
    return adata[:, names[found]].copy()
