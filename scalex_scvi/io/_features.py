"""Which features of a file are taken: those of one genome and of one type."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from scalex_scvi._core.feature_types import COLUMN, OWN, kinds_of, left_out, none_left, own_features
from scalex_scvi._core.reading import InputError

logger = logging.getLogger(__name__)

ALL_GENOMES = "all"
"""The choice of a genome that keeps the genes of every genome."""

_PREFIXED_ID = re.compile(r"^([A-Za-z0-9.-]+?)_+ENS[A-Z]*G\d+")
_NO_SYMBOL = ("NA", "NaN", "nan", "None")


@dataclass(frozen=True)
class Choice:
    """Type and genome of the features that are wanted.

    Attributes
    ----------
    profile
        ``"RNA"``, ``"ATAC"`` or ``"ADT"``: features of its type alone; ``None``: all.
    genome
        Genome whose genes are wanted, or ``"all"``; ``None`` for data of one genome.

    Raises
    ------
    ValueError
        If ``profile`` is unknown.
    """

    profile: str | None = None
    genome: str | None = None

    def __post_init__(self) -> None:
        if self.profile is not None and str(self.profile).upper() not in OWN:
            msg = f"`profile` {self.profile!r} is unknown; allowed are {list(OWN)!r}."
            raise ValueError(msg)


EVERYTHING = Choice()


def choose_features(
    adata: AnnData, choice: Choice, where: str | os.PathLike[str], *, must_choose: bool = False
) -> AnnData:
    """Return the wanted features; the same object if these are all.

    Parameters
    ----------
    adata
        Cells × features, not changed.
    choice
        What is wanted.
    where
        Name of the data in messages.
    must_choose
        Whether it is an error if there are several genomes and ``choice`` names none.

    Returns
    -------
    Cells × wanted features.

    Raises
    ------
    InputError
        If a genome must be chosen, the chosen one is absent, or no feature is of the type.
    """
    adata = _of_genome(adata, choice.genome, str(where), must_choose=must_choose)
    if choice.profile is None:
        if must_choose:
            _report_types(adata, str(where))
        return adata
    own = own_features(adata.var, choice.profile)
    if own is None or own.all():
        return adata
    if not own.any():
        raise InputError(none_left(adata.var, choice.profile, repr(str(where))))
    logger.warning(
        "%r: `profile` %r takes %d features of the type %r; left out are %s.",
        str(where),
        choice.profile,
        own.sum(),
        OWN[choice.profile.upper()][0],
        left_out(adata.var, own),
    )
    return adata[:, own].copy()


def name_by_id(names: pd.Index, ids: pd.Index) -> pd.Index:
    """Return names of genes: the symbol, or the id of a gene without one.

    A gene has no symbol if it is empty, or if several genes have the symbol ``NA``, ``NaN``,
    ``nan`` or ``None``.

    Parameters
    ----------
    names, ids
        Symbols and ids of the same genes, in the same order.
    """
    text = names.astype(str).to_numpy(dtype=object)
    missing = np.array([name.strip() == "" for name in text], dtype=bool)
    for word in _NO_SYMBOL:
        same = text == word
        if same.sum() > 1:
            missing |= same
    return pd.Index(np.where(missing, ids.astype(str).to_numpy(dtype=object), text))


def _genomes(var: pd.DataFrame) -> np.ndarray | None:
    """Genome of each feature, empty for antibodies; ``None`` where nothing is known of it."""
    if "genome" in var:
        return var["genome"].astype(object).where(var["genome"].notna(), "").to_numpy(dtype=object)
    if "gene_ids" not in var:
        return None
    found = [_PREFIXED_ID.match(str(name)) for name in var["gene_ids"]]
    genomes = np.array(["" if match is None else match.group(1) for match in found], dtype=object)
    # One prefix may be anything; several, of Ensembl ids, are what Cell Ranger writes.
    return genomes if len(set(genomes) - {""}) > 1 else None


def _of_genome(adata: AnnData, genome: str | None, where: str, *, must_choose: bool) -> AnnData:
    genomes = _genomes(adata.var)
    if genomes is None or genome == ALL_GENOMES or (genome is None and not must_choose):
        return adata
    counted = pd.Series(genomes[genomes != ""]).value_counts().to_dict()
    if genome is None and len(counted) < 2:
        return adata
    if genome is None or genome not in counted:
        given = "must be chosen" if genome is None else f"{genome!r} is not among them"
        msg = (
            f"{where!r} holds features of the genomes {counted!r}: `genome` {given}. Give one of "
            f"{list(counted)!r}, or {ALL_GENOMES!r} for all features."
        )
        raise InputError(msg)
    chosen = (genomes == genome) | (genomes == "")
    if not chosen.all():
        logger.warning("%r: features of %r are taken, of %s.", where, genome, counted)
        adata = adata[:, chosen].copy()
    return _without_prefix(adata, genome, where)


def _without_prefix(adata: AnnData, genome: str, where: str) -> AnnData:
    """Remove the genome before each name, as Cell Ranger names the genes of a single genome."""
    prefix = re.compile(rf"^{re.escape(genome)}_+(?=.)")
    names = [prefix.sub("", str(name)) for name in adata.var_names]
    if names == list(adata.var_names):
        return adata
    adata = adata.copy()
    example = next(old for old, new in zip(adata.var_names, names, strict=True) if old != new)
    logger.warning(
        "%r: names lose the genome, %r is now %r.", where, example, prefix.sub("", example)
    )
    adata.var_names = names
    if "gene_ids" in adata.var:
        adata.var["gene_ids"] = [prefix.sub("", str(name)) for name in adata.var["gene_ids"]]
    return adata


def _report_types(adata: AnnData, where: str) -> None:
    """Warn when a file holds more than one type of features: all of them are kept."""
    types = sorted(set(kinds_of(adata.var))) if COLUMN in adata.var else []
    if len(types) > 1:
        logger.warning(
            "%r holds features of the types %s. All are kept; `profile='RNA'` (or 'ATAC', 'ADT') "
            "takes those of one.",
            where,
            types,
        )
