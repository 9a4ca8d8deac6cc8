"""The SCALEX network as an scvi-tools module."""

from ._scalexvae import LOGITS_KEY, OFFSET_KEY, SCALEXVAE

__all__ = ["LOGITS_KEY", "OFFSET_KEY", "SCALEXVAE"]
