"""Label transfer from a reference to a query in a shared latent space."""

from __future__ import annotations

from typing import Literal, overload

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.neighbors import KNeighborsClassifier


@overload
def label_transfer(
    ref: AnnData,
    query: AnnData,
    rep: str = ...,
    label: str = ...,
    *,
    n_neighbors: int = ...,
    return_proba: Literal[False] = ...,
) -> pd.Series: ...
@overload
def label_transfer(
    ref: AnnData,
    query: AnnData,
    rep: str = ...,
    label: str = ...,
    *,
    n_neighbors: int = ...,
    return_proba: Literal[True],
) -> tuple[pd.Series, pd.DataFrame]: ...
def label_transfer(
    ref: AnnData,
    query: AnnData,
    rep: str = "latent",
    label: str = "celltype",
    *,
    n_neighbors: int = 10,
    return_proba: bool = False,
) -> pd.Series | tuple[pd.Series, pd.DataFrame]:
    """Give each query cell the label of the majority of its neighbours in the reference.

    Parameters
    ----------
    ref
        Reference cells with ``obsm[rep]`` and ``obs[label]``.
    query
        Cells to label, with ``obsm[rep]`` in the same space.
    rep
        Key in ``obsm`` of both; ``"X"`` uses the matrix itself.
    label
        Column of ``ref.obs``.
    n_neighbors
        Neighbours that vote (Euclidean distance, equal votes); at most the size of the reference.
    return_proba
        Whether to return the shares of votes too.

    Returns
    -------
    Labels of the query cells, categorical with the categories of the reference, indexed by
    ``query.obs_names``; with ``return_proba`` also a data frame cells × labels whose rows sum
    to 1. Ties go to the label that sorts first.

    Raises
    ------
    KeyError
        If ``rep`` or ``label`` is absent.
    ValueError
        If labels are missing, or the two representations differ in width.
    """
    points, targets = _representation(ref, rep, "ref"), _representation(query, rep, "query")
    if points.shape[1] != targets.shape[1]:
        msg = (
            f"`rep` {rep!r} has {points.shape[1]} dimensions in `ref` and {targets.shape[1]} in "
            "`query`: they are not of the same space."
        )
        raise ValueError(msg)
    labels = _labels(ref, label)
    knn = KNeighborsClassifier(n_neighbors=min(n_neighbors, len(points)))
    proba = knn.fit(points, labels.cat.codes.to_numpy()).predict_proba(targets)
    names = labels.cat.categories[knn.classes_]
    transferred = pd.Series(
        pd.Categorical.from_codes(knn.classes_[proba.argmax(axis=1)], dtype=labels.dtype),
        index=query.obs_names,
        name=label,
    )
    if not return_proba:
        return transferred
    return transferred, pd.DataFrame(proba, index=query.obs_names, columns=names)


def _representation(adata: AnnData, rep: str, which: str) -> np.ndarray:
    if rep == "X":
        return adata.X
    if rep not in adata.obsm:
        msg = f"`rep` {rep!r} is not in {which}.obsm: {list(adata.obsm)!r}."
        raise KeyError(msg)
    return np.asarray(adata.obsm[rep])


def _labels(ref: AnnData, label: str) -> pd.Series:
    if label not in ref.obs:
        msg = f"`label` {label!r} is not a column of ref.obs: {list(ref.obs.columns)!r}."
        raise KeyError(msg)
    labels = ref.obs[label].astype("category").cat.remove_unused_categories()
    n_missing = int(labels.isna().sum())
    if n_missing:
        msg = (
            f"ref.obs[{label!r}] is missing for {n_missing} of {ref.n_obs} cells. "
            "Leave those cells out of `ref`."
        )
        raise ValueError(msg)
    return labels
