"""Preprocessing: counts in, values scaled to [0, 1] within each batch out."""

from ._adt import adt
from ._atac import atac
from ._filter import filter_cells
from ._preprocess import preprocess
from ._query import prepare_query
from ._record import Preprocessing
from ._reindex import reindex
from ._rna import rna
from ._scale import batch_scale

__all__ = [
    "Preprocessing",
    "adt",
    "atac",
    "batch_scale",
    "filter_cells",
    "prepare_query",
    "preprocess",
    "reindex",
    "rna",
]
