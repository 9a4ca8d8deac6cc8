"""A linear layer over input that is mostly zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

DENSITY_LIMIT = 0.1
"""Share of nonzero input up to which training uses :func:`sparse_linear`: a compromise.

It depends on the processor: where dense products are slow the two are even at 0.23, where they
are fast at 0.05, and at 0.15 dense is faster by a sixth of an iteration (``docs/profile.md``).
"""


@torch.compiler.disable
def sparse_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply by ``weight``'s transpose as :func:`torch.nn.functional.linear` does, without zeros.

    Both the output and the gradient of the weight are sums of rows, taken by
    :func:`torch.nn.functional.embedding_bag`: of the rows of the weight that a cell has values for,
    and of the rows of the output's gradient of the cells that have values for a gene. They differ
    from the dense layer's by rounding, since the order of the sums does. A compiled network leaves
    its graph here.

    Parameters
    ----------
    x
        Dense input ``(n_cells, n_genes)`` on the CPU, in float32. It must not need a gradient.
    weight
        ``(n_out, n_genes)``. Fast only if stored gene by gene (see :func:`store_by_input`).
    bias
        ``(n_out,)``.

    Returns
    -------
    ``(n_cells, n_out)``, in the type of the weight whatever autocast says.
    """
    output = _Product.apply(x, weight)
    return output if bias is None else output + bias


def store_by_input(weight: Tensor) -> Tensor:
    """Return the same matrix ``(n_out, n_in)``, stored so that its transpose is contiguous."""
    return weight.t().contiguous().t()


class _Product(torch.autograd.Function):
    """``x @ weight.T``; the values are looked for once, which takes a tenth of both products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.by_cell = sparse.csr_matrix(_nonzero(x), shape=tuple(x.shape))
        return _sum_rows(weight.t().contiguous(), ctx.by_cell)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        # Stored by input, as the weight is.
        return None, _sum_rows(gradient.contiguous(), ctx.by_cell.tocsc()).t()


def _nonzero(x: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, columns and row starts (of CSR). In numpy: torch takes three times as long."""
    n_rows, n_columns = x.shape
    flat = x.contiguous().numpy().reshape(-1)
    positions = np.flatnonzero(flat != 0)
    starts = np.searchsorted(positions, np.arange(n_rows + 1) * n_columns)
    return flat[positions], (positions % n_columns).astype(np.int32), starts.astype(np.int32)


def _sum_rows(table: Tensor, x: sparse.csr_matrix | sparse.csc_matrix) -> Tensor:
    """Sum rows of ``table``, times the values of ``x``, over each of its rows (columns, of CSC)."""
    return F.embedding_bag(
        torch.from_numpy(x.indices),
        table,
        torch.from_numpy(x.indptr),
        mode="sum",
        per_sample_weights=torch.from_numpy(x.data).to(table.dtype),
        include_last_offset=True,
    )
