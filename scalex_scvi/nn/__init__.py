"""Network layers: domain-specific batch normalisation, encoder and decoder."""

from ._alignment import BatchOffset
from ._blocks import Decoder, Encoder, FullyConnectedBlock
from ._distributed import BatchNorm1d, synchronise_statistics
from ._dsbn import DomainSpecificBatchNorm1d
from ._sparse_linear import DENSITY_LIMIT, sparse_linear

__all__ = [
    "DENSITY_LIMIT",
    "BatchNorm1d",
    "BatchOffset",
    "Decoder",
    "DomainSpecificBatchNorm1d",
    "Encoder",
    "FullyConnectedBlock",
    "sparse_linear",
    "synchronise_statistics",
]
