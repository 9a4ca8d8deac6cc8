"""The transform: blocks of counts in, blocks of values in [0, 1] out.

This is the one place where counts become what the encoder sees: in memory, from a file, a store
or dask, in a minibatch of the training, of a reference or of a query.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from math import isclose
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scalex_scvi._core.gene_names import names_in
from scalex_scvi._core.matrices import to_shared_csr
from scalex_scvi._core.measured import measured_genes

from ._columns import Columns, check_share_found, find_features
from ._normalize import centered_log_ratio, log_normalize, normalize_total, without_logarithms
from ._profiles import ADT, RNA, get_profile
from ._symbols import starts_with

if TYPE_CHECKING:
    from ._record import Preprocessing

logger = logging.getLogger(__name__)

_NO_NAME = "\0"
"""Of a column of zeros for a gene that was not measured: no gene is called so."""


@dataclass(frozen=True)
class Transform:
    """A function of blocks of cells × the features that a data set has.

    It has three steps, each of one cell by itself: the features over which a cell is normalized
    are picked; the cell is normalized as its kind of data needs it; the record's features are
    picked, and each is divided by its maximum in the batch of the cell.

    Attributes
    ----------
    profile, log1p
        See :class:`Preprocessing`.
    target_sum
        Total of a cell over the features that the data set has; ``None``: not normalized.
    over
        Features that a cell is normalized over, ``None`` for values that are normalized already.
    wanted
        Of these (or of all), the record's features.
    scale
        Batches × features: what is divided by; 0 where a feature has no counts in a batch.
    from_logarithms
        Whether the data are logarithms of what is to be normalized.
    """

    profile: str
    target_sum: float | None
    log1p: bool
    over: Columns | None
    wanted: Columns
    scale: np.ndarray | None = None
    from_logarithms: bool = False

    @classmethod
    def plan(
        cls,
        record: Preprocessing,
        var: pd.DataFrame,
        *,
        log_normalized: bool,
        own_total: float | None = None,
        report: bool = True,
        min_gene_share: float | None = None,
    ) -> Transform:
        """Find the record's features among those of a data set, and report what is missing.

        The features go by their names or, where these are unmistakably of another kind than the
        record's, by a column of ``var`` or without the versions of ids: this is reported. Those
        that ``var`` marks as not measured are missing.

        Parameters
        ----------
        record
            What was fitted.
        var
            Annotation of the features that the data set has.
        log_normalized
            Whether its values are normalized already.
        own_total
            Total that its cells were brought to over the features that it has, before logarithms
            were taken. If the reference has another one over these, the logarithms are undone, and
            cells are normalized as counts are. ``None``: not known.
        report
            Whether to log what was found, and what was assumed.
        min_gene_share
            Share of the record's features that must be found; ``None``: any.

        Raises
        ------
        ValueError
            If none is found, or too few, names repeat, or counts are given where the record's
            peaks or proteins came normalized.
        """
        profile = get_profile(record.profile)
        genes = pd.Index(record.genes)
        names, source = names_in(var, genes, pd.Index(record.panel or record.genes))
        measured = measured_genes(var)
        if measured is not None:
            names = names.where(measured, _NO_NAME)
        if source and report:
            logger.warning(
                "The names of the query's %s, %s …, are not those of the reference: %s has them, "
                "and is used.",
                profile.features,
                list(var.index[:2]),
                source,
            )
        if min_gene_share is not None:
            check_share_found(var, names, genes, min_gene_share, profile)
        over, undone = None, log_normalized and _is_another_total(record, names, own_total)
        if log_normalized and not undone:
            wanted = find_features(names, genes, profile=profile, report=report)
        else:
            if not log_normalized:
                _check_came_as_counts(record, report)
            if record.panel or profile is not RNA:
                panel = pd.Index(record.panel or record.genes)
                over = find_features(names, panel, profile=profile, report=report)
                wanted = Columns.find(panel, genes)
            else:
                over = Columns.all_but(starts_with(var, record.dropped_prefixes))
                wanted = find_features(
                    names[over.places >= 0], genes, profile=profile, report=report
                )
                if not _found(record, names).all():
                    # Totals of genes that both have can be compared.
                    panel = pd.Index(record.normalized_over)
                    over, wanted = Columns.find(names, panel), Columns.find(panel, genes)
        total = _total_of(record, names)
        if undone and report:
            logger.warning(
                "The query's cells were log-normalized to a total of %g over its own %d genes. The "
                "logarithms are undone, and cells brought to a total of %g over the genes that the "
                "reference has, too, as theirs is there.",
                own_total,
                (names != _NO_NAME).sum(),
                total,
            )
        return cls(profile.name, total, record.log1p, over, wanted, from_logarithms=undone)

    @classmethod
    def by_position(cls, record: Preprocessing, over: Columns, chosen: np.ndarray) -> Transform:
        """Return the transform of the very features that it was fitted to.

        Parameters
        ----------
        record
            What was fitted.
        over
            The features that a cell is normalized over.
        chosen
            Positions of the wanted features among those of the data.
        """
        if record.log_normalized:
            wanted = Columns.at(chosen, len(over.places))
            return cls(record.profile, record.target_sum, record.log1p, None, wanted)
        wanted = Columns.at(over.places[chosen], over.n_wanted)
        return cls(record.profile, record.target_sum, record.log1p, over, wanted)

    def with_scale(self, scale: np.ndarray) -> Transform:
        """Return the transform that also divides; ``scale`` is batches × features."""
        return replace(self, scale=scale)

    @property
    def shape(self) -> tuple[int, int]:
        """Features that go in, and that come out."""
        first = self.wanted if self.over is None else self.over
        return len(first.places), self.wanted.n_wanted

    @property
    def total(self) -> float:
        """What the total of a cell is brought to."""
        return 1e4 if self.target_sum is None else self.target_sum

    @cached_property
    def direct(self) -> Columns:
        """From the features that a data set has to the record's, in one step."""
        if self.over is None:
            return self.wanted
        over = self.over.places
        places = np.where(over >= 0, self.wanted.places[over], -1)
        return Columns(places, self.wanted.n_wanted)

    @cached_property
    def measured(self) -> np.ndarray:
        """Mask of the record's features that the data set has."""
        found = np.zeros(self.wanted.n_wanted, dtype=bool)
        found[self.direct.places[self.direct.places >= 0]] = True
        return found

    @cached_property
    def _counted(self) -> np.ndarray:
        """1 for each feature that cells are normalized over, 0 for the others."""
        assert self.over is not None
        return (self.over.places >= 0).astype(np.float64)

    def normalize(self, block: Any) -> sparse.csr_matrix:
        """Do all but the scaling: cells × the record's features, normalized."""
        csr = to_shared_csr(block, name="The matrix")
        if self.from_logarithms:
            csr = without_logarithms(csr)
        if self.over is not None and self.profile == ADT.name:
            over = centered_log_ratio(self.over.pick(csr), self.over.n_found)
            return _without_zeros(self.wanted.pick(over), csr)
        picked = _without_zeros(self.direct.pick(csr), csr)
        if self.over is None:
            return picked
        # A product with ones and zeros is a sum, and nothing is copied for it.
        total = csr @ self._counted
        take = log_normalize if self.log1p else normalize_total
        return take(picked, self.total, total)

    def __call__(self, block: Any, codes: np.ndarray) -> sparse.csr_matrix:
        """Return values in [0, 1], cells × the record's features, CSR float32.

        Parameters
        ----------
        block
            Cells × features that the data set has, counts; not changed.
        codes
            Batch of each cell: a row of the scale.
        """
        csr = self.normalize(block)
        if self.scale is None:
            return csr
        return divide_by_batch(csr, codes, self.scale)


