"""SCALEX as an scvi-tools model."""

from ._scalex import SCALEXModel

__all__ = ["SCALEXModel"]
