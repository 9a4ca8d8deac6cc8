"""A linear layer that multiplies only the values of cells that are not zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

if TYPE_CHECKING:
    from ._sparse_kernels import ByGene

MOST_NOT_ZERO = 0.2
"""Share of values other than zero up to which zeros are left out. Product and gradient of 128 cells
× 2 000 genes × 1 024 units take 2.6 ms at 5 %, 5 at 10 %, 9 at 20 % and 14 at 30 %, dense 13, by
one thread. These loops have one; n threads are about n times as fast with a dense product."""


class SparseInputLinear(nn.Module):
    """``nn.Linear`` for expression, most of which is zero.

    While it trains on the CPU in float32, zeros are left out where that saves time. Else, and but
    for rounding, it is ``nn.Linear``: its weight is drawn alike, and has the same name and shape in
    files. It is kept transposed, genes × units, so that a value of one gene picks a row.

    Parameters
    ----------
    in_features, out_features
        Widths.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        drawn = nn.Linear(in_features, out_features)
        self.in_features, self.out_features = in_features, out_features
        self.transposed = nn.Parameter(drawn.weight.detach().t().contiguous())
        self.bias = drawn.bias

    @property
    def weight(self) -> Tensor:
        """Units × genes, as that of ``nn.Linear``."""
        return self.transposed.t()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n_cells, in_features)`` to ``(n_cells, out_features)``."""
        if self._may_skip_zeros(x):
            by_gene = _by_gene(x.detach().numpy(), MOST_NOT_ZERO / torch.get_num_threads())
            if by_gene is not None:
                product: Tensor = _Product.apply(self.transposed, by_gene, len(x))
                return product + self.bias
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Describe the widths as ``nn.Linear`` does."""
        return f"in_features={self.in_features}, out_features={self.out_features}"

    def _may_skip_zeros(self, x: Tensor) -> bool:
        """Whether it trains on the CPU, and both matrices are what the loops are compiled for."""
        weight = self.transposed
        return (
            torch.is_grad_enabled()
            and weight.requires_grad
            and not x.requires_grad
            and weight.device.type == x.device.type == "cpu"
            and weight.dtype == x.dtype == torch.float32
            and x.ndim == 2
            and x.is_contiguous()
            and weight.is_contiguous()
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
        )

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = destination.pop(f"{prefix}transposed").t()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        if f"{prefix}weight" in state_dict:
            state_dict[f"{prefix}transposed"] = state_dict.pop(f"{prefix}weight").t()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class _Product(torch.autograd.Function):
    """Cells × genes, by gene, times the transposed weight."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, by_gene: ByGene, n_cells: int) -> Tensor:
        from ._sparse_kernels import add_product

        ctx.by_gene = by_gene
        out = np.zeros((n_cells, weight.shape[1]), dtype=np.float32)
        add_product(by_gene, weight.detach().numpy(), out)
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor, None, None]:
        from ._sparse_kernels import gradient

        n_genes = len(ctx.by_gene[0]) - 1
        of_weight = np.empty((n_genes, of_out.shape[1]), dtype=np.float32)
        gradient(ctx.by_gene, of_out.contiguous().numpy(), of_weight)
        return torch.from_numpy(of_weight), None, None


def _by_gene(x: np.ndarray, most: float) -> ByGene | None:
    """Values that are not zero, by gene; ``None`` if they are more than this share of all."""
    from ._sparse_kernels import collect, count

    starts = np.empty(x.shape[1] + 1, dtype=np.int64)
    count(x, starts)
    if starts[-1] > most * x.size:
        return None
    by_gene = (starts, np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32))
    collect(x, by_gene)
    return by_gene
