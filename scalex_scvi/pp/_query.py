"""Taking raw counts of new cells through the reference's preprocessing."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from ._checks import (
    check_batch_column,
    check_expression,
    decide_log_normalised,
    get_matrix,
    to_csr,
    with_matrix,
)
from ._filter import starts_with
from ._normalize import centered_log_ratio, log_normalize, normalize_total
from ._profiles import ADT, RNA, Profile, get_profile
from ._record import Preprocessing
from ._reindex import gene_selector
from ._scale import scale_and_record

logger = logging.getLogger(__name__)


def prepare_query(
    adata: AnnData,
    preprocessing: Preprocessing,
    *,
    batch_key: str | None = None,
    layer: str | None = None,
    log_normalized: bool | None = None,
) -> AnnData:
    """Take counts of new cells through the same steps as the reference.

    The query is normalised as its profile says, and the reference's genes (peaks, proteins) are
    picked, with zeros for missing ones:

    - RNA: log-normalised over all genes of the query, then picked.
    - ATAC: picked, then each cell's total brought to the total that the reference used.
    - ADT: picked, then the centred log-ratio taken over the proteins that the query has: other
      proteins do not matter, and missing ones are left out of the mean instead of taken for zero.

    Then each batch is scaled. A batch that the reference knows keeps the reference's scale, so
    that cells of the reference come out exactly as they went in; a new batch is scaled by its own
    maxima. No cell and no gene is filtered out.

    Parameters
    ----------
    adata
        Cells × genes, counts. It is not changed.
    preprocessing
        The reference's record: ``model.preprocessing``, or of an AnnData by
        :meth:`Preprocessing.from_adata`.
    batch_key
        Column of ``adata.obs`` with the batches; ``None``: all cells are one batch.
    layer
        Layer with the counts, instead of ``adata.X``.
    log_normalized
        Whether the values are normalised already, like the reference's. ``None`` decides, and
        raises when it looks like it.

    Returns
    -------
    Cells × reference genes: ``X`` (CSR, float32) in [0, 1], ``obs``, ``obsm`` and ``uns`` of the
    query, the number of detected genes in ``obs["n_genes"]``, and the record.

    Raises
    ------
    KeyError, TypeError, ValueError
        As :func:`rna`; also if no gene is shared, a reference gene occurs more than once, or
        counts are given where the reference's peaks or proteins came normalised.
    """
    profile = get_profile(preprocessing.profile)
    check_batch_column(adata, batch_key)
    matrix, name = get_matrix(adata, layer, profile=profile)
    csr = to_csr(matrix, name=name)
    check_expression(csr, name=name)
    detected = csr.getnnz(axis=1)
    genes = pd.Index(preprocessing.genes)
    if decide_log_normalised(csr, log_normalized, name=name, profile=profile):
        csr = _pick(csr, adata.var_names, genes, profile)
    else:
        _check_reference_was_counts(preprocessing, profile)
        csr = _normalize_and_pick(csr, adata.var_names, preprocessing, profile)
    query = with_matrix(adata, csr, pd.DataFrame(index=genes))
    query.obs["n_genes"] = detected
    scale_and_record(query, batch_key, preprocessing, known=preprocessing.scale)
    return query


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


def _normalize_and_pick(
    csr: sparse.csr_matrix, names: pd.Index, reference: Preprocessing, profile: Profile
) -> sparse.csr_matrix:
    """Turn counts of cells × ``names`` into normalised values of cells × reference genes."""
    genes = pd.Index(reference.genes)
    if profile is RNA:
        csr, _ = log_normalize(
            _without(csr, names, reference.dropped_prefixes), reference.target_sum
        )
        return _pick(csr, names, genes, profile)
    panel = pd.Index(reference.panel or reference.genes)
    csr = _pick(csr, names, panel, profile)
    if profile is ADT:
        csr = centered_log_ratio(csr, int(panel.isin(names).sum()))
    else:
        csr, _ = normalize_total(csr, reference.target_sum)
    return csr[:, panel.get_indexer(genes)]


def _pick(
    csr: sparse.csr_matrix, names: pd.Index, wanted: pd.Index, profile: Profile
) -> sparse.csr_matrix:
    picked = sparse.csr_matrix(csr @ gene_selector(names, wanted, profile=profile))
    picked.sort_indices()
    return picked


def _without(
    csr: sparse.csr_matrix, names: pd.Index, prefixes: tuple[str, ...]
) -> sparse.csr_matrix:
    """Make genes zero that the reference dropped before normalisation."""
    kept = ~starts_with(names.astype(str), prefixes)
    return sparse.csr_matrix(csr @ sparse.diags(kept.astype(np.float32)), dtype=np.float32)
