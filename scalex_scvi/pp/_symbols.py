"""Symbols of genes, whatever column holds them, and which genes they say to leave out."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from scalex_scvi._core.gene_names import SYMBOL_COLUMNS, are_ids

_GENOME = re.compile(r"^(?:GRC[a-z]\d+|hg\d+|mm\d+|[A-Z][A-Za-z]*\d+)_+")
"""What Cell Ranger puts before the names of a mixture of genomes: ``GRCh38_MT-CO1``."""


def symbols(var: pd.DataFrame) -> pd.Index:
    """Return the symbols of genes: their names or, where these are ids, a column of ``var``.

    A gene without a symbol has its id.

    Parameters
    ----------
    var
        Annotation of the genes.
    """
    if are_ids(var.index):
        for column in SYMBOL_COLUMNS:
            if column in var:
                known = var[column].notna().to_numpy()
                names = var[column].to_numpy(dtype=object)
                return pd.Index(
                    np.where(known, names, var.index.to_numpy(dtype=object)).astype(str)
                )
    return var.index.astype(str)


def starts_with(var: pd.DataFrame, prefixes: Sequence[str]) -> np.ndarray:
    """Tell for each gene whether its symbol, less the name of a genome, starts with a prefix."""
    if not prefixes:
        return np.zeros(len(var), dtype=bool)
    prefixes = tuple(prefixes)
    return np.array(
        [
            name.startswith(prefixes) or _GENOME.sub("", name).startswith(prefixes)
            for name in symbols(var)
        ],
        dtype=bool,
    )
