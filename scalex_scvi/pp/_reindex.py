"""Bringing the genes of a query into the reference's order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scalex_scvi._core.blocks import blocks_of
from scalex_scvi._core.matrices import get_matrix, to_csr, without_matrix

from ._columns import Columns, find_features


def reindex(adata: AnnData, genes: Sequence[str], *, layer: str | None = None) -> AnnData:
    """Put ``adata`` into a given gene order, with empty columns for missing genes.

    Parameters
    ----------
    adata
        Cells × genes. It is not changed.
    genes
        Genes to return, in this order, or the name of one. Others are left out.
    layer
        Layer to use instead of ``adata.X``.

    Returns
    -------
    Cells × ``genes`` with ``X`` (CSR, float32; of a dask array another one), ``obs``, ``obsm`` and
    ``uns`` of ``adata``.

    Raises
    ------
    KeyError
        If there is no such layer.
    ValueError
        If no gene is found, or if a wanted gene occurs more than once.
    """
    genes = [genes] if isinstance(genes, str) else genes
    matrix, name = get_matrix(adata, layer)
    columns = find_features(adata.var_names, pd.Index(genes))
    light = without_matrix(adata)
    codes = np.zeros(adata.n_obs, dtype=np.intp)
    return AnnData(
        X=blocks_of(matrix, codes).collect(_pick, columns, name, n_columns=len(genes)),
        obs=light.obs,
        var=pd.DataFrame(index=pd.Index(genes)),
        obsm=dict(light.obsm),
        uns=light.uns,
    )


def _pick(block: Any, codes: np.ndarray, columns: Columns, name: str) -> sparse.csr_matrix:
    return columns.pick(to_csr(block, name=name))
