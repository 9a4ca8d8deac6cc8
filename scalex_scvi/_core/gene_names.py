"""Names of genes: of what kind they are, and by which names two data sets have the same genes."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from anndata.utils import make_index_unique

SYMBOL_COLUMNS = (
    "gene_symbols",
    "gene_symbol",
    "gene_name",
    "gene_names",
    "feature_name",
    "symbol",
    "symbols",
    "SYMBOL",
    "gene_short_name",
)
"""Columns of ``var`` in which scanpy, CELLxGENE, Seurat and others keep symbols."""

ENOUGH, UNMISTAKABLE = 0.3, 0.5
"""Shares of the wanted genes: own names that have so many are used in any case; other names are
used by themselves if they have so many, and the own ones not enough."""

_ENSEMBL = re.compile(r"^(?:[A-Za-z0-9]+_+)?(ENS[A-Z]*)G\d{6,}")
_VERSION = re.compile(r"^(ENS[A-Z]*[GTP]\d{6,})\.\d+")
_PEAK = re.compile(r"^(?:chr)?\w+[:_-]\d+[-_]\d+$")
_LOOKED_AT = 1000


def are_ids(names: pd.Index) -> bool:
    """Whether most names are Ensembl ids."""
    return share_of_ids(names) > 0.5


def share_of_ids(names: pd.Index) -> float:
    """Share of Ensembl ids among some names, 0 to 1."""
    some = _some(names)
    return sum(bool(_ENSEMBL.match(name)) for name in some) / max(len(some), 1)


def are_peaks(names: pd.Index) -> bool:
    """Whether most names are places in a genome."""
    some = _some(names)
    return 2 * sum(bool(_PEAK.match(name)) for name in some) > len(some)


def _some(names: pd.Index) -> list[str]:
    step = max(len(names) // _LOOKED_AT, 1)
    return [str(name) for name in names[::step]]


def without_versions(names: pd.Index) -> pd.Index:
    """Return Ensembl ids without their versions (``ENSG00000075624.17``), other names as is."""
    return pd.Index([_VERSION.sub(r"\1", str(name)) for name in names])


def kind_of(names: pd.Index) -> str:
    """Say what names are, for a message."""
    some = _some(names)
    ids = [match[1] for match in map(_ENSEMBL.match, some) if match]
    if 0.1 < len(ids) / max(len(some), 1) < 0.9:
        return "a mixture of Ensembl ids and other names"
    if len(ids) > len(some) / 2:
        species = {"ENS": "human", "ENSMUS": "mouse"}.get(ids[0], f"{ids[0]}G…")
        versions = any(map(_VERSION.match, some))
        return f"Ensembl ids of {species}" + (" with versions" if versions else "")
    if are_peaks(names):
        return "places in a genome"
    letters = [name for name in some if name[:1].isalpha()]
    capitals = sum(name.upper() == name for name in letters)
    titles = sum(name[0].isupper() and name[1:].lower() == name[1:] for name in letters)
    if letters and capitals > 0.6 * len(letters):
        return "names in capitals, as symbols of human"
    if letters and titles > 0.6 * len(letters):
        return "names with one capital, as symbols of mouse"
    return "names of no known kind"


def names_in(
    var: pd.DataFrame, wanted: pd.Index, lookup: pd.Index | None = None
) -> tuple[pd.Index, str]:
    """Find the names by which a data set has the wanted genes.

    These are the names of its features, unless they have less than 30 % of the wanted ones and a
    column of ``var``, or either without the versions of ids, has at least half of them.

    Parameters
    ----------
    var
        Annotation of the features.
    wanted
        Genes to find.
    lookup
        All names that may be asked for, ``wanted`` among them; default: these.

    Returns
    -------
    The names, and where they are from: ``""`` for those of the features.
    """
    own = var.index.astype(str)
    if _share(own, wanted) >= ENOUGH:
        return own, ""
    lookup = wanted if lookup is None else lookup
    with_version = dict(zip(without_versions(lookup)[::-1], lookup[::-1], strict=True))
    best, source, most = own, "", UNMISTAKABLE
    columns = {f"var[{column!r}]": var[column] for column in var if _is_text(var[column])}
    for name, values in {"var_names": own, **columns}.items():
        plain = pd.Index(np.asarray(values).astype(str))
        stripped = pd.Index([with_version.get(gene, gene) for gene in without_versions(plain)])
        for names, how in ((plain, ""), (stripped, " without the versions of ids")):
            share = _share(names, wanted)
            if share > most or (share == most and best is own):
                best, source, most = names, name + how, share
    return (own, "") if best is own else (make_index_unique(best), source)


def _share(names: pd.Index, wanted: pd.Index) -> float:
    return float(wanted.isin(names).mean()) if len(wanted) else 0.0


def _is_text(values: pd.Series) -> bool:
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = pd.Series(values.cat.categories)
    return bool(
        pd.api.types.is_string_dtype(values.dtype) or pd.api.types.is_object_dtype(values.dtype)
    )


def how_to_map(names: pd.Index, wanted: pd.Index, columns: list[str]) -> str:
    """Say what is to be done about names that are not the wanted ones.

    Parameters
    ----------
    names, wanted
        Of the query and of the reference.
    columns
        Columns of the query's ``var``.
    """
    upper = pd.Index([str(name).upper() for name in names])
    if _share(upper, pd.Index([str(name).upper() for name in wanted])) >= ENOUGH:
        return (
            "They agree but for capitals, as symbols of human (ACTB) and mouse (Actb) do. Genes of "
            "another species are to be mapped by a table of orthologs (Ensembl BioMart, for "
            "example): `adata.var_names = [orthologs.get(g, g) for g in adata.var_names]`."
        )
    if are_ids(names) != are_ids(wanted):
        needed = "ids" if are_ids(wanted) else "symbols"
        return (
            f"The names of the reference are {'' if are_ids(wanted) else 'no '}Ensembl ids. If a "
            f"column of var holds {needed}, make them the names: `adata.var_names = "
            f"adata.var[column].astype(str)`; the columns are {columns!r}. Else map them by an "
            "annotation of the genome (GTF, Ensembl BioMart)."
        )
    if not columns:
        return ""
    return f"If a column of var holds the other names ({columns!r}), make it `adata.var_names`."
