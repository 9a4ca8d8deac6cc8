"""Preparation: counts in, values scaled to [0, 1] within each batch out."""

from ._filter import filter_cells
from ._preparation import DROPPED_PREFIXES, Preparation, ScaleBy
from ._prepare import prepare, prepare_query, unscale
from ._preprocess import adt, atac, batch_scale, preprocess, rna
from ._query import fit_query
from ._record import Preprocessing
from ._reindex import reindex
from ._transform import Transform
from ._values import check_unit_interval, looks_scaled, summarize

__all__ = [
    "DROPPED_PREFIXES",
    "Preparation",
    "Preprocessing",
    "ScaleBy",
    "Transform",
    "adt",
    "atac",
    "batch_scale",
    "check_unit_interval",
    "filter_cells",
    "fit_query",
    "looks_scaled",
    "prepare",
    "prepare_query",
    "preprocess",
    "reindex",
    "rna",
    "summarize",
    "unscale",
]
