"""SCALEX for scvi-tools: online integration of single-cell data."""

from importlib.metadata import version

from . import datasets, io, metrics, pl, pp, tl, train
from .model import SCALEXModel
from .tl import label_transfer
from .workflow import SCALEX

__version__ = version("scalex-scvi")

__all__ = [
    "SCALEX",
    "SCALEXModel",
    "__version__",
    "datasets",
    "io",
    "label_transfer",
    "metrics",
    "pl",
    "pp",
    "tl",
    "train",
]
