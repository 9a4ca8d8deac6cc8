"""The configuration file of the published package, read without executing anything it names.

The file is a pickle: a dictionary of plain types and one :class:`pandas.Index` of genes, which
pandas 1 and 2 store as a numpy array of objects, pandas 3 as an array of strings of its own or of
Arrow. :func:`torch.load` with ``weights_only=True`` resolves no name that it was not given, and it
is given stand-ins that keep the strings: neither pandas, numpy nor pyarrow code is run, and their
versions do not matter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class PublishedConfig:
    """What ``config.pt`` holds: genes, layers of encoder and decoder, number of batches."""

    genes: list[str]
    encoder: list[list[Any]]
    decoder: list[list[Any]]
    n_batch: int


def read_config(path: Path) -> PublishedConfig:
    """Read ``config.pt``.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    ValueError
        If the file names anything else than a configuration does (which is not executed), or
        does not hold one.
    """
    content = load_restricted(path, _STAND_INS)
    try:
        genes = content["n_top_features"]
        config = PublishedConfig(
            genes=[
                _string(gene) for gene in (genes.values if isinstance(genes, _Array) else genes)
            ],
            encoder=[list(layer) for layer in content["enc"]],
            decoder=[list(layer) for layer in content["dec"]],
            n_batch=int(content["n_domain"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        msg = (
            f"{str(path)!r} is not a configuration of the published package, with "
            f"'n_top_features', 'enc', 'dec' and 'n_domain': {error!r}."
        )
        raise ValueError(msg) from error
    return config


def load_restricted(path: Path, stand_ins: Sequence[tuple[Callable[..., Any], str]] = ()) -> Any:
    """:func:`torch.load` that executes nothing but ``stand_ins``, each given with the name it has.

    Raises
    ------
    ValueError
        If the file names something else, or cannot be read.
    """
    try:
        with torch.serialization.safe_globals(list(stand_ins)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file may trip anything
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named is None:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            if isinstance(error, KeyError):
                reason = repr(error)
            elif "weights_only" in reason:  # torch advises to execute what the file asks for
                reason = "it holds more than tensors and plain types"
            msg = f"{str(path)!r} cannot be read, or is damaged: {reason}"
        else:
            msg = (
                f"{str(path)!r} is refused: it names {named[1]!r}, which no file of the published "
                "package does. Nothing of it was executed."
            )
        raise ValueError(msg) from None


def _string(value: Any) -> str:
    if not isinstance(value, str):
        msg = f"a gene name is {value!r}"
        raise TypeError(msg)
    return value


class _Array:
    """Stand-in for arrays of strings: keeps them as a list."""

    values: Sequence[Any] = ()

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):  # pandas' ArrowStringArray
            self.values = state["_pa_array"]
        elif len(state) == 5:  # numpy: version, shape, dtype, is_fortran, values
            self.values = state[4]
        else:  # pandas' StringArray: dtype and numpy array, in an order that varies
            (array,) = (part for part in state if isinstance(part, _Array))
            self.values = array.values


class _Ignored:
    """Stand-in for what describes an array: its content is not needed."""

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _empty_array(*args: Any) -> _Array:
    return _Array()


def _index(kind: Any, content: dict[str, Any]) -> Sequence[Any]:
    data = content["data"]
    return data.values if isinstance(data, _Array) else data


def _same(value: Any) -> Any:
    return value


def _arrow_strings(parts: tuple[Any, ...]) -> list[str]:
    """Strings from Arrow's layout: one buffer of offsets, one of characters."""
    kind, length, _, first, (_, offsets, characters), *_ = parts
    width = {"string": np.int32, "large_string": np.int64}[kind]
    ends = np.frombuffer(offsets, dtype=width)[first : first + length + 1].tolist()
    return [characters[start:end].decode() for start, end in pairwise(ends)]


# Names in files of pandas 1 to 3, numpy 1 and 2, with and without Arrow.
_STAND_INS: list[tuple[Callable[..., Any], str]] = [
    (_Ignored, "pandas.Index"),
    (_Ignored, "pandas.core.indexes.base.Index"),
    (_index, "pandas.core.indexes.base._new_Index"),
    (_Ignored, "numpy.ndarray"),
    (_Ignored, "numpy.dtype"),
    (_empty_array, "numpy.core.multiarray._reconstruct"),
    (_empty_array, "numpy._core.multiarray._reconstruct"),
    (_Array, "pandas.arrays.StringArray"),
    (_Array, "pandas.core.arrays.string_.StringArray"),
    (_empty_array, "pandas._libs.arrays.__pyx_unpickle_NDArrayBacked"),
    (_Ignored, "pandas.StringDtype"),
    (_Ignored, "pandas.core.arrays.string_.StringDtype"),
    (_Ignored, "pandas._libs.missing.NA"),
    (_Array, "pandas.arrays.ArrowStringArray"),
    (_Array, "pandas.core.arrays.string_arrow.ArrowStringArray"),
    (_arrow_strings, "pyarrow.lib._restore_array"),
    (_same, "pyarrow.lib.type_for_alias"),
    (_same, "pyarrow.lib.py_buffer"),
]
