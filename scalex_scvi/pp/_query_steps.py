"""What is done to each cell of a query by itself, planned once for all blocks of cells."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from ._filter import starts_with
from ._normalize import centered_log_ratio, log_normalize, normalize_total
from ._profiles import ADT, RNA, Profile, get_profile
from ._record import Preprocessing
from ._reindex import gene_selector

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class QuerySteps:
    """A function of cells × features of the query: cells × features of the reference, normalised.

    Attributes
    ----------
    reference
        The reference's record.
    log_normalized
        Whether the values are normalised already.
    kept
        1 for each feature of the query that totals are taken over, 0 for others (RNA).
    selector
        Features of the query × wanted ones, which it picks and orders.
    order
        Columns of the picked features that are the reference's.
    n_found
        How many of the picked features the query has.
    """

    reference: Preprocessing
    log_normalized: bool
    kept: sparse.dia_matrix
    selector: sparse.csr_matrix
    order: np.ndarray
    n_found: int

    @classmethod
    def plan(cls, names: pd.Index, reference: Preprocessing, *, log_normalized: bool) -> QuerySteps:
        """Find the reference's features among those of a query, and report what is missing.

        Raises
        ------
        ValueError
            If none is found, names repeat, or counts are given where the reference's peaks or
            proteins came normalised.
        """
        profile = get_profile(reference.profile)
        genes = pd.Index(reference.genes)
        wanted = genes
        if not log_normalized:
            _check_reference_was_counts(reference, profile)
            if profile is not RNA:
                wanted = pd.Index(reference.panel or reference.genes)
        dropped = starts_with(names.astype(str), reference.dropped_prefixes)
        return cls(
            reference=reference,
            log_normalized=log_normalized,
            kept=sparse.diags((~dropped).astype(np.float32)),
            selector=gene_selector(names, wanted, profile=profile),
            order=wanted.get_indexer(genes),
            n_found=int(wanted.isin(names).sum()),
        )

    def __call__(self, csr: sparse.csr_matrix) -> sparse.csr_matrix:
        """Normalise and pick; ``csr`` may be overwritten."""
        if self.log_normalized:
            return self._pick(csr)
        profile = get_profile(self.reference.profile)
        if profile is RNA:
            counts = sparse.csr_matrix(csr @ self.kept, dtype=np.float32)
            return self._pick(log_normalize(counts, self.reference.target_sum)[0])
        picked = self._pick(csr)
        if profile is ADT:
            picked = centered_log_ratio(picked, self.n_found)
        else:
            normalize = log_normalize if self.reference.log1p else normalize_total
            picked, _ = normalize(picked, self.reference.target_sum)
        return picked[:, self.order]

    def _pick(self, csr: sparse.csr_matrix) -> sparse.csr_matrix:
        picked = sparse.csr_matrix(csr @ self.selector)
        picked.sort_indices()
        return picked


def _check_reference_was_counts(reference: Preprocessing, profile: Profile) -> None:
    """Warn or raise if the reference's values came normalised, nobody knows how."""
    if not reference.log_normalized:
        return
    if profile is not RNA:
        msg = (
            f"The reference's {profile.features} came normalised, so that counts cannot be "
            "normalised alike. Normalise the query like the reference and pass "
            "`log_normalized=True`."
        )
        raise ValueError(msg)
    logger.warning(
        "The reference came log-normalised. The query's counts are normalised to a total of %g "
        "and log1p is taken: if the reference's were not, pass a log-normalised query.",
        reference.target_sum,
    )
