"""SCALEX as an scvi-tools model."""

from ._model import SCALEXModel

__all__ = ["SCALEXModel"]
