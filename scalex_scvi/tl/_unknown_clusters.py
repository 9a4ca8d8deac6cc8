"""Comparison of the clusters of a query with the nearest label of the reference."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from scalex_scvi._core.columns import check_no_missing
from scalex_scvi._core.keys import own_keys

from ._label_scores import LabelScores
from ._label_statistics import KeptBatches
from ._labeled_cells import LabeledCells, correlation
from ._pair import Pair


def unknown_clusters(
    ref: AnnData,
    query: AnnData,
    scores: LabelScores | pd.Series | np.ndarray,
    cluster_key: str,
    labels_key: str = "celltype",
    *,
    batch_key: str | None = None,
    n_genes: int = 10,
) -> pd.DataFrame:
    """Compare each cluster of the query with the nearest label of the reference.

    Parameters
    ----------
    ref, query
        As given to :func:`label_scores`, with the same genes in ``X``, prepared alike.
    scores
        What :func:`label_scores` returned for them, or whether each query cell is unknown:
        ``query.obs["celltype_unknown"]`` of :func:`map_query`, or an array.
    cluster_key
        Column of ``query.obs`` with clusters, such as Leiden's of the query alone.
    labels_key
        Column of ``ref.obs``.
    batch_key
        Column of ``query.obs`` with batches; the offset of each from the label means is subtracted.
    n_genes
        Number of genes to name.

    Returns
    -------
    One row per cluster, that with the largest share of unknown cells first: ``n_cells``;
    ``share_unknown``, in [0, 1]; ``nearest_label``; ``distance``, 1 − Pearson correlation of the
    cluster's mean expression (without the offsets of its batches) with that label's mean;
    ``genes``, those whose mean exceeds that of the label most, separated by commas.

    Raises
    ------
    KeyError
        If a column is absent.
    ValueError
        If clusters or labels are missing, the genes differ, or the scores are of other cells.
    """
    if cluster_key not in query.obs:
        msg = (
            f"`cluster_key` {cluster_key!r} is not a column of query.obs: {own_keys(query.obs)!r}."
        )
        raise KeyError(msg)
    check_no_missing(query, cluster_key, what="cluster")
    is_unknown = scores.is_unknown if isinstance(scores, LabelScores) else scores
    if not isinstance(is_unknown, pd.Series) and np.shape(is_unknown) == (query.n_obs,):
        is_unknown = pd.Series(is_unknown, index=query.obs_names)
    if not (isinstance(is_unknown, pd.Series) and is_unknown.index.equals(query.obs_names)):
        msg = "`scores` are not of the cells of `query`: pass what `label_scores` gave for it."
        raise ValueError(msg)
    pair = Pair(ref, query, "X", labels_key, batch_key, 1)
    one_batch = np.zeros(pair.ref.n_obs, dtype=np.int64)
    reference = LabeledCells.of(pair.normalized(pair.ref), pair.codes, one_batch)
    statistics = KeptBatches(reference).label_statistics().of_genes(pair.measured)
    genes, batches = pair.query.var_names[pair.measured], pair.query_batches()
    x = pair.compared(pair.normalized(pair.query))
    offsets = np.stack([statistics.offset(x[batches == b]) for b in np.unique(batches)])
    rows = {}
    for name, cells in query.obs.groupby(cluster_key, observed=True, sort=True).indices.items():
        shares = np.bincount(batches[cells], minlength=len(offsets)) / len(cells)
        mean = np.asarray(x[cells].mean(axis=0)).ravel() - shares @ offsets
        agreement = correlation(mean[None], statistics.means)[0]
        nearest = int(agreement.argmax())
        beyond = np.argsort(statistics.means[nearest] - mean, kind="stable")[:n_genes]
        rows[name] = {
            "n_cells": len(cells),
            "share_unknown": float(is_unknown.iloc[cells].mean()),
            "nearest_label": pair.labels.cat.categories[nearest],
            "distance": float(1 - agreement[nearest]),
            "genes": ", ".join(genes[beyond]),
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(cluster_key)
    return table.sort_values("share_unknown", ascending=False, kind="stable")
