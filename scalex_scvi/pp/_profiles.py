"""The kinds of data: the words for them, and what is done by default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ._preparation import DROPPED_PREFIXES, Preparation


@dataclass(frozen=True)
class Profile:
    """A kind of data.

    Attributes
    ----------
    name
        What the record calls it.
    feature
        What a column is called in messages.
    naming
        In what the names of two data sets may differ.
    fractional_counts
        Whether counts that are not integers are usual (expected counts of full-length RNA).
    min_cells, target_sum, n_top_features, dropped_prefixes
        Defaults of :class:`Preparation`.
    """

    name: str
    feature: str
    naming: str
    fractional_counts: bool = False
    min_cells: int = 3
    target_sum: float | None = 1e4
    n_top_features: int = -1
    dropped_prefixes: tuple[str, ...] = ()

    @property
    def features(self) -> str:
        """Several columns."""
        return f"{self.feature}s"

    def complete(self, given: Preparation) -> dict[str, Any]:
        """Return the options with the profile's defaults in the place of ``None``.

        Raises
        ------
        TypeError
            For an option that the profile does not take.
        """
        if given.processed:
            given = given.but(
                min_cells=0, n_top_features=-1, dropped_prefixes=(), log_normalized=True
            )
        for option, taken in (
            ("target_sum", self.target_sum is not None),
            ("dropped_prefixes", bool(self.dropped_prefixes) or not given.dropped_prefixes),
            ("log1p", self.name == "ATAC"),
        ):
            if getattr(given, option) is not None and not taken:
                msg = (
                    f"`profile` {self.name!r} takes no `{option}`, got {getattr(given, option)!r}."
                )
                raise TypeError(msg)
        options = {
            "min_features": 0,
            "min_cells": self.min_cells,
            "target_sum": self.target_sum,
            "n_top_features": self.n_top_features,
            "dropped_prefixes": self.dropped_prefixes,
            "log1p": True,
        }
        chosen = {name: getattr(given, name) for name in options}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        prefixes = chosen.get("dropped_prefixes", ())
        if isinstance(prefixes, str):
            chosen["dropped_prefixes"] = (prefixes,)
        return options | chosen


RNA = Profile(
    "RNA",
    "gene",
    "kind (symbols, Ensembl ids) and species",
    fractional_counts=True,
    n_top_features=2000,
    dropped_prefixes=DROPPED_PREFIXES,
)
ATAC = Profile(
    "ATAC",
    "peak",
    "form (chr1:1-500, chr1_1_500), peak set and genome",
    n_top_features=30_000,
)
ADT = Profile("ADT", "protein", "form (CD3, CD3_TotalSeqB)", min_cells=1, target_sum=None)

PROFILES = {profile.name: profile for profile in (RNA, ATAC, ADT)}


def get_profile(name: str) -> Profile:
    """Return a kind of data: what its features are called, and what is done by default.

    Parameters
    ----------
    name
        ``"RNA"``, ``"ATAC"`` or ``"ADT"``, upper or lower case.

    Raises
    ------
    ValueError
        If there is no such profile.
    """
    profile = PROFILES.get(name.upper()) if isinstance(name, str) else None
    if profile is None:
        msg = f"`profile` {name!r} is unknown; allowed are {list(PROFILES)!r}."
        raise ValueError(msg)
    return profile
