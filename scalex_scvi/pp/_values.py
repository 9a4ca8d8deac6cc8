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
from scalex_scvi._core.reading import reading

from ._profiles import RNA, Profile, get_profile

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
    """Summarize all values of a matrix, wherever it is, in one pass over blocks of rows.

    Parameters
    ----------
    matrix
        Cells × features: dense or sparse, in memory, of a backed AnnData, of a store or of dask.

    Returns
    -------
    Number of stored values (``n_values``) and of those that are NaN or infinite
    (``n_not_finite``), smallest and largest of the others (``minimum``, ``maximum``), and whether
    any is no whole number (``fractional``).
    """
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
            "counts, or log-normalized values: not centered, scaled or corrected ones. Give "
            "those from before, for example `layer='counts'`, or `layer='raw'`."
        )
        raise ValueError(msg)
    if values.n_values == 0:
        msg = f"{name} holds no value other than zero."
        raise ValueError(msg)


def report_empty_cells(n_empty: int, shape: tuple[int, int], profile: str) -> None:
    """Warn of cells without any selected feature."""
    if n_empty:
        logger.warning(
            "%d of %d cells have none of the %d selected %s; their values are all zero.",
            n_empty,
            *shape,
            get_profile(profile).features,
        )


@dataclass(frozen=True)
class BatchValues:
    """What the values of each batch tell, in the order of the batches' codes.

    Attributes
    ----------
    maximum
        The largest value, 0 for a batch without any.
    fractional
        Whether there are values that are not whole numbers.
    """

    maximum: np.ndarray
    fractional: np.ndarray

    @classmethod
    def of(cls, csr: sparse.csr_matrix, codes: np.ndarray) -> BatchValues:
        """Look at a block of cells and their batches."""
        largest = np.zeros(csr.shape[0], dtype=csr.dtype)
        fractional = np.zeros(csr.shape[0], dtype=bool)
        filled = np.diff(csr.indptr) > 0
        starts = csr.indptr[:-1][filled]
        if len(starts):
            largest[filled] = np.maximum.reduceat(csr.data, starts)
            fractional[filled] = np.logical_or.reduceat(csr.data != np.rint(csr.data), starts)
        return cls.of_cells(largest, fractional, codes)

    @classmethod
    def of_cells(
        cls, largest: np.ndarray, fractional: np.ndarray, codes: np.ndarray
    ) -> BatchValues:
        """Put together what is known of each cell, and their batches."""
        n_batches = int(codes.max(initial=-1)) + 1
        maximum, any_fractional = np.zeros(n_batches), np.zeros(n_batches, dtype=bool)
        np.maximum.at(maximum, codes, largest)
        any_fractional[codes[fractional]] = True
        return cls(maximum, any_fractional)

    def merge(self, other: BatchValues) -> BatchValues:
        """Put two blocks of one matrix together."""
        n_batches = max(len(self.maximum), len(other.maximum))
        both = [
            BatchValues(_padded(part.maximum, n_batches), _padded(part.fractional, n_batches))
            for part in (self, other)
        ]
        return BatchValues(
            np.maximum(both[0].maximum, both[1].maximum), both[0].fractional | both[1].fractional
        )


def _padded(array: np.ndarray, length: int) -> np.ndarray:
    return np.pad(array, (0, length - len(array)))


def check_counts(
    values: BatchValues,
    declared: bool | None,
    *,
    name: str,
    batch_names: Sequence[str],
    profile: Profile = RNA,
    strict: bool = False,
) -> None:
    """Raise if values are not what they are taken for: never normalize twice, or never, unasked.

    Each batch is looked at by itself: one source of counts may hide another of logarithms.

    Parameters
    ----------
    values
        Of each batch.
    declared
        Whether they are normalized already; ``None``: nothing is declared.
    name
        What to call the matrix in messages.
    batch_names
        Names of the batches.
    profile
        Kind of data.
    strict
        Whether counts that are declared to be normalized are an error, not a warning.

    Raises
    ------
    ValueError
        If nothing is declared and the values of a batch look like logarithms, or, where counts
        are always whole numbers (peaks, proteins), are not whole numbers; if normalized values are
        declared, and the values of a batch are counts where those of others are not.
    """
    empty = values.maximum == 0
    if empty.any():
        logger.warning(
            "%s holds no value other than zero in the batches %s.", name, _some(batch_names, empty)
        )
    normalized = values.fractional.copy()
    if profile.fractional_counts:
        normalized &= values.maximum <= _LARGEST_LOG_VALUE
    counts = (values.maximum > 1) & ~values.fractional
    if declared:
        _check_no_counts(values, counts, batch_names, name=name, strict=strict)
        return
    if declared is None and normalized.any():
        others = (values.maximum > 0) & ~normalized
        largest = values.maximum[normalized].max()
        what = f"{name} does not look like counts of {profile.features}"
        if others.any():
            what += (
                f" in the batches {_some(batch_names, normalized)}, while it does in "
                f"{_some(batch_names, others)}"
            )
            advice = "Give counts of all batches (see `layer`)"
        else:
            advice = "Give counts (see `layer`)"
        msg = (
            f"{what}: values are not integers and the largest is {largest:.3g}. {advice}, or "
            "declare what the values are: `log_normalized=True` to use them as they are, "
            "`log_normalized=False` if they are counts after all."
        )
        raise ValueError(msg)
    if declared is None and values.fractional.any():
        logger.warning(
            "%s holds values that are not integers; treated as counts, which is right for "
            "estimated ones (RSEM, salmon) and wrong for values that were normalized.",
            name,
        )


def _check_no_counts(
    values: BatchValues, counts: np.ndarray, batch_names: Sequence[str], *, name: str, strict: bool
) -> None:
    if not counts.any():
        return
    msg = (
        f"{name} is declared to be normalized, but in the batches {_some(batch_names, counts)} all "
        f"values are whole numbers (up to {values.maximum[counts].max():.3g}), as counts are. "
    )
    leave_out = "leave the declaration (`log_normalized`, `processed`) out to have them normalized"
    if strict or values.fractional.any():
        msg += f"Give normalized values of all batches, or counts of all: {leave_out}."
        raise ValueError(msg)
    logger.warning("%sThey are used as they are: %s.", msg, leave_out)


def _some(names: Sequence[str], chosen: np.ndarray) -> list[str]:
    return [names[code] for code in np.flatnonzero(chosen)[:5]]


def looks_scaled(matrix: Any) -> bool:
    """Whether the first 4096 cells have values in [0, 1] that are not just zeros and ones.

    Parameters
    ----------
    matrix
        See :func:`summarize`.
    """
    with reading(matrix):
        some = matrix[:ROWS]
    values = summarize(some.compute() if is_lazy(some) else some)
    return values.fractional and 0 <= values.minimum and values.maximum <= 1


def check_unit_interval(matrix: Any, *, name: str) -> None:
    """Raise unless all values are finite and in [0, 1]; reads backed matrices in blocks.

    Parameters
    ----------
    matrix
        See :func:`summarize`.
    name
        What to call it in the message.

    Raises
    ------
    ValueError
        With the smallest and the largest value.
    """
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
