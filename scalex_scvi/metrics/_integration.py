"""The scores of an integration that take seconds, together."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from scalex_scvi._core.columns import as_text, one_column

from ._entropy import batch_entropy_mixing_score
from ._inputs import column, points_in
from ._neighbors import expected_same_batch_share, knn_purity, same_batch_share
from ._silhouette import silhouette_score


def integration_scores(
    adata: AnnData,
    use_rep: str = "latent",
    *,
    batch_key: str = "batch",
    labels_key: str | None = "celltype",
    seed: int | None = None,
) -> dict[str, float]:
    """Score how well batches are mixed and cell types separated in a representation.

    Parameters
    ----------
    adata
        Cells with ``obsm[use_rep]``. It is not changed.
    use_rep
        Key in ``obsm``; ``"X"`` uses the matrix itself.
    batch_key
        Column of ``obs`` with the batches.
    labels_key
        Column of ``obs`` with cell types, or ``None``; cells without a type are left out of the
        scores of types.
    seed
        Seed of the entropy score.

    Returns
    -------
    By name: ``batch_entropy_mixing_score``, ``same_batch_share`` and
    ``expected_same_batch_share`` if there are two batches or more; ``silhouette_score`` and
    ``knn_purity`` if there are two types or more (the first one only if any type has two cells).
    Each is the function of that name.

    Raises
    ------
    KeyError
        If a key is absent.
    ValueError
        If a batch is missing, or two columns have the name of one that is asked for.
    """
    points = points_in(adata, use_rep)
    batch = column(adata, batch_key, name="batch_key")
    scores: dict[str, float] = {}
    if len(np.unique(batch)) > 1:
        scores["batch_entropy_mixing_score"] = batch_entropy_mixing_score(points, batch, seed=seed)
        scores["same_batch_share"] = same_batch_share(points, batch)
        scores["expected_same_batch_share"] = expected_same_batch_share(batch)
    if labels_key is None:
        return scores
    if labels_key not in adata.obs:
        columns = list(adata.obs.columns)
        msg = f"`labels_key` {labels_key!r} is not a column of adata.obs: {columns!r}."
        raise KeyError(msg)
    labels = one_column(adata.obs, labels_key)
    labeled = labels.notna().to_numpy()
    if labels.nunique() > 1:
        kept = np.asarray(as_text(labels[labeled]))
        if labels.nunique() < len(kept):  # else no cell has another one of its type
            scores["silhouette_score"] = silhouette_score(points[labeled], kept)
        scores["knn_purity"] = knn_purity(points[labeled], kept)
    return scores
