"""Label transfer from a reference to a query in a shared latent space."""

from __future__ import annotations

from functools import cache, partial
from typing import Literal, overload

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from scalex_scvi._core.columns import batch_codes, check_no_missing
from scalex_scvi._core.matrices import to_csr

from ._label_shares import Method, label_shares
from ._unknown import Novelty, Votes, check_max_refused, check_novelty, count_votes, fit_p_values

UNKNOWN = "unknown"
"""Label of query cells that fit no reference cells."""


@overload
def label_transfer(
    ref: AnnData,
    query: AnnData,
    rep: str = ...,
    label: str = ...,
    *,
    method: Method | None = ...,
    n_neighbors: int = ...,
    unknown: bool = ...,
    max_refused: float = ...,
    batch_key: str | None = ...,
    novelty: Novelty = ...,
    return_proba: Literal[False] = ...,
    return_details: Literal[False] = ...,
) -> pd.Series: ...
@overload
def label_transfer(
    ref: AnnData,
    query: AnnData,
    rep: str = ...,
    label: str = ...,
    *,
    method: Method | None = ...,
    n_neighbors: int = ...,
    unknown: bool = ...,
    max_refused: float = ...,
    batch_key: str | None = ...,
    novelty: Novelty = ...,
    return_proba: Literal[True],
    return_details: Literal[False] = ...,
) -> tuple[pd.Series, pd.DataFrame]: ...
@overload
def label_transfer(
    ref: AnnData,
    query: AnnData,
    rep: str = ...,
    label: str = ...,
    *,
    method: Method | None = ...,
    n_neighbors: int = ...,
    unknown: bool = ...,
    max_refused: float = ...,
    batch_key: str | None = ...,
    novelty: Novelty = ...,
    return_proba: Literal[False] = ...,
    return_details: Literal[True],
) -> pd.DataFrame: ...
@overload
def label_transfer(
    ref: AnnData,
    query: AnnData,
    rep: str = ...,
    label: str = ...,
    *,
    method: Method | None = ...,
    n_neighbors: int = ...,
    unknown: bool = ...,
    max_refused: float = ...,
    batch_key: str | None = ...,
    novelty: Novelty = ...,
    return_proba: Literal[True],
    return_details: Literal[True],
) -> tuple[pd.DataFrame, pd.DataFrame]: ...
def label_transfer(
    ref: AnnData,
    query: AnnData,
    rep: str = "latent",
    label: str = "celltype",
    *,
    method: Method | None = None,
    n_neighbors: int = 10,
    unknown: bool = False,
    max_refused: float = 0.05,
    batch_key: str | None = None,
    novelty: Novelty = "expression",
    return_proba: bool = False,
    return_details: bool = False,
) -> pd.Series | pd.DataFrame | tuple[pd.Series | pd.DataFrame, pd.DataFrame]:
    """Give each query cell the label that it most probably has, judged by the reference.

    Labels come from linear discriminants of the reference's representation and of its expression
    or, as published, from the majority of the neighbours in the representation (see ``method``).

    With ``unknown``, cells that fit their neighbours worse than nearly all held-out reference
    cells do are called ``"unknown"``. A cell's misfit is its dissimilarity to its neighbours (see
    ``novelty``) divided by the share of them that agree on a label. What is worse is decided by
    a conformal p-value: the share of held-out reference cells whose misfit is as large. With
    ``batch_key``, these are held out batch by batch, as a query is a batch that the reference
    lacks; the reference's latent has seen them in training, though, and a query has not.

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
    method
        ``"discriminant"``: each label is a Gaussian, all of one covariance and equally probable,
        and each batch of the query is first moved by the median of what its cells differ by
        from the means of their labels, so that a label depends on the other cells of the batch.
        ``"consensus"``: the mean of these probabilities and those of discriminants of up to 50
        principal components of the expression before scaling, which tell fine types apart that
        the few dimensions of a latent do not; ``ref`` and ``query`` need the same genes in ``X``,
        prepared by :mod:`scalex_scvi.pp`, as the ``adata`` of the reference's and the query's
        model are.
        ``"neighbors"`` (published): the majority of the ``n_neighbors`` nearest reference cells.
        ``None``: the consensus where it is possible, else discriminants (both were better than
        neighbours: docs/projection.md), else neighbours: for ``rep="X"``, which is not dense, and
        where no label has cells that differ.
    n_neighbors
        Neighbours that vote (Euclidean distance, equal votes), and that ``unknown`` compares with;
        at most the size of the reference.
    unknown
        Whether to call cells that do not fit ``"unknown"``. By default every cell gets a label of
        the reference.
    max_refused
        Share of held-out reference cells, in (0, 1), that may be called unknown although their
        type is in the reference. Smaller: fewer known cells refused, fewer new types found.
    batch_key
        Column of ``ref.obs`` with the batches; discriminants also take batches of the query from
        it, where ``query.obs`` has it. ``None``, or batches without a common label: held-out cells
        are compared with their own batch, and a warning is logged.
    novelty
        ``"expression"``: 1 − Pearson correlation of the cell's ``X`` with the mean of its
        neighbours, where both have the same genes and are prepared alike, as the ``adata`` of the
        reference's and the query's model are. ``"latent"``: mean distance to the neighbours in
        ``rep``, which needs no expression and found fewer new cells on four of five sets
        (docs/label_transfer.md).
    return_proba
        Whether to return the probabilities (of neighbours: shares of votes) of all labels too.
    return_details
        Whether to return a data frame instead of the labels alone.

    Returns
    -------
    Labels of the query cells, categorical with the categories of the reference (and
    ``"unknown"``, last, with ``unknown``), indexed by ``query.obs_names``. Ties go to the label
    that sorts first.

    With ``return_details`` a data frame instead: ``label`` (the same), ``probability`` (of the
    best label of the reference, in (0, 1]; not calibrated), ``uncertainty`` (1 − p-value, in
    [0, 1): the share of held-out reference cells that fit better) and ``is_unknown`` (whether the
    p-value is at most ``max_refused``, whatever ``unknown`` is).

    With ``return_proba`` also a data frame cells × labels of the reference whose rows sum to 1.

    Raises
    ------
    KeyError
        If ``rep``, ``label`` or ``batch_key`` is absent.
    ValueError
        If ``method`` is unknown or cannot use ``rep``, labels are missing, the two representations
        differ in width, the reference has a label ``"unknown"`` already, the genes differ
        (``novelty="expression"``), or there are too few held-out cells for ``max_refused``.

    Notes
    -----
    A p-value of a query cell is exact only if its batch differs from the reference's batches as
    these differ from each other. docs/label_transfer.md says how far that held on real data.
    """
    points, targets = _representation(ref, rep, "ref"), _representation(query, rep, "query")
    if points.shape[1] != targets.shape[1]:
        msg = (
            f"`rep` {rep!r} has {points.shape[1]} dimensions in `ref` and {targets.shape[1]} in "
            "`query`: they are not of the same space."
        )
        raise ValueError(msg)
    labels = _labels(ref, label, unknown=unknown)
    codes = labels.cat.codes.to_numpy()
    votes = cache(partial(_vote, points, codes, targets, n_neighbors))
    shares = label_shares(
        ref,
        query,
        points,
        targets,
        codes,
        method=method,
        rep=rep,
        batch_key=batch_key,
        votes=votes,
    )
    result: pd.Series | pd.DataFrame = pd.Series(
        pd.Categorical.from_codes(shares.argmax(axis=1), dtype=labels.dtype),
        index=query.obs_names,
        name=label,
    )
    if unknown or return_details:
        check_max_refused(max_refused)
        check_novelty(novelty)
        p = fit_p_values(
            votes(),
            points,
            codes,
            batch=_batches(ref, batch_key),
            max_refused=max_refused,
            expression=_shared_expression(ref, query) if novelty == "expression" else None,
        )
        if unknown:
            result = result.cat.add_categories(UNKNOWN).mask(p <= max_refused, UNKNOWN)
        if return_details:
            result = _details(result, shares, p, max_refused)
    if not return_proba:
        return result
    columns = labels.cat.categories
    return result, pd.DataFrame(shares, index=query.obs_names, columns=columns)


