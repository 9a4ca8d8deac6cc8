"""Selection of features: a number of the best, all, or a list."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from ._columns import check_unique_genes
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
            "`n_top_features` must be a whole number, -1 (all), a list of names or the path of "
            f"a file with one name a line, got {given!r}."
        )
        raise TypeError(msg)
    check_no_mask_of_genes(given)
    names = [str(name) for name in given]
    if not names:
        msg = "`n_top_features` is an empty list. Give names, a number, or -1 for all."
        raise ValueError(msg)
    return names


def check_no_mask_of_genes(given: Any) -> None:
    """Raise for a column or list of True and False, which would be taken for names."""
    if len(given) and all(isinstance(value, bool | np.bool_) for value in given):
        msg = (
            "`n_top_features` is a mask, which does not name genes. Give their names, "
            "`adata.var_names[mask]`, or 'highly_variable' for adata.var['highly_variable']."
        )
        raise TypeError(msg)


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


def select_listed(
    available: pd.Index, passed: np.ndarray, listed: list[str], profile: Profile
) -> np.ndarray:
    """Return the positions of listed features among those that passed the filter, in their order.

    Parameters
    ----------
    available
        Names of all features.
    passed
        Positions of those that passed the filter.
    listed
        Names, unique.
    profile
        The kind of data.
    """
    names = pd.Index(listed)
    check_unique_genes(names, what="`n_top_features`", profile=profile, in_list=True)
    places = available[passed].astype(str).get_indexer(names)
    missing = list(names[places < 0])
    if len(missing) == len(names):
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
    return passed[places[places >= 0]]
