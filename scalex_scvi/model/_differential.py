"""Differential expression by scvi-tools' own comparison of groups of cells."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from math import ceil, lcm
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS

from scalex_scvi._core.blocks import blocks_of
from scalex_scvi._core.chosen import chosen_cells
from scalex_scvi._core.columns import check_no_missing, one_column, text_of
from scalex_scvi._core.keys import own_keys
from scalex_scvi._core.matrices import is_lazy
from scalex_scvi._core.modalities import Cells, check_cells
from scalex_scvi._core.scvi_private import compare_groups, has_no_counts
from scalex_scvi._core.seeds import seeded, seeded_numpy
from scalex_scvi.pp import can_unscale, unscale
from scalex_scvi.train import SCALEXDataManager

from ._expression import Posterior
from ._fields import PROCESSED_KEY

if TYPE_CHECKING:
    from ._expression import ExpressionMixin as _Base
else:
    _Base = object

logger = logging.getLogger(__name__)

_DRAWS = 5000
"""Of each group, by default: scvi-tools'."""

_DRAWS_AT_ONCE = 4096
_NUMBER = "_scvi_number_of_cell"


class DifferentialMixin(_Base):
    """Adds :meth:`differential_expression` to a model with normalized expression."""

    def differential_expression(
        self,
        adata: Cells | None = None,
        groupby: str | None = None,
        group1: Sequence[str] | None = None,
        group2: str | None = None,
        idx1: Sequence[int] | Sequence[bool] | str | None = None,
        idx2: Sequence[int] | Sequence[bool] | str | None = None,
        mode: str = "vanilla",
        delta: float = 0.25,
        batch_size: int | None = None,
        all_stats: bool = True,
        batch_correction: bool = False,
        batchid1: Sequence[str] | None = None,
        batchid2: Sequence[str] | None = None,
        fdr_target: float = 0.05,
        silent: bool = False,
        weights: str | None = "uniform",
        filter_outlier_cells: bool = False,
        **kwargs: Any,
    ) -> pd.DataFrame:
        """Genes whose normalized expression differs between groups of cells.

        Genes that the cells lack (``get_prepared().var["scalex_measured"]`` is False) are left out,
        with a warning: the decoder knows them from the other genes alone.

        Arguments, comparison and columns of the result are those of
        :meth:`scvi.model.SCVI.differential_expression`; the expression is that of
        :meth:`get_normalized_expression`. Draws are seeded, so that a call repeats. Nothing of
        ``adata`` changes.

        Parameters
        ----------
        adata
            Cells of batches that the model knows; default: the model's own.
        groupby
            Column of ``adata.obs`` with the groups.
        group1, group2
            Groups to compare; default: each group with the rest.
        idx1, idx2
            Cells to compare instead: numbers, masks, or queries of ``adata.obs``.
        mode
            ``"vanilla"`` (Lopez et al. 2018) or ``"change"`` (Boyeau et al. 2019), the probability
            that the log2 fold change is beyond ``delta``.
        delta
            Smallest log2 fold change that counts, in mode ``"change"``.
        batch_size
            Draws decoded at once.
        all_stats
            Whether to add means and shares of nonzero counts in both groups.
        batch_correction
            Whether to decode both groups in the same batches, all of them or ``batchid1``, instead
            of each cell in its own. Needed wherever groups differ in their batches. Batches of a
            query whose decoder has not been trained are left out.
        batchid1, batchid2
            Batch or batches to decode each group in, with ``batch_correction``. If one of these is
            given, it holds for both groups. With lists of different lengths, draws are rounded up
            to equally many of each batch.
        fdr_target
            Expected share of false discoveries among those of column ``is_de_fdr_…``.
        silent
            Whether to show no progress bar.
        weights
            ``None`` or ``"uniform"``; see :meth:`get_normalized_expression`.
        filter_outlier_cells
            Whether to leave out outliers of the latent space.
        **kwargs
            Of scvi-tools' comparison: ``n_samples_overall`` (5 000), ``pseudocounts``,
            ``test_mode``, ``cred_interval_lvls``, ….

        Returns
        -------
        One row per gene that the cells have and comparison, the most different first.

        Raises
        ------
        KeyError, ValueError
            For an unknown column, group or batch, for a group without cells, and where there is no
            normalized expression. If the model is minified to its latent, mode ``"change"`` needs
            ``pseudocounts``, since there are no counts to choose them by.
        IndexError
            If ``idx1`` or ``idx2`` is neither numbers of cells, nor a mask of all, nor a query.
        NotImplementedError
            For importance weights.

        References
        ----------
        Lopez et al., Nat Methods 15:1053, 2018; Boyeau et al., bioRxiv 794289, 2019.
        """
        if weights == "importance" or kwargs.pop("importance_weighting_kwargs", None):
            msg = "SCALEX has no likelihood for importance weights: `weights` must be 'uniform'."
            raise NotImplementedError(msg)
        adata = self._validate_anndata(adata)
        groups = None if idx1 is not None else _groups(adata.obs, groupby)
        if groups is not None:
            group1, group2 = _among(groups, group1), _among(groups, group2, only_one=True)
        compared = _compared(adata.obs, idx1, idx2)
        if has_no_counts(adata):
            all_stats = _without_counts(all_stats, mode, kwargs)
        genes = self._genes_of_cells(adata)
        cells = self._grouped_cells(adata, genes)
        if groups is not None:
            cells.adata.obs[groupby] = groups.array
        batches = self._batches_of_groups(batch_correction, batchid1, batchid2)
        _draw_equally_often(kwargs, *batches)
        latent = cells.posterior.mean
        with seeded(None), seeded_numpy(None):
            return compare_groups(
                cells,
                partial(self._draws_of_group, cells.posterior, genes, batch_size or _DRAWS_AT_ONCE),
                (lambda _, indices: latent[indices]) if filter_outlier_cells else None,
                groupby,
                group1,
                group2,
                *compared,
                all_stats,
                count_statistics,
                [self.get_var_names()[gene] for gene in genes],
                mode,
                *batches,
                delta,
                batch_correction,
                fdr_target,
                silent,
                **kwargs,
            )

    def differential_abundance(
        self, adata: Cells | None = None, *args: Any, **kwargs: Any
    ) -> pd.DataFrame | None:
        """See :meth:`scvi.model.base.VAEMixin.differential_abundance`.

        Returns
        -------
        ``None``: ``obsm["da_log_probs"]`` of the cells is added. Of a model without cells, which
        is given a ``dataloader``, what scvi-tools returns.

        Raises
        ------
        KeyError
            If ``sample_key`` is not a column of ``obs``.
        ValueError
            If it is missing for some cells.
        """
        compare = super().differential_abundance
        given = signature(compare).bind(adata, *args, **kwargs).arguments
        if adata is not None or self.adata is not None:
            key = given.get("sample_key")
            for cells in (self.adata if adata is None else adata, given.get("adata_sub")):
                if cells is not None:
                    _check_samples(cells, key)
        return compare(adata, *args, **kwargs)

    def _draws_of_group(
        self,
        posterior: Posterior,
        genes: np.ndarray,
        size: int,
        _: AnnData,
        indices: np.ndarray,
        transform_batch: Any,
        n_samples_overall: int,
    ) -> np.ndarray:
        """Decode draws from the cells of a group: normalized expression, draws × genes."""
        batches = self._decoder_batches(transform_batch)
        chosen = indices[torch.randint(len(indices), (n_samples_overall,)).numpy()]
        these = posterior.at(chosen)
        to_counts = self._to_counts(genes, 1.0)
        return self._decoded(these.draw(), these.codes, genes, batches, to_counts, size)

    def _batches_of_groups(
        self, correct: bool, first: str | Sequence[str] | None, second: str | Sequence[str] | None
    ) -> tuple[list[str] | None, list[str] | None]:
        """Return the batches that each of two groups is decoded in; ``None``: in its own."""
        given = {"batchid1": first, "batchid2": second}
        named = {name: batches for name, batches in given.items() if batches is not None}
        if named and not correct:
            msg = (
                f"`batchid1={first!r}` and `batchid2={second!r}` need `batch_correction=True`: "
                "without it each cell is decoded in its own batch."
            )
            raise ValueError(msg)
        if not correct:
            return None, None
        found = [
            [self.batch_names[code] for code in dict.fromkeys(self._decoder_batches(batches, name))]
            for name, batches in named.items()
        ] or [self._batches_with_a_decoder()]
        return found[0], found[-1]

    def _batches_with_a_decoder(self) -> list[str]:
        return [name for name in self.batch_names if name not in self.untrained_batches_]

    def _genes_of_cells(self, adata: Cells) -> np.ndarray:
        """Return the numbers of the model's genes that cells have."""
        measured = self.get_anndata_manager(adata, required=True).measured
        if not measured.all():
            logger.warning(
                "The cells lack %d of %d genes, which are left out of the comparison: nothing was "
                "measured of them. `get_normalized_expression` gives what is expected of them.",
                (~measured).sum(),
                len(measured),
            )
        return np.flatnonzero(measured)

    def _grouped_cells(self, adata: Cells, chosen: np.ndarray) -> GroupedCells:
        self._to_counts(np.arange(0), 1.0)  # raises where there is no normalized expression
        manager = self.get_anndata_manager(adata, required=True)
        posterior = self._posterior_of_cells(adata, np.arange(adata.n_obs), None)
        genes = pd.Index(self.get_var_names())[chosen]
        counts = sparse.csr_matrix((adata.n_obs, len(genes)), dtype=np.float32)
        if not has_no_counts(adata):
            if manager.state_of(REGISTRY_KEYS.X_KEY)[PROCESSED_KEY]:
                counts = self._normalized_counts(adata)[:, chosen]
            else:
                counts = _counts_of_genes(manager, manager.owner.var_names, genes)
        light = AnnData(obs=adata.obs.copy())
        return GroupedCells(light, manager, counts, posterior)

    def _normalized_counts(self, adata: Cells) -> sparse.csr_matrix:
        """Undo the scaling and the logarithms of cells that came in [0, 1]."""
        prepared = self.get_prepared(adata)
        if not can_unscale(prepared):
            msg = (
                "The counts of these cells are not known: their record lacks a batch, or they are "
                "a dask array. Give them in memory, or pass `all_stats=False` and `pseudocounts`."
            )
            raise ValueError(msg)
        counts = unscale(prepared)
        if self.preprocessing.log1p:
            np.expm1(counts.data, out=counts.data)
        return counts


