"""What genes that were not measured are expected to be, given the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Completion:
    """Expected values of missing genes: a linear function of the values that a cell has.

    Attributes
    ----------
    read
        Genes × factors: the factors of a cell are its values times these. Zero for missing genes.
    write
        Factors × genes. Zero for measured genes.
    offset
        ``(n_genes,)``. Zero for measured genes.
    """

    read: Tensor
    write: Tensor
    offset: Tensor

    def to(self, device: torch.device) -> Completion:
        """Return it on a device."""
        if self.read.device == device:
            return self
        return Completion(*(part.to(device) for part in (self.read, self.write, self.offset)))

    def __call__(self, x: Tensor) -> Tensor:
        """Fill values in, cells × genes, dense; cells with values of these genes stay as they are.

        Minibatches are of any cells: such a cell was measured for the genes, whatever others lack.
        """
        expected = (x @ self.read) @ self.write + self.offset
        lacks = ((x != 0) & (self.offset != 0)).sum(dim=1, keepdim=True) == 0
        return x + expected * lacks

    def of_layer(self, weight: Tensor) -> Completion:
        """Return what filled values add to a linear layer's output, as a function of the others.

        So sparse cells stay sparse: ``fill(x) @ weight.T`` is ``x @ weight.T`` plus
        ``(x @ read) @ write + offset`` of what is returned.

        Parameters
        ----------
        weight
            Of the layer, units × genes.
        """
        return Completion(self.read, self.write @ weight.T, self.offset @ weight.T)

    def add_to(self, h: Tensor, x: Tensor) -> Tensor:
        """Add the filled values' part to ``h``, the output of the layer for ``x``, in place."""
        return h.add_(self.offset).addmm_(x @ self.read, self.write)
