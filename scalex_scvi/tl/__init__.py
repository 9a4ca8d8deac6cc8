"""Tools on the latent space."""

from ._embed import embed
from ._label_scores import LabelScores, label_scores
from ._label_transfer import label_transfer
from ._transfer_expression import transfer_expression

__all__ = ["LabelScores", "embed", "label_scores", "label_transfer", "transfer_expression"]
