"""Checks of the input: one clear error before anything is done."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scalex_scvi._core.blocks import block_extremes
from scalex_scvi._core.matrices import is_lazy

from ._profiles import RNA, Profile

logger = logging.getLogger(__name__)

# Counts of a cell whose largest value is so small are unusual; log1p values are never larger
# (log1p of 1e4 is 9.2, of 1e6 is 13.8).
_LARGEST_LOG_VALUE = 20.0


def with_matrix(adata: AnnData, matrix: sparse.csr_matrix, var: pd.DataFrame) -> AnnData:
    """Return a new AnnData with another matrix and features, but the cells of ``adata``.

    Keeps copies of ``obs``, ``obsm`` and ``uns``, less scvi-tools' registration, which belongs to
    the original object.
    """
    own = {key: value for key, value in adata.uns.items() if not key.startswith("_scvi")}
    return AnnData(
        X=matrix,
        obs=adata.obs.copy(),
        var=var.copy(),
        obsm={key: value.copy() for key, value in adata.obsm.items()},
        uns=deepcopy(own),
    )


@dataclass(frozen=True)
class ValueSummary:
    """What the checks of a matrix need to know about its non-zero values."""

    n_values: int
    n_not_finite: int
    minimum: float
    maximum: float
    fractional: bool

    @classmethod
    def of(cls, csr: sparse.csr_matrix) -> ValueSummary:
        """Summarise a matrix."""
        finite = np.isfinite(csr.data)
        return cls(
            n_values=csr.nnz,
            n_not_finite=csr.nnz - int(finite.sum()),
            minimum=float(csr.data.min(initial=np.inf, where=finite)),
            maximum=float(csr.data.max(initial=-np.inf, where=finite)),
            fractional=bool((csr.data % 1 != 0).any()),
        )

    def merge(self, other: ValueSummary) -> ValueSummary:
        """Summarise two blocks of one matrix."""
        return ValueSummary(
            n_values=self.n_values + other.n_values,
            n_not_finite=self.n_not_finite + other.n_not_finite,
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
            fractional=self.fractional or other.fractional,
        )


def check_expression(values: sparse.csr_matrix | ValueSummary, *, name: str) -> None:
    """Raise if there are values that neither counts nor log-normalised values have."""
    if not isinstance(values, ValueSummary):
        values = ValueSummary.of(values)
    if values.n_not_finite:
        msg = (
            f"{name} holds {values.n_not_finite} values that are NaN or infinite. Remove or "
            "replace them."
        )
        raise ValueError(msg)
    if values.minimum < 0:
        msg = (
            f"{name} holds negative values (minimum {values.minimum:.4g}). Values must be "
            "counts, or log-normalised values: not centred, scaled or corrected ones."
        )
        raise ValueError(msg)
    if values.n_values == 0:
        msg = f"{name} holds no value other than zero."
        raise ValueError(msg)


def looks_log_normalised(values: ValueSummary) -> bool:
    """Whether the values are not integers, and too small to be anything but logarithms."""
    return values.maximum <= _LARGEST_LOG_VALUE and values.fractional


def decide_log_normalised(
    values: sparse.csr_matrix | ValueSummary,
    declared: bool | None,
    *,
    name: str,
    profile: Profile = RNA,
) -> bool:
    """Settle whether the values are normalised already; never normalise twice unasked.

    Raises
    ------
    ValueError
        When nothing is declared and the values look normalised: like logarithms, or, where counts
        are always whole numbers (peaks, proteins), not like whole numbers.
    """
    if declared is not None:
        return declared
    if not isinstance(values, ValueSummary):
        values = ValueSummary.of(values)
    if not values.fractional:
        return False
    if looks_log_normalised(values) or not profile.fractional_counts:
        msg = (
            f"{name} does not look like counts of {profile.features}: values are not integers and "
            f"the largest is {values.maximum:.3g}. Give counts (see `layer`), or declare what the "
            "values are: `log_normalized=True` to use them as they are, `log_normalized=False` if "
            "they are counts after all."
        )
        raise ValueError(msg)
    logger.warning("%s holds values that are not integers; treated as counts.", name)
    return False


def check_unit_interval(matrix: Any, *, name: str) -> None:
    """Raise unless all values are finite and in [0, 1]; reads backed matrices in chunks."""
    for values in _value_chunks(matrix):
        if values.size and not (values.min() >= 0 and values.max() <= 1):  # also false for NaN
            msg = (
                f"{name} must lie in [0, 1], but holds values from {np.min(values):.4g} to "
                f"{np.max(values):.4g}. Prepare counts with `scalex_scvi.pp.rna`, or scale "
                "log-normalised values with `scalex_scvi.pp.batch_scale`."
            )
            raise ValueError(msg)


def _value_chunks(matrix: Any, n_rows: int = 4096) -> Iterator[np.ndarray]:
    if sparse.issparse(matrix):
        yield matrix.data
        return
    if isinstance(matrix, np.ndarray):
        yield matrix
        return
    if is_lazy(matrix):
        yield block_extremes(matrix)
        return
    for start in range(0, matrix.shape[0], n_rows):
        chunk = matrix[start : start + n_rows]
        yield chunk.data if sparse.issparse(chunk) else np.asarray(chunk)


def check_unique_genes(names: pd.Index, *, what: str, profile: Profile = RNA) -> None:
    """Raise if names of genes (or peaks, proteins) repeat."""
    if not names.is_unique:
        repeated = list(names[names.duplicated()].unique())
        msg = (
            f"{len(repeated)} {profile.feature} names of {what} occur more than once, for example "
            f"{repeated[:5]!r}. Run `adata.var_names_make_unique()`, or sum them."
        )
        raise ValueError(msg)
