"""Types of features that one file may hold together, and the kind of data that each is for."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

COLUMN = "feature_types"
"""Column of ``var`` in which scanpy and Cell Ranger keep them."""

# Cell Ranger's words, and those of the multimodal data sets of NeurIPS 2021.
OWN = {
    "RNA": ("Gene Expression", "GEX"),
    "ATAC": ("Peaks", "ATAC"),
    "ADT": ("Antibody Capture", "ADT"),
}
_NO_PROFILE = ("Multiplexing Capture", "CRISPR Guide Capture", "Antigen Capture", "Custom")
_KNOWN = {kind for kinds in OWN.values() for kind in kinds} | set(_NO_PROFILE)
# Cell Ranger before 6 counts hashtags as antibodies.
_HASHTAG = re.compile(r"hash[ _-]?tag|^HTO(?![a-z])", re.IGNORECASE)


def own_features(var: pd.DataFrame, profile: str) -> np.ndarray | None:
    """Tell which features are of the type that a profile takes.

    Parameters
    ----------
    var
        Annotation of the features.
    profile
        ``"RNA"``, ``"ATAC"`` or ``"ADT"``.

    Returns
    -------
    A mask, or ``None`` where ``var`` does not say of what type the features are. Hashtags among
    the antibodies, which tell samples apart, are of none.
    """
    if COLUMN not in var:
        return None
    kinds = kinds_of(var)
    if not kinds.isin(_KNOWN).any():
        return None
    own = kinds.isin(OWN[profile.upper()]).to_numpy()
    if profile.upper() == "ADT":
        own = own & ~are_hashtags(var)
    return own


def kinds_of(var: pd.DataFrame) -> pd.Series:
    """Return the type of each feature as text, empty where it is missing."""
    return var[COLUMN].astype(object).where(var[COLUMN].notna(), "").astype(str)


def are_hashtags(var: pd.DataFrame) -> np.ndarray:
    """Tell which features are hashtags by their names."""
    return np.array([bool(_HASHTAG.search(str(name))) for name in var.index], dtype=bool)


def left_out(var: pd.DataFrame, own: np.ndarray) -> str:
    """Return how many features of each type a mask leaves out, with an example of each."""
    others = var[~own]
    kinds = kinds_of(others)
    return ", ".join(
        f"{(kinds == kind).sum()} of type {kind!r} (such as {others.index[kinds == kind][0]!r})"
        for kind in kinds.unique()
    )


def none_left(var: pd.DataFrame, profile: str, where: str) -> str:
    """Return the message for data without a feature of the type that a profile takes."""
    there = sorted(set(kinds_of(var)))
    return (
        f"{where} has no feature of the type {OWN[profile.upper()][0]!r}, which `profile` "
        f"{profile!r} takes; it has {there!r}. Choose another profile, or correct "
        f"var[{COLUMN!r}]."
    )
