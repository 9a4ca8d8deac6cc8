"""Bringing the genes of a query into the reference's order."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scalex_scvi._core.blocks import multiply, without_matrix
from scalex_scvi._core.matrices import get_matrix, is_lazy, to_csr

from ._checks import check_unique_genes, with_matrix
from ._profiles import RNA, Profile

logger = logging.getLogger(__name__)

LOW_SHARE = 0.8
"""A share of found genes below this is worth a warning."""


def reindex(adata: AnnData, genes: Sequence[str], *, layer: str | None = None) -> AnnData:
    """Put ``adata`` into a given gene order, with empty columns for missing genes.

    Parameters
    ----------
    adata
        Cells × genes. It is not changed.
    genes
        Genes to return, in this order. Others are left out.
    layer
        Layer to use instead of ``adata.X``.

    Returns
    -------
    Cells × ``genes`` with ``X`` (CSR, float32; of a dask array another one), ``obs``, ``obsm`` and
    ``uns`` of ``adata``.

    Raises
    ------
    ValueError
        If no gene is found, or if a wanted gene occurs more than once.
    """
    matrix, name = get_matrix(adata, layer)
    selector = gene_selector(adata.var_names, pd.Index(genes))
    if is_lazy(matrix):
        work = without_matrix(adata)
        return AnnData(
            X=multiply(matrix, selector),
            obs=work.obs,
            var=pd.DataFrame(index=pd.Index(genes)),
            obsm=dict(work.obsm),
            uns=work.uns,
        )
    picked = sparse.csr_matrix(to_csr(matrix, name=name) @ selector)
    return with_matrix(adata, picked, pd.DataFrame(index=pd.Index(genes)))


def gene_selector(
    available: pd.Index, wanted: pd.Index, *, profile: Profile = RNA
) -> sparse.csr_matrix:
    """Return the 0/1 matrix ``available × wanted`` that picks and orders columns.

    Reports the number and share of missing genes; warns below 80 %.
    """
    check_unique_genes(wanted, what=f"the {profile.feature} list", profile=profile)
    found = available.isin(wanted)
    what = "the query (among the wanted ones)"
    check_unique_genes(available[found], what=what, profile=profile)
    n_found = int(found.sum())
    if n_found == 0:
        msg = (
            f"The query shares none of the {len(wanted)} {profile.features} of the reference. It "
            f"has {list(available[:3])!r} …, the reference {list(wanted[:3])!r} …: are the names "
            f"of the same {profile.naming}?"
        )
        raise ValueError(msg)
    share = n_found / len(wanted)
    level = logging.WARNING if share < LOW_SHARE else logging.INFO
    logger.log(
        level,
        "Found %d of %d %s of the reference (%.1f %%) in the query; the others are zero.",
        n_found,
        len(wanted),
        profile.features,
        100 * share,
    )
    rows = np.flatnonzero(found)
    columns = wanted.get_indexer(available[rows])
    ones = np.ones(n_found, dtype=np.float32)
    return sparse.csr_matrix((ones, (rows, columns)), shape=(len(available), len(wanted)))
