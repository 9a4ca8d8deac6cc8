"""The first step of every profile: checked counts in an object of our own."""

from __future__ import annotations

import logging

from anndata import AnnData

from scalex_scvi._core.columns import check_batch_column
from scalex_scvi._core.matrices import get_matrix, to_csr

from ._checks import check_expression, check_unique_genes, decide_log_normalised, with_matrix
from ._profiles import Profile

logger = logging.getLogger(__name__)


def start(
    adata: AnnData,
    profile: Profile,
    *,
    batch_key: str | None,
    layer: str | None,
    log_normalized: bool | None,
) -> tuple[AnnData, bool]:
    """Check everything, and return a copy with ``X`` in CSR and whether it is normalised.

    Raises
    ------
    KeyError, TypeError, ValueError
        See :func:`rna`.
    """
    check_batch_column(adata, batch_key)
    check_unique_genes(adata.var_names, what="`adata`", profile=profile)
    matrix, name = get_matrix(adata, layer, features=profile.features)
    csr = to_csr(matrix, name=name)
    check_expression(csr, name=name)
    log_normalized = decide_log_normalised(csr, log_normalized, name=name, profile=profile)
    work = with_matrix(adata, csr, adata.var)
    logger.info("Raw data: %d cells × %d %s.", work.n_obs, work.n_vars, profile.features)
    return work, log_normalized


def finish(adata: AnnData, profile: Profile) -> AnnData:
    """Log what came out."""
    logger.info("Processed data: %d cells × %d %s.", adata.n_obs, adata.n_vars, profile.features)
    return adata
