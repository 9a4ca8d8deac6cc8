"""Picking and ordering the columns of blocks of cells."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import sparse

from scalex_scvi._core.gene_names import how_to_map, kind_of
from scalex_scvi._core.keys import MEASURED_KEY
from scalex_scvi._core.ranges import check_share

from ._profiles import RNA, Profile

logger = logging.getLogger(__name__)

LOW_SHARE = 0.8
"""A share of found genes below this is worth a warning."""

MIN_GENE_SHARE = 0.3
"""A query that has less of the reference's features is refused, unless the user says otherwise."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a block are wanted, and where they go.

    Attributes
    ----------
    places
        For each column of the block its place among the wanted ones, or -1.
    n_wanted
        Number of wanted columns; those that the block lacks are empty.
    """

    places: np.ndarray
    n_wanted: int

    @classmethod
    def all_but(cls, left_out: np.ndarray) -> Columns:
        """Leave out some columns, and keep the order of the others."""
        kept = ~left_out
        places = np.where(kept, np.cumsum(kept) - 1, -1)
        return cls(places, int(kept.sum()))

    @classmethod
    def find(cls, available: pd.Index, wanted: pd.Index) -> Columns:
        """Find columns by name."""
        return cls(wanted.get_indexer(available), len(wanted))

    @classmethod
    def at(cls, positions: np.ndarray, n_columns: int) -> Columns:
        """Choose columns by position, in the given order."""
        places = np.full(n_columns, -1)
        places[positions] = np.arange(len(positions))
        return cls(places, len(positions))

    @property
    def n_found(self) -> int:
        """Number of wanted columns that the block has."""
        return int((self.places >= 0).sum())

    @cached_property
    def is_identity(self) -> bool:
        """Whether nothing is left out, added or moved."""
        n_columns = len(self.places)
        return n_columns == self.n_wanted and np.array_equal(self.places, np.arange(n_columns))

    @cached_property
    def keeps_order(self) -> bool:
        """Whether columns that are wanted come in the order in which they are."""
        kept = self.places[self.places >= 0]
        return bool((np.diff(kept) > 0).all())

    def pick(self, csr: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return the wanted columns of a block, sorted; of ``csr`` nothing changes."""
        if self.is_identity:
            return csr
        places = self.places.astype(np.int32)[csr.indices]
        kept = np.flatnonzero(places >= 0)
        starts = np.searchsorted(kept, csr.indptr).astype(np.int32)
        picked = sparse.csr_matrix(
            (csr.data[kept], places[kept], starts),
            shape=(csr.shape[0], self.n_wanted),
            copy=False,
        )
        if not self.keeps_order:
            picked.has_sorted_indices = False
            picked.sort_indices()
        return picked


def check_unique_genes(
    names: pd.Index, *, what: str, profile: Profile = RNA, in_list: bool = False
) -> None:
    """Raise if names of genes (or peaks, proteins) repeat, of cells or in a list of the user."""
    if not names.is_unique:
        repeated = list(names[names.duplicated()].unique())
        cells = "Run `adata.var_names_make_unique()`, or sum them."
        way_out = "Name each once: `list(dict.fromkeys(names))`." if in_list else cells
        msg = (
            f"{len(repeated)} {profile.feature} names of {what} occur more than once, for example "
            f"{repeated[:5]!r}. {way_out}"
        )
        raise ValueError(msg)


def check_share_found(
    var: pd.DataFrame, names: pd.Index, wanted: pd.Index, least: float, profile: Profile = RNA
) -> None:
    """Raise if a query has too few of the reference's features for its values to mean anything.

    Parameters
    ----------
    var
        Annotation of the query's features.
    names
        Their names, as they are used.
    wanted
        The reference's features.
    least
        Share of these that must be found, ``min_gene_share``.
    profile
        Kind of data.

    Raises
    ------
    ValueError
        With examples of both kinds of names, and how to map them.
    """
    check_share(least, name="min_gene_share", zero=True)
    n_found = int(wanted.isin(names).sum())
    if n_found and n_found >= least * len(wanted):
        return
    how_many = f"only {n_found}" if n_found else "none"
    columns = [name for name in var.columns if name != MEASURED_KEY]
    advice = how_to_map(names, wanted, columns) if profile is RNA else ""
    lower = (
        f" A query that was measured for few of them: pass `min_gene_share` below "
        f"{n_found / len(wanted):.2g}."
        if n_found
        else ""
    )
    msg = (
        f"The query shares {how_many} of the {len(wanted)} {profile.features} of the reference, "
        f"{100 * n_found / len(wanted):.1f} %, where {100 * least:g} % are needed "
        f"(`min_gene_share`). It has {list(names[:3])!r} … ({kind_of(names)}), the reference "
        f"{list(wanted[:3])!r} … ({kind_of(wanted)}): are the names of the same {profile.naming}? "
        f"{advice}{lower}"
    )
    raise ValueError(msg.strip())


def find_features(
    available: pd.Index, wanted: pd.Index, *, profile: Profile = RNA, report: bool = True
) -> Columns:
    """Find the wanted features by name, and report how many there are, if that is wanted.

    Raises
    ------
    ValueError
        If none is found, or a wanted one occurs more than once.
    """
    check_unique_genes(wanted, what=f"the {profile.feature} list", profile=profile, in_list=True)
    found = available.isin(wanted)
    what = "the query (among the wanted ones)"
    check_unique_genes(available[found], what=what, profile=profile)
    n_found = int(found.sum())
    if n_found == 0:
        msg = (
            f"The query shares none of the {len(wanted)} {profile.features} of the reference. It "
            f"has {list(available[:3])!r} …, the reference {list(wanted[:3])!r} …: are the names "
            f"of the same {profile.naming}?"
        )
        raise ValueError(msg)
    if not report:
        return Columns.find(available, wanted)
    share = n_found / len(wanted)
    level = logging.WARNING if share < LOW_SHARE else logging.INFO
    logger.log(
        level,
        "Found %d of %d %s of the reference (%.1f %%) in the query%s.",
        n_found,
        len(wanted),
        profile.features,
        100 * share,
        "" if n_found == len(wanted) else "; it lacks the others",
    )
    return Columns.find(available, wanted)
