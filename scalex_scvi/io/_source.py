"""Choice of the counts (``X`` or ``.raw``) and of the gene names of each source."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.utils import make_index_unique
from scipy import sparse

from scalex_scvi._core.gene_names import (
    SYMBOL_COLUMNS,
    are_ids,
    share_of_ids,
    without_versions,
)
from scalex_scvi._core.matrices import is_lazy, layer_names
from scalex_scvi._core.reading import reading

logger = logging.getLogger(__name__)

RAW = "raw"
"""Name of ``.raw`` among the layers."""

SOME_CELLS = 512
"""Number of first cells whose values decide whether a matrix holds whole numbers."""

_MIXED = (0.05, 0.95)
"""Names with a share of Ensembl ids between these two are a mixture."""


@dataclass(frozen=True)
class Taking:
    """Which counts and which gene names are taken of each source.

    Attributes
    ----------
    raw
        Whether the expression in ``.raw`` is taken; ``None``: only of sources whose ``X`` does not
        hold counts while ``.raw`` does.
    gene_names
        Column of ``var`` with the names of genes; ``None``: ``var_names``, or a column of symbols
        if these are Ensembl ids and other sources have symbols.
    """

    raw: bool | None = False
    gene_names: str | None = None

    def of(self, adatas: list[AnnData], names: Sequence[str]) -> list[AnnData]:
        """Return what is taken of each source.

        Parameters
        ----------
        adatas
            The sources, cells × genes; not changed.
        names
            Name of each in messages.

        Returns
        -------
        One object for each source: the same where all of it is taken as it is, else a new one.

        Raises
        ------
        KeyError
            If a source has no ``.raw``, or lacks the column ``gene_names``.
        """
        adatas = [self._counts(adata, name) for adata, name in zip(adatas, names, strict=True)]
        if self.gene_names is not None:
            return [
                _named_by(adata, self.gene_names, name)
                for adata, name in zip(adatas, names, strict=True)
            ]
        return _named_alike(adatas, names)

    def _counts(self, adata: AnnData, name: str) -> AnnData:
        if self.raw and RAW not in adata.layers:
            return from_raw(adata, name=name)
        if self.raw is None and adata.raw is not None and not adata.isbacked:
            if whole_numbers(adata.X) is False and whole_numbers(adata.raw.X):
                logger.warning(
                    "%s: X holds normalized values, and .raw counts of %d genes: these are taken. "
                    "Pass `log_normalized=True` to take X.",
                    name,
                    adata.raw.n_vars,
                )
                return from_raw(adata, name=name)
        return adata


def from_raw(adata: AnnData, *, name: str = "`adata`") -> AnnData:
    """Return the expression in ``.raw`` as an object of its own, with its genes.

    Parameters
    ----------
    adata
        Cells with ``.raw``. Not changed.
    name
        Name of the cells in messages.

    Returns
    -------
    Cells × genes of ``.raw``, with ``obs``, ``obsm`` and ``uns`` of ``adata``. Columns of ``var``
    that only ``adata`` has, such as symbols, are added where more than half of the genes match.

    Raises
    ------
    KeyError
        If there is no ``.raw``.
    """
    if adata.raw is None:
        msg = (
            f"{name} has no .raw to take counts from. It has X and the layers "
            f"{layer_names(adata)!r}."
        )
        raise KeyError(msg)
    matrix = adata.raw.X
    if adata.isbacked and hasattr(matrix, "to_memory"):
        matrix = matrix.to_memory()
    var = adata.raw.var.copy()
    # Files of CELLxGENE have the symbols beside X alone.
    missing = [column for column in adata.var if column not in var]
    shared = var.index.intersection(adata.var_names)
    if missing and adata.var_names.is_unique and len(shared) > len(var) / 2:
        var[missing] = adata.var[missing].reindex(var.index)
    return AnnData(matrix, obs=adata.obs, var=var, obsm=dict(adata.obsm), uns=dict(adata.uns))


def with_raw(adata: AnnData, layer: str | None) -> tuple[AnnData, str | None]:
    """Return cells and the layer to use: for ``"raw"`` an object whose ``X`` is ``.raw``.

    Parameters
    ----------
    adata
        Cells. Not changed.
    layer
        Key of a layer, ``None`` for ``X``, or ``"raw"`` for ``.raw`` (for the layer ``"raw"``, if
        there is one).

    Returns
    -------
    The cells and the layer as they are; for ``.raw`` the new object and ``None``.

    Raises
    ------
    KeyError
        If ``.raw`` is asked for and absent.
    """
    if layer == RAW and RAW not in adata.layers:
        return from_raw(adata), None
    return adata, layer


def whole_numbers(matrix: Any) -> bool | None:
    """Whether the first 512 cells hold whole numbers only, as counts do.

    Parameters
    ----------
    matrix
        Cells × genes, in memory or on disk.

    Returns
    -------
    ``None`` if it cannot be told: no matrix, a dask array, no numbers, or zeros only.
    """
    if matrix is None or is_lazy(matrix):
        return None
    with reading(matrix):
        some = matrix[:SOME_CELLS]
    values = some.data if sparse.issparse(some) else np.asarray(some)
    if values.dtype.kind not in "iuf" or not values.any():
        return None
    return bool((values == np.rint(values)).all())


def layers_of_counts(adata: AnnData) -> list[str]:
    """Return the layers that hold whole numbers where ``X`` does not; usually none.

    Parameters
    ----------
    adata
        Cells × genes.
    """
    if whole_numbers(adata.X) is not False:
        return []
    return [name for name in layer_names(adata) if whole_numbers(adata.layers[name])]


def _named_by(adata: AnnData, column: str, name: str) -> AnnData:
    if column not in adata.var:
        msg = (
            f"`gene_names` {column!r} is not a column of var of {name}: "
            f"{list(adata.var.columns)!r}."
        )
        raise KeyError(msg)
    values = adata.var[column]
    # A gene without a symbol keeps its id.
    without = (values.isna() | (values.astype(str) == "")).to_numpy()
    names = np.where(without, adata.var_names.astype(str), values.astype(str))
    return _renamed(adata, pd.Index(names))


def _renamed(adata: AnnData, names: pd.Index) -> AnnData:
    var = adata.var.copy()
    var.index = make_index_unique(pd.Index(names, name=None))
    if adata.isbacked:
        adata = adata.to_memory()
    layers = {key: adata.layers[key] for key in layer_names(adata)}
    return AnnData(
        adata.X, obs=adata.obs, var=var, layers=layers, obsm=dict(adata.obsm), uns=dict(adata.uns)
    )


def _named_alike(adatas: list[AnnData], names: Sequence[str]) -> list[AnnData]:
    """Name the genes of all sources in one way where Ensembl ids and symbols are mixed up.

    Sources of ids get symbols if others have symbols; ids lose their versions if these differ. A
    source whose own names are a mixture is only reported.
    """
    for adata, name in zip(adatas, names, strict=True):
        share = share_of_ids(adata.var_names)
        if _MIXED[0] < share < _MIXED[1]:
            logger.warning(
                "The names of genes of %s are a mixture: about %.0f %% are Ensembl ids, the others "
                "are not. Genes match by name alone: see `gene_names`.",
                name,
                100 * share,
            )
    if len(adatas) < 2:
        return adatas
    named_by_ids = [are_ids(adata.var_names) for adata in adatas]
    if any(named_by_ids) and not all(named_by_ids):
        return [
            _by_symbols(adata, name) if by_ids else adata
            for adata, name, by_ids in zip(adatas, names, named_by_ids, strict=True)
        ]
    if all(named_by_ids):
        return _without_different_versions(adatas)
    return adatas


def _by_symbols(adata: AnnData, name: str) -> AnnData:
    for column in SYMBOL_COLUMNS:
        if column in adata.var:
            logger.warning(
                "%s has Ensembl ids where other sources have symbols: its genes are named by "
                "var[%r].",
                name,
                column,
            )
            return _named_by(adata, column, name)
    return adata


def _without_different_versions(adatas: list[AnnData]) -> list[AnnData]:
    plain = [without_versions(adata.var_names) for adata in adatas]
    together, alike = adatas[0].var_names, plain[0]
    for adata, names in zip(adatas[1:], plain[1:], strict=True):
        together, alike = together.intersection(adata.var_names), alike.intersection(names)
    if len(together) >= len(alike) / 2:
        return adatas
    logger.warning("The versions of Ensembl ids differ between the sources: they are left out.")
    return [_renamed(adata, names) for adata, names in zip(adatas, plain, strict=True)]
