"""The kinds of data, and the words for them."""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    name: str
    feature: str
    naming: str
    fractional_counts: bool = False

    @property
    def features(self) -> str:
        """Several columns."""
        return f"{self.feature}s"


RNA = Profile("RNA", "gene", "kind (symbols, Ensembl ids) and species", fractional_counts=True)
ATAC = Profile("ATAC", "peak", "form (chr1:1-500, chr1_1_500), peak set and genome")
ADT = Profile("ADT", "protein", "form (CD3, CD3_TotalSeqB)")

PROFILES = {profile.name: profile for profile in (RNA, ATAC, ADT)}


def get_profile(name: str) -> Profile:
    """Find a profile by its name, upper or lower case.

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
