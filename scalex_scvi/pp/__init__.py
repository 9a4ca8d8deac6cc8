"""Preprocessing: counts in, expression scaled to [0, 1] within each batch out."""

from ._query import prepare_query
from ._record import Preprocessing
from ._reindex import reindex
from ._rna import filter_cells, rna
from ._scale import batch_scale

__all__ = ["Preprocessing", "batch_scale", "filter_cells", "prepare_query", "reindex", "rna"]
