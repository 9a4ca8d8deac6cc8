"""Names under which results lie in an AnnData."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

BATCH_COLUMN_KEY = "scalex_batch_key"
"""Where ``uns`` says which column of ``obs`` holds the batches."""

LATENT_KEY = "X_scalex"
"""Of the latent, in ``obsm``, by the functions that work in place."""

UMAP_KEY = "X_umap"
"""Of two dimensions to look at, in ``obsm``, as scanpy has it."""

IMPUTED_KEY = "scalex_imputed"
"""In ``uns`` of a file of imputed expression, which is known by it."""

MAPPING_KEY = "scalex_mapping"
"""Of what a mapping found, in ``uns``."""

MEASURED_KEY = "scalex_measured"
"""In ``var``: whether the cells came with the gene. Absent: they have all."""

MEASURED_IN_QUERY_KEY = "scalex_measured_in_query"
"""The same of a query's cells that are joined with their reference, which has all genes."""

UNMEASURED_KEY = "scalex_unmeasured"
"""In ``attrs`` of a data frame, cells × genes: names of the genes that the cells came without."""

UNCORRECTED_UMAP_KEY = "X_umap_uncorrected"
"""Of the map before integration, in ``obsm``."""

REFERENCE_UMAP_KEY = "X_umap_reference"
"""Of the reference's own map with the query's cells placed on it, in ``obsm``."""


def own_keys(names: Iterable[Any]) -> list[Any]:
    """Return columns or keys but those of scvi-tools' registration."""
    return [name for name in names if not str(name).startswith("_scvi")]
