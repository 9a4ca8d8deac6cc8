"""The SCALEX network as an scvi-tools module."""

from ._scalexvae import SCALEXVAE

__all__ = ["SCALEXVAE"]