@dataclass(frozen=True)
class GroupedCells:
    """What scvi-tools' comparison asks a data manager for, over the genes that are compared.

    Attributes
    ----------
    adata
        ``obs`` alone, a copy: the comparison adds a column to it.
    manager
        What the cells are registered with.
    counts
        Cells × these genes; of cells that came prepared, normalized counts.
    posterior
        Where each cell is in the latent.
    """

    adata: AnnData
    manager: SCALEXDataManager
    counts: sparse.csr_matrix
    posterior: Posterior

    def get_from_registry(self, key: str) -> sparse.csr_matrix:
        """Return counts, whatever is asked for: nothing else is."""
        return self.counts

    def get_state_registry(self, key: str) -> Any:
        """Return what was registered."""
        return self.manager.get_state_registry(key)


def count_statistics(
    cells: GroupedCells, in_group1: np.ndarray, in_group2: np.ndarray
) -> dict[str, np.ndarray]:
    """Means of counts, shares of counts above zero, and means of totals of 10 000, per gene.

    As scvi-tools' function, which keeps the totals in a column of the user's ``obs``.
    """
    total = _flat(cells.counts.sum(axis=1, dtype=np.float64))
    per_total = 1e4 / np.where(total > 0, total, 1)
    groups = {1: in_group1, 2: in_group2}
    counts = {number: cells.counts[group] for number, group in groups.items()}
    share = {number: per_total[group] / group.sum() for number, group in groups.items()}
    found = {f"raw_mean{number}": _flat(of.mean(axis=0)) for number, of in counts.items()}
    for number, of in counts.items():
        found[f"non_zeros_proportion{number}"] = _flat((of != 0).mean(axis=0))
    for number, of in counts.items():
        found[f"raw_normalized_mean{number}"] = _flat(of.T @ share[number])
    return found


