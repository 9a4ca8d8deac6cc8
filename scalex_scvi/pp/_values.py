"""What the values of a matrix tell: whether they are counts, logarithms, or neither."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from scipy import sparse

from scalex_scvi._core.blocks import ROWS, blocks_of
from scalex_scvi._core.matrices import is_lazy

from ._profiles import RNA, Profile

logger = logging.getLogger(__name__)

# Counts of a cell whose largest value is so small are unusual; log1p values are never larger
# (log1p of 1e4 is 9.2, of 1e6 is 13.8).
_LARGEST_LOG_VALUE = 20.0


@dataclass(frozen=True)
class ValueSummary:
    """What the checks of a matrix need to know about its non-zero values."""

    n_values: int
    n_not_finite: int
    minimum: float
    maximum: float
    fractional: bool

    @classmethod
    def of(cls, values: np.ndarray) -> ValueSummary:
        """Summarize the stored values of a matrix."""
        if values.dtype.kind not in "f":  # whole numbers have no infinity
            values = values.astype(np.float64)
        finite = np.isfinite(values)
        all_finite = bool(finite.all())
        where: Any = True if all_finite else finite
        return cls(
            n_values=values.size,
            n_not_finite=0 if all_finite else values.size - int(finite.sum()),
            minimum=float(values.min(initial=np.inf, where=where)),
            maximum=float(values.max(initial=-np.inf, where=where)),
            fractional=bool((values != np.rint(values)).any()),
        )

    def merge(self, other: ValueSummary) -> ValueSummary:
        """Summarize two blocks of one matrix."""
        return ValueSummary(
            n_values=self.n_values + other.n_values,
            n_not_finite=self.n_not_finite + other.n_not_finite,
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
            fractional=self.fractional or other.fractional,
        )


def summarize(matrix: Any) -> ValueSummary:
    """Summarize all values of a matrix, wherever it is, in one pass over blocks of rows."""
    if sparse.issparse(matrix):
        return ValueSummary.of(matrix.data)
    if isinstance(matrix, np.ndarray):
        return ValueSummary.of(matrix)
    codes = np.zeros(matrix.shape[0], dtype=np.intp)
    return blocks_of(matrix, codes).fold(_of_block, _merge)


def _of_block(block: Any, codes: np.ndarray) -> ValueSummary:
    return ValueSummary.of(block.data if sparse.issparse(block) else np.asarray(block))


def _merge(parts: Sequence[ValueSummary]) -> ValueSummary:
    return reduce(ValueSummary.merge, parts)


def check_expression(values: ValueSummary, *, name: str) -> None:
    """Raise if there are values that neither counts nor log-normalized values have."""
    if values.n_not_finite:
        msg = (
            f"{name} holds {values.n_not_finite} values that are NaN or infinite. Remove or "
            "replace them."
        )
        raise ValueError(msg)
    if values.minimum < 0:
        msg = (
            f"{name} holds negative values (minimum {values.minimum:.4g}). Values must be "
            "counts, or log-normalized values: not centered, scaled or corrected ones."
        )
        raise ValueError(msg)
    if values.n_values == 0:
        msg = f"{name} holds no value other than zero."
        raise ValueError(msg)


def check_counts(
    values: ValueSummary, declared: bool | None, *, name: str, profile: Profile = RNA
) -> None:
    """Raise if nothing is declared and the values look normalized: never normalize twice unasked.

    Raises
    ------
    ValueError
        If the values look like logarithms, or, where counts are always whole numbers (peaks,
        proteins), not like whole numbers.
    """
    if declared is not None or not values.fractional:
        return
    if values.maximum <= _LARGEST_LOG_VALUE or not profile.fractional_counts:
        msg = (
            f"{name} does not look like counts of {profile.features}: values are not integers and "
            f"the largest is {values.maximum:.3g}. Give counts (see `layer`), or declare what the "
            "values are: `log_normalized=True` to use them as they are, `log_normalized=False` if "
            "they are counts after all."
        )
        raise ValueError(msg)
    logger.warning("%s holds values that are not integers; treated as counts.", name)


def looks_scaled(matrix: Any) -> bool:
    """Whether the first cells have values in [0, 1] that are not just zeros and ones."""
    some = matrix[:ROWS]
    values = summarize(some.compute() if is_lazy(some) else some)
    return values.fractional and 0 <= values.minimum and values.maximum <= 1


def check_unit_interval(matrix: Any, *, name: str) -> None:
    """Raise unless all values are finite and in [0, 1]; reads backed matrices in blocks."""
    if is_lazy(matrix) or matrix.shape[0]:
        values = summarize(matrix)
        if values.n_not_finite or (values.n_values and not _in_unit_interval(values)):
            least = "nan" if values.n_not_finite else f"{values.minimum:.4g}"
            most = "nan" if values.n_not_finite else f"{values.maximum:.4g}"
            msg = (
                f"{name} must lie in [0, 1], but holds values from {least} to "
                f"{most}. Prepare counts with `scalex_scvi.pp.rna`, or scale "
                "log-normalized values with `scalex_scvi.pp.batch_scale`."
            )
            raise ValueError(msg)


def _in_unit_interval(values: ValueSummary) -> bool:
    return 0 <= values.minimum and values.maximum <= 1
