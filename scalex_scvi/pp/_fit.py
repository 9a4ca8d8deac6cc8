"""Fitting the transform: one pass over blocks of counts, from totals to genes and scale.

RNA is fitted in one pass, since it is known beforehand which genes a cell is normalized over.
Peaks and proteins take two: those that are normalized over are found in the first. The median as
``target_sum`` takes one more.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, get_args

import numpy as np
import pandas as pd

from scalex_scvi._core.blocks import Blocks
from scalex_scvi._core.feature_types import OWN, none_left, own_features
from scalex_scvi._core.feature_types import left_out as describe_left_out
from scalex_scvi._core.gene_names import are_ids
from scalex_scvi._core.ranges import check_whole

from ._columns import Columns, check_unique_genes
from ._filter import rich_enough
from ._fit_blocks import (
    How,
    Tally,
    add_up_values,
    join_lists,
    merge_both,
    merge_tallies,
    tally_and_add_up,
    tally_values,
    totals_in_list,
)
from ._normalize import check_target_sum
from ._preparation import NewBatches, Preparation
from ._profiles import ADT, ATAC, RNA, Profile, get_profile
from ._record import Preprocessing
from ._select import ALL, read_selection, select_listed
from ._sums import BatchMoments, merge_moments, rank_genes
from ._symbols import starts_with, symbols
from ._values import check_counts, check_expression

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """What fitting finds.

    Attributes
    ----------
    record
        The transform, with the scale of the batches.
    detected
        Number of detected features of each cell, filtered out or not.
    kept
        Mask of the cells that pass the filter.
    passed
        Positions of the features that pass the filter.
    selected
        Positions of the selected ones, in the order of the record.
    over
        The features that a cell is normalized over.
    columns
        What is known of the features that passed, as columns of ``var``.
    """

    record: Preprocessing
    detected: np.ndarray
    kept: np.ndarray
    passed: np.ndarray
    selected: np.ndarray
    over: Columns
    columns: pd.DataFrame = field(compare=False)

    @property
    def record_with_panel(self) -> Preprocessing:
        """The record that normalizes any cell over the features of these cells and no others.

        A query may have measured more than the reference, and its totals are to mean the same.
        """
        if self.record.log_normalized:
            return self.record
        return replace(self.record, panel=self.record.normalized_over)


def fit(
    blocks: Blocks,
    var: pd.DataFrame,
    batch_names: Sequence[str],
    preparation: Preparation,
    *,
    name: str = "adata.X",
    batch_key: str | None = None,
) -> Fit:
    """Fit the transform to counts.

    Parameters
    ----------
    blocks
        Cells × features, counts, with the batch of each cell.
    var
        Annotation of the features.
    batch_names
        Names of the batches.
    preparation
        What is to be done.
    name
        What to call the matrix in messages.
    batch_key
        Column of ``obs`` with the batches, for the record.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        See :func:`scalex_scvi.pp.rna`.
    """
    profile = get_profile(preparation.profile)
    options = profile.complete(preparation)
    selection = read_selection(options["n_top_features"])
    check_unique_genes(var.index, what="`adata`", profile=profile)
    _check_options(preparation, options)
    logger.info("Raw data: %d cells × %d %s.", *blocks.shape, profile.features)
    fitting = _Fitting(blocks, var, list(batch_names), profile, options, preparation, name)
    return fitting.run(selection, batch_key)


@dataclass(frozen=True)
class _Fitting:
    """The steps of a fit, with what all of them need."""

    blocks: Blocks
    var: pd.DataFrame
    batch_names: list[str]
    profile: Profile
    options: dict[str, Any]
    preparation: Preparation
    name: str

    @property
    def log_normalized(self) -> bool:
        # What is not declared is either counts or refused.
        return bool(self.preparation.log_normalized or self.preparation.processed)

    def run(self, selection: int | list[str], batch_key: str | None) -> Fit:
        columns = pd.DataFrame(index=self.var.index)
        everything = Columns.all_but(self._left_out())
        if self.profile is RNA:
            how = self._how(everything)
            tally, moments = self.blocks.fold(tally_and_add_up, merge_both, how)
            kept = self._check(tally)
            passed = self._passed(tally, everything, columns)
            over = everything
        else:
            tally = self.blocks.fold(tally_values, merge_tallies, self._how(everything, None))
            kept = self._check(tally)
            passed = self._passed(tally, everything, columns)
            chosen = self._chosen_peaks(passed, selection, columns) if self._is_atac else passed
            over = Columns.find(self.var.index, self.var.index[chosen])
            how = self._how(over)
            moments = self.blocks.fold(add_up_values, merge_moments, how)
        self._check_batches(moments)
        if self._is_atac:
            selected = np.asarray(chosen)
        else:
            of_passed = moments.subset(over.places[passed])
            selected = self._select(passed, selection, of_passed, columns)
        normalized_over = tuple(self.var.index[over.places >= 0].astype(str))
        record = Preprocessing(
            profile=self.profile.name,
            target_sum=self._recorded_total(how.target_sum),
            scale_by=self.preparation.scale_by,
            new_batches=self.preparation.new_batches,
            dropped_prefixes=tuple(self.options["dropped_prefixes"]),
            genes=tuple(self.var.index[selected].astype(str)),
            scale=self._scale(moments, over.places[selected], self.var.index[selected]),
            panel=() if self.profile is RNA else normalized_over,
            normalized_over=normalized_over,
            shares=self._shares(moments),
            log_normalized=self.log_normalized,
            log1p=self.options["log1p"],
            batch_key=batch_key,
        )
        logger.info(
            "Processed data: %d cells × %d %s.", kept.sum(), len(selected), self.profile.features
        )
        return Fit(
            record,
            tally.detected,
            kept,
            passed,
            selected,
            over,
            columns.iloc[passed],
        )

    def _shares(self, moments: BatchMoments) -> tuple[float, ...]:
        """Share of each feature in the counts of all cells, each of which counts the same.

        Not of proteins, which are not brought to a total.
        """
        total = np.sum([sums.total for sums in moments.batches.values()], axis=0)
        if self.profile is ADT or self.log_normalized or not total.any():
            return ()
        return tuple((total / total.sum()).tolist())

    @property
    def _is_atac(self) -> bool:
        return self.profile is ATAC

    def _left_out(self) -> np.ndarray:
        prefixes = self.options["dropped_prefixes"]
        left_out = starts_with(self.var, prefixes)
        others = ~self._own_type
        if left_out.any():
            found = symbols(self.var)[left_out]
            logger.info("Left out %d genes, such as %s.", left_out.sum(), ", ".join(found[:3]))
        elif prefixes and are_ids(symbols(self.var)):
            logger.warning(
                "Genes are named by Ensembl ids and var has no column of symbols: mitochondrial "
                "genes and spike-ins cannot be told and stay. Add var['gene_symbols']."
            )
        if others.any():
            logger.warning(
                "%s: `profile` %r takes the type %r; left out are %s.",
                self.name,
                self.profile.name,
                OWN[self.profile.name][0],
                describe_left_out(self.var, ~others),
            )
        return left_out | others

    @cached_property
    def _own_type(self) -> np.ndarray:
        """Mask of the features of the profile's type: all of them, if ``var`` says nothing."""
        own = own_features(self.var, self.profile.name)
        if own is None:
            return np.ones(len(self.var), dtype=bool)
        if not own.any():
            raise ValueError(none_left(self.var, self.profile.name, self.name))
        return own

    def _how(self, over: Columns, target_sum: Any = "as given") -> How:
        target = self.options["target_sum"] if target_sum == "as given" else target_sum
        how = How(
            min_features=self.options["min_features"],
            over=over,
            profile=self.profile.name,
            target_sum=None,
            log1p=self.options["log1p"],
            log_normalized=self.log_normalized,
            own=Columns.all_but(~self._own_type),
        )
        if target == "median":
            target = None if self.log_normalized else self._median_total(how)
        return replace(how, target_sum=target)

    def _median_total(self, how: How) -> float:
        total = np.concatenate(self.blocks.fold(totals_in_list, join_lists, how))
        if not total.any():
            msg = "No cell has a count in any of the selected columns: select others."
            raise ValueError(msg)
        return float(np.median(total[total > 0]))

    def _recorded_total(self, target_sum: float | None) -> float | None:
        if self.profile is ADT:
            return None
        return 1e4 if target_sum is None else float(target_sum)

    def _check(self, tally: Tally) -> np.ndarray:
        """Raise for values that cannot be, or no cell left; return the mask of cells."""
        check_expression(tally.values, name=self.name)
        declared = True if self.log_normalized else self.preparation.log_normalized
        check_counts(
            tally.by_batch,
            declared,
            name=self.name,
            batch_names=self.batch_names,
            profile=self.profile,
            strict=self.preparation.processed,
        )
        return rich_enough(tally.detected, self.options["min_features"], self.profile.features)

    def _passed(self, tally: Tally, considered: Columns, columns: pd.DataFrame) -> np.ndarray:
        columns["n_cells"] = tally.n_cells
        least = self.options["min_cells"]
        passed = (tally.n_cells >= least) & (considered.places >= 0)
        n_considered = considered.n_wanted
        if not passed.any():
            msg = (
                f"No {self.profile.feature} is detected in `min_cells`={least!r} of "
                f"{self.blocks.shape[0]} cells. Lower `min_cells`."
            )
            raise ValueError(msg)
        logger.info(
            "Kept %d of %d %s (min_cells=%d).",
            passed.sum(),
            n_considered,
            self.profile.features,
            least,
        )
        if self._is_atac:
            n_kept = max(int((tally.detected >= self.options["min_features"]).sum()), 1)
            share = columns["n_cells"] / n_kept
            columns["prop_shared_cells"] = share
            columns["variability_score"] = 1 - (share - 0.5).abs()
        return np.flatnonzero(passed)

    def _check_batches(self, moments: BatchMoments) -> None:
        lone = [
            self.batch_names[code]
            for code, sums in sorted(moments.batches.items())
            if sums.n_cells == 1
        ]
        if lone and len(self.batch_names) > 1:
            msg = (
                f"Batches with one cell: {lone!r}. A batch needs at least two cells to be scaled "
                "and normalized. Merge it with another batch, or remove it."
            )
            raise ValueError(msg)

    def _chosen_peaks(
        self, passed: np.ndarray, selection: int | list[str], columns: pd.DataFrame
    ) -> np.ndarray:
        """Choose peaks whose share of cells is nearest to one half; ties are kept."""
        if isinstance(selection, list):
            return select_listed(self.var.index, passed, selection, self.profile)
        if selection == ALL or selection >= len(passed):
            return passed
        # In whole cells: as floats, shares of 0.3 and 0.7 are not quite equally far from 0.5.
        n_cells = columns["n_cells"].to_numpy().astype(np.int64)[passed]
        n_all = round(float(n_cells[0] / columns["prop_shared_cells"].to_numpy()[passed][0]))
        distance = np.abs(2 * n_cells - n_all)
        chosen = passed[distance <= np.partition(distance, selection - 1)[selection - 1]]
        self._log_selection(len(chosen), len(passed), selection)
        return chosen

    def _select(
        self,
        passed: np.ndarray,
        selection: int | list[str],
        moments: BatchMoments,
        columns: pd.DataFrame,
    ) -> np.ndarray:
        if isinstance(selection, list):
            return select_listed(self.var.index, passed, selection, self.profile)
        if selection == ALL or selection >= len(passed):
            return passed
        if sum(sums.n_cells for sums in moments.batches.values()) < 2:
            msg = (
                f"`n_top_features`={selection!r} selects {self.profile.features} by how much they "
                "vary between cells, and there is one cell. Give -1 for all, or a list of names."
            )
            raise ValueError(msg)
        names = self.var.index[passed]
        if self.profile is ADT:
            variance = moments.variance_within()
            columns.loc[names, "variance_within_batches"] = variance
            chosen = np.zeros(len(passed), dtype=bool)
            chosen[np.argsort(-variance, kind="stable")[:selection]] = True
        else:
            ranked = rank_genes(moments, names, selection)
            chosen = ranked["highly_variable"].to_numpy()
            for column in ranked:
                columns[column] = ranked[column].reindex(columns.index)
        self._log_selection(int(chosen.sum()), len(passed), selection)
        return passed[chosen]

    def _log_selection(self, n_chosen: int, n_all: int, selection: int) -> None:
        logger.info(
            "Selected %d of %d %s (n_top_features=%d).",
            n_chosen,
            n_all,
            self.profile.features,
            selection,
        )

    def _scale(self, moments: BatchMoments, places: np.ndarray, genes: pd.Index) -> pd.DataFrame:
        maxima = moments.maxima(self.preparation.scale_by)[:, places]
        names = [self.batch_names[code] for code in sorted(moments.batches)]
        return pd.DataFrame(maxima.T.copy(), columns=names, index=genes.astype(str))


def _check_options(preparation: Preparation, options: dict[str, Any]) -> None:
    if preparation.new_batches not in get_args(NewBatches):
        allowed, given = get_args(NewBatches), preparation.new_batches
        msg = f"`new_batches` must be one of {allowed!r}, got {given!r}."
        raise ValueError(msg)
    if preparation.scale_by not in ("batch", "global"):
        msg = f"`scale_by` must be 'batch' or 'global', got {preparation.scale_by!r}."
        raise ValueError(msg)
    for name in ("min_features", "min_cells"):
        check_whole(options[name], 0, name=name)
    if options["target_sum"] not in (None, "median"):
        check_target_sum(options["target_sum"])
