"""Reference and query of a label transfer: what is read of them, checked once."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from scalex_scvi._core.columns import as_text, batch_codes, check_no_missing
from scalex_scvi._core.inputs import check_adata
from scalex_scvi._core.matrices import to_csr
from scalex_scvi._core.measured import measured_genes
from scalex_scvi._core.ranges import check_whole
from scalex_scvi.pp import can_unscale, unscale

from ._neighborhoods import Neighbors, neighbors_by_batch
from ._points import points_of
from ._unknown import Votes, count_votes

logger = logging.getLogger(__name__)

NO_LABEL = frozenset(
    ("", "<na>", "n/a", "na", "nan", "none", "null", "unassigned", "undefined", "unknown")
)
"""Labels, in lower case, that are mostly written where a cell has none."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Reference and query of a label transfer, in one representation, with the checks of both.

    Parameters
    ----------
    ref, query
        Cells in one space.
    use_rep
        Key in ``obsm`` of both; ``"X"``: the matrix itself.
    labels_key
        Column of ``ref.obs``.
    batch_key
        Column of ``ref.obs``, and of ``query.obs`` if it is there.
    n_neighbors
        Reference cells that vote for the label of a cell.

    Raises
    ------
    KeyError
        If ``use_rep`` or ``labels_key`` is absent, or ``batch_key`` in both ``ref`` and ``query``.
    TypeError
        If a representation is sparse.
    ValueError
        If no cell is labeled, the two representations differ in width or are not finite, or
        ``n_neighbors`` is less than 1.
        Reference cells without a label are left out, with a warning.
    """

    ref: AnnData
    query: AnnData
    use_rep: str
    labels_key: str
    batch_key: str | None
    n_neighbors: int

    def __post_init__(self) -> None:
        check_adata(self.ref, name="ref")
        check_adata(self.query, name="query")
        for name, cells in (("ref", self.ref), ("query", self.query)):
            if cells.n_obs == 0:
                msg = f"`{name}` has no cells. Was it chosen by a name that does not occur?"
                raise ValueError(msg)
        check_whole(self.n_neighbors, 1, name="n_neighbors")
        key = self.batch_key
        if key is not None and key not in self.ref.obs and key not in self.query.obs:
            columns = list(self.ref.obs.columns)
            msg = f"`batch_key` {key!r} is not a column of ref.obs, {columns!r}, nor of query.obs."
            raise KeyError(msg)
        self._leave_out_unlabeled()
        self._leave_out_unmeasured()
        n_ref, n_query = self.points.shape[1], self.targets.shape[1]
        if n_ref != n_query:
            msg = (
                f"The representation {self.use_rep!r} has {n_ref} dimensions in `ref` and "
                f"{n_query} in `query`: they are not of the same space."
            )
            raise ValueError(msg)
        _ = self.labels

    def _leave_out_unlabeled(self) -> None:
        """Keep the labeled cells of the reference alone, in this object and not in the user's."""
        if self.labels_key not in self.ref.obs:
            return
        self._point_to_no_labels()
        labeled = self.ref.obs[self.labels_key].notna().to_numpy()
        if labeled.all():
            return
        if not labeled.any():
            msg = (
                f"No cell of the reference has a label in obs[{self.labels_key!r}]: all are "
                "missing. Name a column of its obs with labels."
            )
            raise ValueError(msg)
        logger.warning(
            "%d of %d reference cells have no %r: they are left out of the transfer.",
            (~labeled).sum(),
            len(labeled),
            self.labels_key,
        )
        object.__setattr__(self, "ref", self.ref[labeled])

    def _point_to_no_labels(self) -> None:
        """Say which labels read as if their cells had none: they are labels like all others."""
        key = self.labels_key
        names = as_text(self.ref.obs[key])
        for code, name in enumerate(names.categories):
            if name.strip().casefold() in NO_LABEL:
                logger.warning(
                    "%d of %d reference cells have the %r %r, which query cells get like any other "
                    "label. If these cells have no label, let it be missing: "
                    "`adata.obs[%r] = adata.obs[%r].where(adata.obs[%r] != %r)`.",
                    (names.codes == code).sum(),
                    len(names),
                    *(key, name, key, key, key, name),
                )

    def _leave_out_unmeasured(self) -> None:
        """Leave out genes that the reference lacks: zeros in their place say nothing."""
        measured = measured_genes(self.ref.var)
        if measured is not None and self.ref.var_names.equals(self.query.var_names):
            of_query = measured_genes(self.query.var)
            if of_query is not None and not (measured & of_query).any():
                msg = "`ref` and `query` were measured for different genes: none is in both."
                raise ValueError(msg)
            object.__setattr__(self, "ref", self.ref[:, measured])
            object.__setattr__(self, "query", self.query[:, measured])

    @cached_property
    def measured(self) -> np.ndarray:
        """Mask of the genes that the query came with, to compare it by."""
        found = measured_genes(self.query.var)
        return np.ones(self.query.n_vars, dtype=bool) if found is None else found

    def compared(self, x: Any) -> Any:
        """Return the genes of cells that the query came with."""
        return x if self.measured.all() else x[:, self.measured]

    @cached_property
    def points(self) -> Any:
        """Reference cells × dimensions."""
        return self._representation(self.ref, "ref")

    @cached_property
    def targets(self) -> Any:
        """Query cells × dimensions."""
        return self._representation(self.query, "query")

    def _representation(self, adata: AnnData, which: str) -> Any:
        if self.use_rep != "X":
            return points_of(adata, self.use_rep, which)
        same = self.ref.var_names.equals(self.query.var_names)
        return self.compared(adata.X) if same else adata.X

    @cached_property
    def labels(self) -> pd.Series:
        """Label of each reference cell as text, categorical; each category occurs."""
        key, obs = self.labels_key, self.ref.obs
        if key not in obs:
            msg = f"{key!r} is not a column of ref.obs with labels: {list(obs.columns)!r}."
            raise KeyError(msg)
        return pd.Series(as_text(obs[key]), index=obs.index, name=key)

    @property
    def codes(self) -> np.ndarray:
        """Code of each reference cell's label, from 0 on; each occurs."""
        return self.labels.cat.codes.to_numpy()

    @cached_property
    def votes(self) -> Votes:
        """What the neighbors of each query cell vote for."""
        n_neighbors = min(self.n_neighbors, self.points.shape[0])
        knn = NearestNeighbors(n_neighbors=n_neighbors).fit(self.points)
        distances, neighbors = knn.kneighbors(self.targets)
        return count_votes(distances, neighbors, self.codes)

    def ref_batches(self) -> np.ndarray | None:
        """Return the batch code of each reference cell, ``None`` without ``batch_key``.

        Raises
        ------
        KeyError, ValueError
            If the column is absent or incomplete.
        """
        key, obs = self.batch_key, self.ref.obs
        if key is None:
            return None
        if key not in obs:
            msg = f"`batch_key` {key!r} is not a column of ref.obs: {list(obs.columns)!r}."
            raise KeyError(msg)
        check_no_missing(self.ref, key, what="batch")
        return batch_codes(self.ref, key)[0]

    def query_batches(self) -> np.ndarray:
        """Return the batch code of each query cell: see :func:`batches_of_query`."""
        return batches_of_query(self.query, self.batch_key)

    @cached_property
    def query_neighbors(self) -> list[Neighbors]:
        """Nearest cells of each query cell in its own batch, by normalized expression."""
        return neighbors_by_batch(self.normalized(self.query), self.query_batches())

    def normalized(self, adata: AnnData) -> sparse.csr_matrix:
        """Return normalized expression of ``ref`` or ``query``: before scaling, if known of both.

        A copy of one at a time: whoever needs both one after the other never holds both.

        Raises
        ------
        ValueError
            If their genes are not the same, or values are NaN or infinite.
        """
        self._check_genes()
        if can_unscale(self.ref) and can_unscale(self.query):
            return unscale(adata)
        return _finite_csr(adata.X, "ref.X" if adata is self.ref else "query.X")

    def expression(self) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
        """Return ``X`` of reference and query, by the genes that the query came with.

        Raises
        ------
        ValueError
            If their genes are not the same, or values are NaN or infinite.
        """
        self._check_genes()
        ref, query = _finite_csr(self.ref.X, "ref.X"), _finite_csr(self.query.X, "query.X")
        return self.compared(ref), self.compared(query)

    def _check_genes(self) -> None:
        ref, query = self.ref, self.query
        if ref.X is None or query.X is None or not ref.var_names.equals(query.var_names):
            msg = (
                f"`novelty` compares the same genes in `X`: `ref` has {ref.n_vars} "
                f"genes (X: {type(ref.X).__name__}), `query` {query.n_vars} (X: "
                f"{type(query.X).__name__}), not the same ones or not in the same order. Pass what "
                "`model.get_prepared()` of both models gives, or `novelty='latent'`."
            )
            raise ValueError(msg)


def _finite_csr(matrix: Any, name: str) -> sparse.csr_matrix:
    x = to_csr(matrix, name=name)
    if not np.isfinite(x.data).all():
        msg = (
            f"{name} holds values that are NaN or infinite. Pass what `model.get_prepared()` gives."
        )
        raise ValueError(msg)
    return x


def batches_of_query(query: AnnData, batch_key: str | None) -> np.ndarray:
    """Return the batch code of each query cell; one batch where the query names none.

    Raises
    ------
    ValueError
        If the column is incomplete.
    """
    if batch_key is None or batch_key not in query.obs:
        return np.zeros(query.n_obs, dtype=np.int64)
    check_no_missing(query, batch_key, what="batch")
    return batch_codes(query, batch_key)[0]
