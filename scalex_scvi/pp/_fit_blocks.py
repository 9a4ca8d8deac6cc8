"""Statistics of one block of cells for a fit, and how those of several blocks are merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np
from scipy import sparse

from scalex_scvi._core.matrices import to_csr

from ._columns import Columns
from ._many import CellTally, RunningMoments, narrow, pick_divided, tally_cells, worth_compiling
from ._normalize import row_divisor, totals
from ._profiles import ADT, ATAC, RNA
from ._sums import BatchMoments, block_moments, merge_moments
from ._transform import normalized
from ._values import BatchValues, ValueSummary

_ROWS_AT_ONCE = 256
"""Cells that compiled loops take through all steps: their values stay near the processor, and
memory of this size is not asked of the system anew each time."""


@dataclass(frozen=True)
class Tally:
    """Statistics of the values before normalization, from one pass."""

    values: ValueSummary
    by_batch: BatchValues
    detected: np.ndarray
    n_cells: np.ndarray
    """Of each feature, among the cells that pass the filter."""

    def merge(self, other: Tally) -> Tally:
        """Put two blocks of one matrix together."""
        return Tally(
            self.values.merge(other.values),
            self.by_batch.merge(other.by_batch),
            np.concatenate([self.detected, other.detected]),
            self.n_cells + other.n_cells,
        )


@dataclass(frozen=True)
class How:
    """Options of a fit that the work on a block needs; sent to workers with the blocks.

    Attributes
    ----------
    min_features
        Detected features that a cell must have to pass the filter.
    over
        The features that a cell is normalized over.
    profile, target_sum, log1p, log_normalized
        See :class:`scalex_scvi.pp.Preprocessing`.
    own
        The features of the profile's type, among which the detected are counted.
    """

    min_features: int
    over: Columns
    profile: str
    target_sum: float | None
    log1p: bool
    log_normalized: bool
    own: Columns

    @property
    def total(self) -> float:
        """What the total of a cell is brought to."""
        return 1e4 if self.target_sum is None else self.target_sum

    @property
    def logarithms(self) -> bool:
        """Whether sums are taken of what values are the logarithms of."""
        return self.profile == RNA.name or (self.profile == ATAC.name and self.log1p)

    def look_at(self, block: Any, codes: np.ndarray) -> _Cells | _ManyCells:
        """Return a block, to ask it what it holds; its values are not changed."""
        if self.profile != ADT.name and worth_compiling(block):
            return _ManyCells(narrow(block), codes, self)
        return _Cells(to_csr(block, name="The matrix"), codes, self)


@dataclass(frozen=True)
class _Cells:
    """Cells of a block, as a copy of our own."""

    everything: sparse.csr_matrix
    batches: np.ndarray
    how: How

    @cached_property
    def detected(self) -> np.ndarray:
        return self.how.own.pick(self.everything).getnnz(axis=1)

    @cached_property
    def kept(self) -> tuple[sparse.csr_matrix, np.ndarray]:
        """Those that pass the filter, and their batches."""
        rows = self.detected >= self.how.min_features
        if rows.all():
            return self.everything, self.batches
        return self.everything[rows], self.batches[rows]

    def tally(self) -> Tally:
        csr, _ = self.kept
        return Tally(
            ValueSummary.of(self.everything.data),
            BatchValues.of(self.everything, self.batches),
            self.detected,
            np.bincount(csr.indices, minlength=csr.shape[1]),
        )

    def totals(self) -> np.ndarray:
        return totals(self.how.over.pick(self.kept[0]))

    def moments(self) -> BatchMoments:
        """Add up normalized values. The last thing to ask for: counts may be overwritten."""
        how, (csr, codes) = self.how, self.kept
        values = how.over.pick(csr)
        if not how.log_normalized:
            values = normalized(values, how.profile, how.total, how.log1p, how.over.n_wanted)
        return block_moments(values, codes, logarithms=how.logarithms)


@dataclass(frozen=True)
class _ManyCells:
    """The same by compiled loops, of RNA or peaks; nothing is changed."""

    csr: sparse.csr_matrix
    codes: np.ndarray
    how: How

    @cached_property
    def _found(self) -> CellTally:
        how = self.how
        return tally_cells(self.csr, self.codes, how.own, how.over, how.min_features)

    @cached_property
    def _rows(self) -> np.ndarray:
        return np.flatnonzero(self._found.detected >= self.how.min_features)

    def tally(self) -> Tally:
        found = self._found
        return Tally(found.values, found.by_batch, found.detected, found.n_cells)

    def totals(self) -> np.ndarray:
        return self._found.total[self._rows]

    def moments(self) -> BatchMoments:
        how, rows = self.how, self._rows
        divisor = np.ones(len(rows), dtype=np.float32)
        if not how.log_normalized:
            divisor = row_divisor(self.totals(), how.total)
        sums = RunningMoments(self.codes[rows], how.over.n_wanted)
        n_values = np.diff(self.csr.indptr)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[start : start + _ROWS_AT_ONCE]
            by = divisor[start : start + _ROWS_AT_ONCE]
            values = pick_divided(self.csr, some, how.over, by, n_values[some].sum())
            if how.log1p and not how.log_normalized:
                np.log1p(values.data, out=values.data)
            sums.add(values, self.codes[some], logarithms=how.logarithms)
        return sums.moments()


def tally_values(block: Any, codes: np.ndarray, how: How) -> Tally:
    """Look at the values of a block as they come."""
    return how.look_at(block, codes).tally()


def add_up_values(block: Any, codes: np.ndarray, how: How) -> BatchMoments:
    """Add up the normalized values of a block."""
    return how.look_at(block, codes).moments()


def tally_and_add_up(block: Any, codes: np.ndarray, how: How) -> tuple[Tally, BatchMoments]:
    """Do both, in this order: cells are normalized in place."""
    cells = how.look_at(block, codes)
    with np.errstate(all="ignore"):  # values are judged when all of them are known
        return cells.tally(), cells.moments()


def totals_in_list(block: Any, codes: np.ndarray, how: How) -> list[np.ndarray]:
    """Add up the counts of each cell of a block."""
    return [how.look_at(block, codes).totals()]


def join_lists(parts: Sequence[list[np.ndarray]]) -> list[np.ndarray]:
    """Put lists of several blocks together."""
    return [array for part in parts for array in part]


def merge_tallies(parts: Sequence[Tally]) -> Tally:
    """Put several blocks together."""
    return reduce(Tally.merge, parts)


def merge_both(parts: Sequence[tuple[Tally, BatchMoments]]) -> tuple[Tally, BatchMoments]:
    """Put what :func:`tally_and_add_up` finds in several blocks together."""
    tallies, sums = zip(*parts, strict=True)
    return merge_tallies(tallies), merge_moments(sums)
