"""Network layers: domain-specific batch normalisation, encoder and decoder."""

from ._blocks import Decoder, Encoder, FullyConnectedBlock
from ._dsbn import DomainSpecificBatchNorm1d

__all__ = ["Decoder", "DomainSpecificBatchNorm1d", "Encoder", "FullyConnectedBlock"]