def _flat(values: Any) -> np.ndarray:
    return np.asarray(values).ravel()


def _counts_of_genes(
    manager: SCALEXDataManager, available: pd.Index, genes: pd.Index
) -> sparse.csr_matrix:
    """Read counts over some genes, in their order."""
    places = genes.get_indexer(available.astype(str))
    found = np.flatnonzero(places >= 0)
    ones = np.ones(len(found), dtype=np.float32)
    pick = sparse.csr_matrix((ones, (found, places[found])), shape=(len(available), len(genes)))
    matrix = manager.get_from_registry(REGISTRY_KEYS.X_KEY)
    counts = blocks_of(matrix, manager.codes).collect(_picked, pick, n_columns=len(genes))
    return counts.compute() if is_lazy(counts) else counts


def _picked(block: Any, _: np.ndarray, pick: sparse.csr_matrix) -> sparse.csr_matrix:
    picked = sparse.csr_matrix(sparse.csr_matrix(block, dtype=np.float32) @ pick)
    picked.sort_indices()
    return picked


def _draw_equally_often(
    kwargs: dict[str, Any], first: list[str] | None, second: list[str] | None
) -> None:
    """Draw so often that the batches of each group have equally many draws, and no rest is left.

    The draws of two groups are compared in pairs: as many of one as of the other.
    """
    if first is None or second is None or len(first) == len(second):
        return
    step = lcm(len(first), len(second))
    wanted = kwargs.get("n_samples_overall") or _DRAWS
    kwargs["n_samples_overall"] = ceil(wanted / step) * step


