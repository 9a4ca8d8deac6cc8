"""SCALEX for scvi-tools: online integration of single-cell data."""

from importlib.metadata import version

from . import datasets, io, metrics, pl, pp, tl
from .model import SCALEXModel
from .tl import label_transfer

__version__ = version("scalex-scvi")

__all__ = [
    "SCALEXModel",
    "__version__",
    "datasets",
    "io",
    "label_transfer",
    "metrics",
    "pl",
    "pp",
    "tl",
]