def _vote(points: np.ndarray, codes: np.ndarray, targets: np.ndarray, n_neighbors: int) -> Votes:
    knn = NearestNeighbors(n_neighbors=min(n_neighbors, points.shape[0])).fit(points)
    distances, neighbors = knn.kneighbors(targets)
    return count_votes(distances, neighbors, codes)


def _details(
    labels: pd.Series, shares: np.ndarray, p: np.ndarray, max_refused: float
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "label": labels,
            "probability": shares.max(axis=1),
            "uncertainty": 1 - p,
            "is_unknown": p <= max_refused,
        },
        index=labels.index,
    )


def _representation(adata: AnnData, rep: str, which: str) -> np.ndarray:
    if rep == "X":
        return adata.X
    if rep not in adata.obsm:
        msg = f"`rep` {rep!r} is not in {which}.obsm: {list(adata.obsm)!r}."
        raise KeyError(msg)
    return np.asarray(adata.obsm[rep])


def _labels(ref: AnnData, label: str, *, unknown: bool) -> pd.Series:
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
    if unknown and UNKNOWN in labels.cat.categories:
        msg = (
            f"ref.obs[{label!r}] has a label {UNKNOWN!r} already. Rename it, or leave those cells "
            "out of `ref`."
        )
        raise ValueError(msg)
    return labels


def _batches(ref: AnnData, batch_key: str | None) -> np.ndarray | None:
    if batch_key is None:
        return None
    if batch_key not in ref.obs:
        msg = f"`batch_key` {batch_key!r} is not a column of ref.obs: {list(ref.obs.columns)!r}."
        raise KeyError(msg)
    check_no_missing(ref, batch_key, what="batch")
    return batch_codes(ref, batch_key)[0]


def _shared_expression(ref: AnnData, query: AnnData) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    if ref.X is None or query.X is None or not ref.var_names.equals(query.var_names):
        msg = (
            f"`novelty='expression'` compares the same genes in `X`: `ref` has {ref.n_vars} genes "
            f"(X: {type(ref.X).__name__}), `query` {query.n_vars} (X: {type(query.X).__name__}), "
            "not the same ones or not in the same order. Pass the `adata` of the reference's and "
            "of the query's model, or `novelty='latent'`."
        )
        raise ValueError(msg)
    return to_csr(ref.X, name="ref.X"), to_csr(query.X, name="query.X")
