"""A linear layer over input that is mostly zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

DENSITY_LIMIT = 0.1
"""Share of nonzero input up to which training uses :func:`sparse_linear`: a compromise.

It depends on the processor: where dense products are slow the two are even at 0.23, where they
are fast at 0.05, and at 0.15 dense is faster by a sixth of an iteration (``docs/profile.md``).
"""


def sparse_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply by ``weight``'s transpose as :func:`torch.nn.functional.linear` does, without zeros.

    Both the output and the gradient of the weight are sums of rows, taken by
    :func:`torch.nn.functional.embedding_bag`: of the rows of the weight that a cell has values for,
    and of the rows of the output's gradient of the cells that have values for a gene. They differ
    from the dense layer's by rounding, since the order of the sums does.

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
    output = _matmul(x, weight)
    return output if bias is None else output + bias


def store_by_input(weight: Tensor) -> Tensor:
    """Return the same matrix ``(n_out, n_in)``, stored so that its transpose is contiguous."""
    return weight.t().contiguous().t()


@torch.library.custom_op("scalex_scvi::sparse_matmul", mutates_args=())
def _matmul(x: Tensor, weight: Tensor) -> Tensor:
    values, genes, starts = _nonzero(x)
    # Detached, or the sum would prepare for a gradient of its own.
    return _sum_rows(weight.detach().t().contiguous(), values, genes, starts)


@_matmul.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return weight.new_empty(x.shape[0], weight.shape[0])


@torch.library.custom_op("scalex_scvi::sparse_matmul_weight_gradient", mutates_args=())
def _weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    by_gene = sparse.csr_matrix(_nonzero(x), shape=tuple(x.shape)).tocsc()
    return _sum_rows(gradient.contiguous(), by_gene.data, by_gene.indices, by_gene.indptr).t()


@_weight_gradient.register_fake
def _(x: Tensor, gradient: Tensor) -> Tensor:
    return gradient.new_empty(x.shape[1], gradient.shape[1]).t()


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    x, _ = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
    (x,) = ctx.saved_tensors
    return None, _weight_gradient(x, gradient)


_matmul.register_autograd(_backward, setup_context=_setup_context)


def _nonzero(x: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, columns and row starts (of CSR). In numpy: torch takes three times as long."""
    n_rows, n_columns = x.shape
    flat = x.contiguous().numpy().reshape(-1)
    positions = np.flatnonzero(flat != 0)
    starts = np.searchsorted(positions, np.arange(n_rows + 1) * n_columns)
    return flat[positions], (positions % n_columns).astype(np.int32), starts.astype(np.int32)


def _sum_rows(table: Tensor, values: np.ndarray, rows: np.ndarray, starts: np.ndarray) -> Tensor:
    """Sum rows of ``table``, times ``values``, over each stretch between two ``starts``."""
    return F.embedding_bag(
        torch.from_numpy(rows),
        table,
        torch.from_numpy(starts),
        mode="sum",
        per_sample_weights=torch.from_numpy(values).to(table.dtype),
        include_last_offset=True,
    )
