"""Tools on the latent space."""

from ._label_transfer import label_transfer

__all__ = ["label_transfer"]
