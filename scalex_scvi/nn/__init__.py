"""Network layers: domain-specific batch normalization, encoder and decoder."""

from ._alignment import BatchOffset
from ._batch_norm import BatchNorm1d, synchronize_statistics
from ._blocks import ActivationName, Decoder, Encoder, FullyConnectedBlock
from ._dsbn import DomainSpecificBatchNorm1d
from ._prior import MixturePrior

__all__ = [
    "ActivationName",
    "BatchNorm1d",
    "BatchOffset",
    "Decoder",
    "DomainSpecificBatchNorm1d",
    "Encoder",
    "FullyConnectedBlock",
    "MixturePrior",
    "synchronize_statistics",
]