def normalized(
    csr: sparse.csr_matrix, profile: str, target_sum: float, log1p: bool, n_measured: int
) -> sparse.csr_matrix:
    """Normalize each cell as its kind of data needs it; ``csr`` may be overwritten.

    Parameters
    ----------
    csr
        Cells × the features to normalize over, counts.
    profile, target_sum, log1p
        See :class:`Preprocessing`.
    n_measured
        How many of these features were measured.
    """
    if profile == ADT.name:
        return centered_log_ratio(csr, n_measured)
    take = log_normalize if log1p else normalize_total
    return take(csr, target_sum)


def _without_zeros(picked: sparse.csr_matrix, csr: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return a matrix of our own without stored zeros."""
    picked = picked.copy() if picked is csr else picked
    picked.eliminate_zeros()
    return picked


def divide_by_batch(
    csr: sparse.csr_matrix, codes: np.ndarray, scale: np.ndarray
) -> sparse.csr_matrix:
    """Divide the values of each cell by the maxima of its batch, in place.

    Values above the maximum (of a known batch, seen in new cells) become 1.

    Parameters
    ----------
    csr
        Cells × genes, normalized; overwritten.
    codes
        Batch of each cell.
    scale
        Batches × genes.
    """
    divisor = scale[np.repeat(codes, np.diff(csr.indptr)), csr.indices]
    # A gene that is zero in all the reference's cells of a batch has no scale there.
    unknown = divisor <= 0
    if unknown.any():
        divisor[unknown] = csr.data[unknown]
    csr.data /= divisor
    np.minimum(csr.data, 1, out=csr.data)
    return csr


def _found(record: Preprocessing, names: pd.Index) -> np.ndarray:
    """Mask of the features with known shares of the counts: whether they are among these names."""
    if not record.shares:
        return np.ones(0, dtype=bool)
    return pd.Index(record.normalized_over).isin(names)


def _total_of(record: Preprocessing, names: pd.Index) -> float | None:
    """Return what cells are brought to that lack some features: the total of the others.

    Brought to the whole total, they would have more of each feature than cells that have all.
    """
    found = _found(record, names)
    if record.target_sum is None or found.all():
        return record.target_sum
    share = float(np.asarray(record.shares)[found].sum())
    return record.target_sum * share if share > 0 else record.target_sum


SAME_TOTAL = 0.01
"""By which share totals may differ, from one to another, to be the same."""


def _is_another_total(record: Preprocessing, names: pd.Index, own_total: float | None) -> bool:
    """Whether cells were brought to another total than they would be here."""
    wanted = _total_of(record, names)
    if own_total is None or wanted is None:
        return False
    return not isclose(own_total, wanted, rel_tol=SAME_TOTAL)


def _check_came_as_counts(record: Preprocessing, report: bool) -> None:
    """Warn or raise if the record's values came normalized, nobody knows how."""
    if not record.log_normalized:
        return
    profile = get_profile(record.profile)
    if profile is not RNA:
        msg = (
            f"The reference's {profile.features} came normalized, so that counts cannot be "
            "normalized alike. Normalize the query like the reference and pass "
            "`log_normalized=True`."
        )
        raise ValueError(msg)
    if report:
        logger.warning(
            "The reference came log-normalized. The query's counts are normalized to a total of %g "
            "and log1p is taken: if the reference's were not, pass a log-normalized query.",
            record.target_sum,
        )
