"""A prior of several normal distributions, where types of cells may lie."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class MixturePrior(nn.Module):
    """A mixture of normal distributions, each with variances of its own, all of them learned.

    The published prior, the standard normal distribution, draws all cells to one place. In a
    mixture each type can have a place of its own, so that near types stay apart.

    Parameters
    ----------
    n_latent
        Latent dimensions.
    n_components
        Number of normal distributions. Those that no cells need lose their weight.

    References
    ----------
    Dilokthanakul et al., arXiv:1611.02648 (2016), for variational autoencoders.
    """

    def __init__(self, n_latent: int, n_components: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.randn(n_components, n_latent))
        self.log_var = nn.Parameter(torch.zeros(n_components, n_latent))
        self.logits = nn.Parameter(torch.zeros(n_components))

    def log_prob(self, z: Tensor) -> Tensor:
        """Logarithm of the density at each cell's latent, ``(n_cells,)``, in nats.

        Parameters
        ----------
        z
            ``(n_cells, n_latent)``.
        """
        squared = (z[:, None] - self.mean).square() * torch.exp(-self.log_var)
        normal = -0.5 * (squared + self.log_var + math.log(2 * math.pi)).sum(dim=-1)
        return torch.logsumexp(torch.log_softmax(self.logits, dim=0) + normal, dim=1)