def _without_counts(all_stats: bool, mode: str, kwargs: dict[str, Any]) -> bool:
    if mode == "change" and kwargs.get("pseudocounts") is None:
        msg = (
            "The model is minified: without counts, mode 'change' needs `pseudocounts`, for "
            "example 1e-5, in shares of a cell's counts."
        )
        raise ValueError(msg)
    if all_stats:
        logger.warning("The model is minified: there are no statistics of counts.")
    return False


def _groups(obs: pd.DataFrame, groupby: str | None) -> pd.Series:
    """Return a column of groups as categories, of which each has cells.

    Masks of missing values (``Int64``, ``string``) and categories without cells are nothing that
    scvi-tools' comparison can work on.
    """
    if groupby not in obs:
        msg = f"`groupby` {groupby!r} is not in adata.obs: {own_keys(obs)!r}. Or give `idx1`."
        raise KeyError(msg)
    return one_column(obs, groupby).astype("category").cat.remove_unused_categories()


def _among(groups: pd.Series, wanted: Any, *, only_one: bool = False) -> Any:
    """Return groups of the type that the column has, which may be given by their text."""
    if wanted is None:
        return None
    by_text = {text_of(group): group for group in groups.cat.categories}
    several = pd.api.types.is_list_like(wanted)
    if several and (only_one or not len(wanted)):
        allowed = "`group2` must be one group" if only_one else "`group1` must be groups"
        msg = f"{allowed} of {sorted(by_text)!r}, got {wanted!r}. Without it all are compared."
        raise ValueError(msg)
    texts = [text_of(group) for group in (wanted if several else [wanted])]
    unknown = [text for text in texts if text not in by_text]
    if unknown:
        msg = f"No cells of {unknown!r} in adata.obs[{groups.name!r}]: {sorted(by_text)!r}."
        raise ValueError(msg)
    found = [by_text[text] for text in texts]
    return found if several else found[0]


def _check_samples(adata: Cells, sample_key: Any) -> None:
    check_cells(adata)
    if not isinstance(sample_key, str) or sample_key not in adata.obs:
        msg = (
            f"`sample_key` {sample_key!r} is not a column of adata.obs: {own_keys(adata.obs)!r}. "
            "Give the one that says which sample each cell is of."
        )
        raise KeyError(msg)
    check_no_missing(adata, sample_key, what="sample")


def _compared(
    obs: pd.DataFrame, idx1: Any, idx2: Any
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the numbers of the cells of two groups; those of both are of the second."""
    if idx1 is None:
        return None, None
    first = _rows_of(obs, idx1, "idx1")
    second = None if idx2 is None else _rows_of(obs, idx2, "idx2")
    if second is not None and np.isin(first, second).all():
        msg = f"All {len(first)} cells of `idx1` are in `idx2`, too: there is nothing to compare."
        raise ValueError(msg)
    return first, second


def _rows_of(obs: pd.DataFrame, idx: Any, name: str) -> np.ndarray:
    """Cells by number, whatever names they have."""
    if not isinstance(idx, str):
        return chosen_cells(idx, len(obs), name)
    numbered = obs.assign(**{_NUMBER: np.arange(len(obs))})
    rows = numbered.query(idx)[_NUMBER].to_numpy()
    if not len(rows):
        msg = f"`{name}` {idx!r} is true of no cell."
        raise ValueError(msg)
    return rows
