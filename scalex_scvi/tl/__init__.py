"""Tools on the latent space."""

from ._embed import embed
from ._label_transfer import label_transfer
from ._transfer_expression import transfer_expression

__all__ = ["embed", "label_transfer", "transfer_expression"]
