"""Concatenation of data sets along the cells."""

from __future__ import annotations

import logging
from functools import reduce
from typing import Literal, TypeAlias

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scalex_scvi._core.colors import join_colors
from scalex_scvi._core.gene_names import are_peaks
from scalex_scvi._core.matrices import check_no_mask

from ._formats import repeated_names_expected
from ._source import whole_numbers

logger = logging.getLogger(__name__)

FEW_SHARED = 0.3
"""If the sources share less than this part of the smallest one's features, a warning is logged: the
names are then usually of two kinds."""

Join: TypeAlias = Literal["inner", "outer"]


def concatenate(
    adatas: list[AnnData], names: list[str], *, key: str, join: Join, index_unique: str | None
) -> AnnData:
    """Concatenate data sets along the cells.

    Layers and ``obsm`` that a source lacks are left out, since their values would have to be
    invented, and so is an ``obsm`` of different widths.

    Parameters
    ----------
    adatas
        Cells × genes; not changed.
    names
        Name of each source, for the column and for messages.
    key
        Column of ``obs`` for the names.
    join
        ``"inner"``: genes that all sources have; ``"outer"``: genes that any source has, with zeros
        where a source lacks them.
    index_unique
        Text between the name of a cell and that of its source. ``None``: names of cells are kept,
        unless they repeat.

    Returns
    -------
    All cells × the joined genes, a new object in memory.

    Raises
    ------
    TypeError
        If a matrix is a masked array.
    ValueError
        If a source is empty, gene names repeat within one of several sources, or the sources have
        no gene in common.
    """
    _check_sources(adatas, names)
    sources = adatas
    shared = _check_genes(adatas, names, join)
    _warn_of_mixed_values(adatas, names)
    if any(key in adata.obs for adata in adatas):
        logger.info("obs[%r] is replaced by the names of the sources, %s.", key, names)
    adatas = [adata.to_memory() if adata.isbacked else adata for adata in adatas]
    layers, obsm = _common_keys(adatas)
    if join == "outer":
        adatas = [_for_outer_join(adata, layers, obsm) for adata in adatas]
    with repeated_names_expected():
        together = ad.concat(
            adatas,
            join=join,
            label=key,
            keys=names,
            merge="same",
            index_unique=index_unique,
            fill_value=0 if join == "outer" else None,
        )
    for key_of_obsm in set(together.obsm) - set(obsm):
        logger.info("obsm[%r] is left out: its width differs between sources.", key_of_obsm)
        del together.obsm[key_of_obsm]
    _report_genes(adatas, names, join, together.n_vars, shared)
    _make_cells_unique(together, key)
    _add_other_columns(together, adatas)
    join_colors(together, sources, but=key)
    return together


def _check_sources(adatas: list[AnnData], names: list[str]) -> None:
    for adata, name in zip(adatas, names, strict=True):
        if adata.n_obs == 0 or adata.n_vars == 0:
            msg = f"Source {name!r} is empty: {adata.n_obs} cells × {adata.n_vars} genes."
            raise ValueError(msg)
        for key, matrix in {"X": adata.X, **adata.layers, **adata.obsm}.items():
            check_no_mask(matrix, name=f"{key!r} of source {name!r}")
        if len(adatas) > 1 and not adata.var_names.is_unique:
            repeated = adata.var_names[adata.var_names.duplicated()].unique()
            msg = (
                f"Source {name!r} has {len(repeated)} gene names that repeat, such as "
                f"{list(repeated[:3])!r}: genes cannot be matched. Call "
                "`adata.var_names_make_unique()` first."
            )
            raise ValueError(msg)


def _warn_of_mixed_values(adatas: list[AnnData], names: list[str]) -> None:
    """Warn if some sources hold whole numbers and others do not, by a look at their first cells."""
    kinds: dict[bool, list[str]] = {True: [], False: []}
    for adata, name in zip(adatas, names, strict=True):
        whole = whole_numbers(adata.X)
        if whole is not None:
            kinds[whole].append(name)
    if kinds[True] and kinds[False]:
        logger.warning(
            "The values are whole numbers in the sources %s, and not in %s: are all counts?",
            kinds[True],
            kinds[False],
        )


def _check_genes(adatas: list[AnnData], names: list[str], join: Join) -> int:
    """Return the number of genes that all sources have.

    Raises
    ------
    ValueError
        If that is none (``join="inner"``), or a source shares no gene with any other
        (``join="outer"``).
    """
    n_shared = len(reduce(pd.Index.intersection, [adata.var_names for adata in adatas]))
    if len(adatas) == 1 or (join == "inner" and n_shared):
        return n_shared
    everything = adatas[0].var_names.append([adata.var_names for adata in adatas[1:]])
    in_several = everything[everything.duplicated()].unique()
    if join == "outer" and all(adata.var_names.isin(in_several).any() for adata in adatas):
        return n_shared
    examples = {
        name: list(adata.var_names[:2]) for name, adata in zip(names[:4], adatas, strict=False)
    }
    msg = (
        f"The data sets {names!r} have no gene in common. {_transposed(adatas, names)}"
        f"The genes begin with {examples!r}: are all names of one kind (symbols, ids) and species?"
    )
    raise ValueError(msg)


