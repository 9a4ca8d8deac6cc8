"""The scores that the demonstration prints."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from sklearn.metrics import accuracy_score, f1_score

from ._neighbors import expected_same_batch_share, knn_purity, same_batch_share


def uncorrected_pca(adata: AnnData, *, n_components: int = 20) -> np.ndarray:
    """Principal components of the same genes without any correction, to compare with.

    scanpy's classic recipe: log-normalised expression, genes standardised and clipped at 10
    standard deviations, then PCA.

    Parameters
    ----------
    adata
        Output of :func:`scalex_scvi.pp.rna`, with log-normalised expression in ``raw``.
    n_components
        Number of components; fewer if there are fewer cells or genes.

    Returns
    -------
    ``(n_cells, n_components)``.
    """
    expression = adata.raw[:, adata.var_names].X.toarray()
    standardised = sc.pp.scale(expression, max_value=10)
    n_components = min(n_components, min(expression.shape) - 1)
    return sc.pp.pca(standardised, n_comps=n_components, random_state=0)


def demo_scores(ref: AnnData, together: AnnData, *, batch_key: str, label: str) -> pd.DataFrame:
    """Score an integrated reference and a query that was projected onto it.

    Parameters
    ----------
    ref
        Integrated cells, with ``obsm["latent"]``.
    together
        Reference and query, with ``obs["projection"]`` and ``obs[f"{label}_transfer"]``.
    batch_key, label
        Columns of ``obs``.

    Returns
    -------
    Columns ``score``, ``value`` and ``meaning``.
    """
    batch, labels = ref.obs[batch_key], ref.obs[label]
    pca, latent = uncorrected_pca(ref), ref.obsm["latent"]
    query = together.obs[together.obs["projection"] == "query"]
    truth, predicted = query[label].astype(str), query[f"{label}_transfer"].astype(str)
    mixed = expected_same_batch_share(batch)
    rows = [
        (
            "same-batch neighbours, uncorrected",
            same_batch_share(pca, batch),
            f"share of 30 neighbours from a cell's own batch; 1 = apart, {mixed:.2f} = mixed",
        ),
        (
            "same-batch neighbours, integrated",
            same_batch_share(latent, batch),
            "the same in the latent space; lower is better",
        ),
        (
            "cell-type purity, uncorrected",
            knn_purity(pca, labels),
            "share of 30 neighbours of a cell's own type; higher is better",
        ),
        (
            "cell-type purity, integrated",
            knn_purity(latent, labels),
            "the same in the latent space; it should not fall",
        ),
        (
            "accuracy of transferred labels",
            float(accuracy_score(truth, predicted)),
            "projected cells that got their true label, without any training on them",
        ),
        (
            "macro-F1 of transferred labels",
            float(
                f1_score(truth, predicted, average="macro", labels=truth.unique(), zero_division=0)
            ),
            "the same with each cell type counting alike, rare ones too",
        ),
    ]
    return pd.DataFrame(rows, columns=["score", "value", "meaning"])
