"""Expression of genes that a query did not measure, from its neighbors in the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from scalex_scvi._core.keys import MEASURED_KEY
from scalex_scvi._core.matrices import is_lazy, layer_names
from scalex_scvi._core.measured import mark_measured, measured_genes
from scalex_scvi._core.ranges import check_whole

from ._points import points_of

_CHUNK = 4096


def transfer_expression(
    ref: AnnData,
    query: AnnData,
    genes: Sequence[str] | None = None,
    *,
    use_rep: str = "latent",
    n_neighbors: int = 30,
    weights: Literal["uniform", "distance"] = "uniform",
    layer: str | None = None,
    use_raw: bool | None = None,
) -> AnnData:
    """Give each query cell the mean expression of its neighbors in the reference.

    For queries that measured few genes, such as spots or cells of a spatial panel. The result is
    smooth: it shows where a gene is high or low, not how it varies among neighboring cells. It is
    an average of the reference, whose batch effects are in it. Check it on measured genes that you
    leave out.

    Parameters
    ----------
    ref
        Reference cells with ``obsm[use_rep]`` and the expression to transfer.
    query
        Cells or spots with ``obsm[use_rep]`` in the same space. It is not changed.
    genes
        Genes of the reference to transfer. ``None``: those that are not in ``query.var_names``, or
        are marked as missing there, ``var["scalex_measured"]``, as those of ``get_prepared()`` and
        :func:`scalex_scvi.pp.prepare_query` are.
    use_rep
        Key in ``obsm`` of both.
    n_neighbors
        Neighbors to average (Euclidean distance); at most the size of the reference. More make
        it smoother.
    weights
        ``"uniform"``: plain mean; ``"distance"``: weighted by the inverse of the distance.
    layer
        Layer of ``ref`` to transfer.
    use_raw
        Whether to transfer ``ref.raw``, which holds the log-normalized expression of all genes
        after :func:`scalex_scvi.pp.rna`. ``None``: if there is one and no ``layer`` is given.

    Returns
    -------
    A new AnnData, query cells × ``genes``: ``X`` (float32; CSR where the reference is sparse) in
    the units of the reference, ``obs`` and ``obsm`` of the query, and ``var`` of the reference,
    where ``"scalex_measured"`` is False for genes that the query lacks.

    Raises
    ------
    KeyError
        If ``use_rep`` or ``layer`` is absent.
    ValueError
        If genes are unknown or repeat, if none is left, if the representations differ in width or
        are not finite, or for bad ``n_neighbors``, ``weights`` or ``use_raw``.
    """
    matrix, var = _source(ref, layer, use_raw)
    wanted = _wanted_genes(var.index, query, genes)
    neighbors = _neighbor_weights(ref, query, use_rep, n_neighbors, weights)
    # Both sparse where the reference is: nothing dense is ever held.
    transferred = neighbors @ _columns(matrix, var.index.get_indexer_for(wanted))
    if sparse.issparse(transferred):
        transferred = sparse.csr_matrix(transferred)
    own = var.loc[wanted].drop(columns=MEASURED_KEY, errors="ignore")
    mark_measured(own, own.index.isin(_own_genes(query)))
    return AnnData(
        X=transferred.astype(np.float32),
        obs=query.obs.copy(),
        var=own,
        obsm={key: value.copy() for key, value in query.obsm.items()},
    )


def _own_genes(query: AnnData) -> pd.Index:
    """Return the genes that the query has, and did not get as zeros."""
    measured = measured_genes(query.var)
    return query.var_names if measured is None else query.var_names[measured]


def _source(ref: AnnData, layer: str | None, use_raw: bool | None) -> tuple[Any, pd.DataFrame]:
    """Return the expression to transfer, and its genes."""
    if use_raw and (ref.raw is None or layer is not None):
        problem = "there is no `ref.raw`" if ref.raw is None else f"`layer` is {layer!r}"
        msg = f"`use_raw` is True, but {problem}."
        raise ValueError(msg)
    if layer is not None:
        if layer not in ref.layers:
            msg = f"`layer` {layer!r} is not in ref.layers: {layer_names(ref)!r}."
            raise KeyError(msg)
        return ref.layers[layer], ref.var
    if ref.raw is not None and use_raw is not False:
        return ref.raw.X, ref.raw.var
    return ref.X, ref.var


def _wanted_genes(available: pd.Index, query: AnnData, genes: Sequence[str] | None) -> list[str]:
    if genes is None:
        wanted = list(available[~available.isin(_own_genes(query))])
        if not wanted:
            msg = (
                f"The query has all {len(available)} genes of the reference. List the genes to "
                "transfer in `genes`."
            )
            raise ValueError(msg)
    else:
        wanted = [genes] if isinstance(genes, str) else list(genes)
    if not wanted:
        msg = "`genes` is empty. Name genes of the reference, or leave `genes` out."
        raise ValueError(msg)
    unknown = [gene for gene in wanted if gene not in available]
    if unknown:
        msg = (
            f"{len(unknown)} of {len(wanted)} `genes` are not among the {len(available)} of the "
            f"reference: {unknown[:5]!r}."
        )
        raise ValueError(msg)
    listed = pd.Index(wanted)
    twice = list(listed[listed.duplicated()].unique())
    if twice:
        msg = f"`genes` has {twice[:5]!r} more than once. Name each once."
        raise ValueError(msg)
    repeated = list(available[available.duplicated()].intersection(wanted))
    if repeated:
        msg = f"Genes occur more than once: {repeated[:5]!r}. Run `ref.var_names_make_unique()`."
        raise ValueError(msg)
    return wanted


def _columns(matrix: Any, columns: np.ndarray) -> Any:
    """Cells × genes, in memory, sparse if the source is; others are read or computed in chunks."""
    if isinstance(matrix, np.ndarray):
        return matrix[:, columns]
    if sparse.issparse(matrix):
        return sparse.csr_matrix(matrix)[:, columns]
    starts = range(0, matrix.shape[0], _CHUNK)
    parts = [_columns(_in_memory(matrix[start : start + _CHUNK]), columns) for start in starts]
    return sparse.vstack(parts, format="csr") if sparse.issparse(parts[0]) else np.vstack(parts)


def _in_memory(block: Any) -> np.ndarray | sparse.spmatrix:
    block = block.compute() if is_lazy(block) else block
    return block if sparse.issparse(block) else np.asarray(block)


def _neighbor_weights(
    ref: AnnData, query: AnnData, use_rep: str, n_neighbors: int, weights: str
) -> sparse.csr_matrix:
    """Query × reference: the share of each reference cell in a query cell; rows sum to 1."""
    if weights not in ("uniform", "distance"):
        msg = f"`weights` must be 'uniform' or 'distance', got {weights!r}."
        raise ValueError(msg)
    check_whole(n_neighbors, 1, name="n_neighbors")
    points, targets = points_of(ref, use_rep, "ref"), points_of(query, use_rep, "query")
    if points.shape[1] != targets.shape[1]:
        msg = (
            f"`use_rep` {use_rep!r} has {points.shape[1]} dimensions in `ref` and "
            f"{targets.shape[1]} in `query`: they are not of the same space."
        )
        raise ValueError(msg)
    n_neighbors = min(n_neighbors, len(points))
    distances, index = NearestNeighbors(n_neighbors=n_neighbors).fit(points).kneighbors(targets)
    shares = np.ones_like(distances)
    if weights == "distance":
        same = distances == 0
        # Where a reference cell is at the very place, only such cells count.
        shares = np.where(same.any(axis=1, keepdims=True), same, 1 / np.where(same, 1, distances))
    shares /= shares.sum(axis=1, keepdims=True)
    starts = np.arange(0, index.size + 1, n_neighbors)
    return sparse.csr_matrix(
        (shares.ravel().astype(np.float32), index.ravel(), starts),
        shape=(len(targets), len(points)),
    )