def _transposed(adatas: list[AnnData], names: list[str]) -> str:
    """Return a sentence for the error if one source seems to be transposed, else ``""``."""
    for cells, source in zip(adatas, names, strict=True):
        for genes, other in zip(adatas, names, strict=True):
            if cells is not genes and cells.obs_names.isin(genes.var_names).any():
                return (
                    f"Source {source!r} has genes of source {other!r} as names of its cells: one "
                    "of the two is transposed (turn it by `adata.T`, or a text table by "
                    "`scalex_scvi.io.read_file(path, cells_in=...)`). "
                )
    return ""


def _common_keys(adatas: list[AnnData]) -> tuple[list[str], list[str]]:
    """Return the layers, and the ``obsm`` of one width, that all sources have."""
    first, *others = adatas
    # anndata 0.13 lists X among the layers, as None.
    layers = [key for key in first.layers if key and all(key in a.layers for a in others)]
    obsm = [key for key in first.obsm if all(key in a.obsm for a in others)]
    return layers, [key for key in obsm if len({a.obsm[key].shape[1:] for a in adatas}) == 1]


def _for_outer_join(adata: AnnData, layers: list[str], obsm: list[str]) -> AnnData:
    """Return ``adata`` with a sparse ``X``, and only what needs no invented values.

    Zeros for a missing gene are free in a sparse matrix. An outer join of anndata would also fill
    layers and embeddings that a source lacks.
    """
    return AnnData(
        X=sparse.csr_matrix(adata.X) if isinstance(adata.X, np.ndarray) else adata.X,
        obs=adata.obs,
        var=adata.var,
        layers={key: adata.layers[key] for key in layers},
        obsm={key: adata.obsm[key] for key in obsm},
    )


def _report_genes(
    adatas: list[AnnData], names: list[str], join: Join, n_genes: int, n_shared: int
) -> None:
    fewest = min(adata.n_vars for adata in adatas)
    if len(adatas) > 1 and n_shared < FEW_SHARED * fewest:
        word = _features(adatas)
        logger.warning(
            "The sources share only %d of %d %s (%.1f %% of those of the smallest source): %s. %s",
            n_shared,
            fewest,
            word,
            100 * n_shared / fewest,
            {
                name: list(adata.var_names[:2])
                for name, adata in zip(names[:4], adatas, strict=False)
            },
            _ADVICE.get(word, _ADVICE["genes"]),
        )
    if join == "inner":
        logger.info(
            "%d genes are in all sources; the sources have %s.",
            n_genes,
            {name: adata.n_vars for name, adata in zip(names, adatas, strict=True)},
        )
        return
    logger.info(
        "%d genes, %d of them in all sources; missing and set to zero are %s.",
        n_genes,
        n_shared,
        {name: n_genes - adata.n_vars for name, adata in zip(names, adatas, strict=True)},
    )


_ADVICE = {
    "genes": "Are all names of one kind (symbols, ids) and species? See `gene_names`.",
    "peaks": "Peaks match by name alone: count all sources over one set of peaks.",
    "proteins": "Are all names of one form (CD3, CD3_TotalSeqB)?",
}


def _features(adatas: list[AnnData]) -> str:
    """Return what the features are called: genes, unless their types or names say otherwise."""
    of_types = {"Peaks": "peaks", "Antibody Capture": "proteins"}
    types = {kind for a in adatas if "feature_types" in a.var for kind in a.var["feature_types"]}
    if len(types) == 1 and (kind := types.pop()) in of_types:
        return of_types[kind]
    return "peaks" if all(are_peaks(adata.var_names) for adata in adatas) else "genes"


def _make_cells_unique(together: AnnData, key: str) -> None:
    if together.obs_names.is_unique:
        return
    logger.warning("Cell names repeat between batches: the batch name is added to each.")
    together.obs_names = together.obs_names + "-" + together.obs[key].astype(str)
    if not together.obs_names.is_unique:
        logger.warning("Cell names repeat within a batch: '-1', '-2' … is added to them.")
        together.obs_names_make_unique()


def _add_other_columns(together: AnnData, adatas: list[AnnData]) -> None:
    """Add the columns of obs that only some of the data sets have: they are kept, unlike genes."""
    obs = pd.concat([adata.obs for adata in adatas])
    for column in obs.columns.difference(together.obs.columns):
        together.obs[column] = obs[column].array
    for column in together.obs.columns:
        _make_writable(together.obs, column)


def _make_writable(obs: pd.DataFrame, column: str) -> None:
    """Convert a column of mixed types in place, as ``.h5ad`` can hold only one type."""
    values = obs[column]
    if not (isinstance(values.dtype, pd.CategoricalDtype) or values.dtype == object):
        return
    kind = pd.api.types.infer_dtype(values.astype(object), skipna=True)
    if kind == "boolean" and values.dtype == object:
        obs[column] = values.astype("boolean")
    elif kind in ("floating", "integer", "mixed-integer-float") and values.dtype == object:
        obs[column] = pd.to_numeric(values)
    elif kind.startswith("mixed"):
        logger.warning(
            "obs[%r] holds values of several kinds (text, numbers …): made text.", column
        )
        obs[column] = values.astype(object).map(str, na_action="ignore")
