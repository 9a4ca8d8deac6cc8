"""The shared encoder and the batch-specific decoder."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from ._batch_norm import BatchNorm1d
from ._dsbn import DomainSpecificBatchNorm1d
from ._sparse_input import SparseInputLinear

ActivationName = Literal["relu", "leaky_relu", "rrelu", "tanh", "sigmoid", "none"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "rrelu": nn.RReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "none": nn.Identity,
}

_LEAST_MEAN = 1e-4


def _activation(name: str) -> nn.Module:
    if name not in _ACTIVATIONS:
        msg = f"`activation` must be one of {sorted(_ACTIVATIONS)}, got {name!r}."
        raise ValueError(msg)
    return _ACTIVATIONS[name]()


class FullyConnectedBlock(nn.Module):
    """Linear → BatchNorm1d → activation → dropout.

    Parameters
    ----------
    n_input, n_output
        Widths.
    activation
        Name of the activation.
    batch_norm
        Whether to normalize (eps 1e-5, momentum 0.1).
    dropout_rate
        Dropout probability in [0, 1); 0 leaves dropout out.
    sparse_input
        Whether the input is expression, most of which is zero (:class:`SparseInputLinear`).
    """

    def __init__(
        self,
        n_input: int,
        n_output: int,
        *,
        activation: ActivationName = "relu",
        batch_norm: bool = True,
        dropout_rate: float = 0.0,
        sparse_input: bool = False,
    ) -> None:
        super().__init__()
        linear = SparseInputLinear if sparse_input else nn.Linear
        self.linear = linear(n_input, n_output)
        self.norm = BatchNorm1d(n_output) if batch_norm else None
        self.activation = _activation(activation)
        self.dropout = nn.Dropout(dropout_rate) if dropout_rate > 0 else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n_cells, n_input)`` to ``(n_cells, n_output)``."""
        return self.finish(self.normalize(self.linear(x)))

    def normalize(self, h: Tensor) -> Tensor:
        """Apply the block's batch normalization, if it has one, to the linear output."""
        return h if self.norm is None else self.norm(h)

    def finish(self, h: Tensor) -> Tensor:
        """Apply activation and dropout."""
        h = self.activation(h)
        return h if self.dropout is None else self.dropout(h)


class Encoder(nn.Module):
    """The batch-free encoder: cells × genes → mean and variance of the latent.

    It has no batch input of any kind, which is why a trained model can place cells of a new batch.

    Parameters
    ----------
    n_input
        Number of genes.
    n_latent
        Latent dimensions.
    n_hidden
        Width of the hidden layers.
    n_layers
        Number of hidden layers, at least 1.
    activation
        Activation of the hidden layers.
    batch_norm
        Whether hidden layers are batch-normalized (over all cells, whatever their batch).
    dropout_rate
        Dropout probability of the hidden layers.
    """

    def __init__(
        self,
        n_input: int,
        n_latent: int = 10,
        *,
        n_hidden: int = 1024,
        n_layers: int = 1,
        activation: ActivationName = "relu",
        batch_norm: bool = True,
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if n_layers < 1:
            msg = f"`n_layers` must be at least 1, got {n_layers!r}."
            raise ValueError(msg)
        widths = [n_input] + [n_hidden] * n_layers
        self.layers = nn.ModuleList(
            FullyConnectedBlock(
                width_in,
                width_out,
                activation=activation,
                batch_norm=batch_norm,
                dropout_rate=dropout_rate,
                sparse_input=depth == 0,
            )
            for depth, (width_in, width_out) in enumerate(pairwise(widths))
        )
        self.mean_head = nn.Linear(n_hidden, n_latent)
        self.log_var_head = nn.Linear(n_hidden, n_latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance, each ``(n_cells, n_latent)``, of the latent."""
        for layer in self.layers:
            x = layer(x)
        return self.heads(x)

    def heads(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the latent from the last hidden layer."""
        return self.mean_head(h), torch.exp(self.log_var_head(h))


class Residual(nn.Module):
    """Nonlinear part of a decoder: one narrow hidden layer, whose output is zero at first.

    So a training starts from the linear decoder, and departs from it only where that lowers the
    loss.

    Parameters
    ----------
    n_latent
        Latent dimensions.
    n_output
        Number of genes.
    n_units
        Width of the hidden layer.
    activation
        Its activation.
    """

    def __init__(
        self, n_latent: int, n_output: int, n_units: int, *, activation: ActivationName = "relu"
    ) -> None:
        super().__init__()
        self.hidden = FullyConnectedBlock(n_latent, n_units, activation=activation)
        self.linear = nn.Linear(n_units, n_output, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, z: Tensor) -> Tensor:
        """Map ``(n_cells, n_latent)`` to ``(n_cells, n_output)``."""
        return self.linear(self.hidden(z))


class Decoder(nn.Module):
    """The batch-specific decoder: latent → logits of the expression scaled to [0, 1].

    Linear layers are shared between batches; only the normalization of the output knows the batch.

    Parameters
    ----------
    n_latent
        Latent dimensions.
    n_output
        Number of genes.
    n_batch
        Number of batches, one set of batch-norm parameters each.
    n_hidden
        Width of hidden layers, if there are any.
    n_layers
        Number of hidden layers; 0, the published architecture, is linear.
    n_residual
        Width of a nonlinear part beside the linear one (:class:`Residual`), which is added before
        the normalization of the output; 0, the published architecture, has none.
    activation
        Activation of the hidden layers.
    """

    def __init__(
        self,
        n_latent: int,
        n_output: int,
        n_batch: int,
        *,
        n_hidden: int = 1024,
        n_layers: int = 0,
        n_residual: int = 0,
        activation: ActivationName = "relu",
    ) -> None:
        super().__init__()
        widths = [n_latent] + [n_hidden] * n_layers
        self.layers = nn.ModuleList(
            FullyConnectedBlock(width_in, width_out, activation=activation)
            for width_in, width_out in pairwise(widths)
        )
        self.linear = nn.Linear(widths[-1], n_output)
        self.norm = DomainSpecificBatchNorm1d(n_output, n_batch)
        # Last, so that the other weights are drawn as they are without it.
        self.residual = (
            Residual(n_latent, n_output, n_residual, activation=activation) if n_residual else None
        )

    def freeze(self) -> None:
        """Put all that the batches share into eval mode: its running statistics stay."""
        self.layers.eval()
        if self.residual is not None:
            self.residual.eval()

    @torch.no_grad()
    def start_at(self, mean_expression: Tensor) -> None:
        """Set the output's bias so that it starts at a mean expression, the same for all batches.

        Most genes are seldom seen. From a bias of 0, expression of one half, Adam needs thousands
        of steps to bring the output down to a mean of 0.01, whose logit is -4.6.

        Parameters
        ----------
        mean_expression
            In [0, 1], of shape ``(n_output,)``; less than 0.0001 counts as that. Frozen batches
            keep their bias.
        """
        self.norm.bias[self.norm.n_frozen :] = torch.logit(mean_expression, eps=_LEAST_MEAN)

    @torch.no_grad()
    def follow(self, before: Tensor, after: Tensor, batch_index: Tensor) -> None:
        """Move the running means of the batches as the latent of their cells has moved.

        Parameters
        ----------
        before, after
            Latent of some cells, ``(n_cells, n_latent)``.
        batch_index
            Their batches, ``(n_cells,)``.
        """
        for batch in batch_index.unique():
            shift = 0.0
            cells = (batch_index == batch).nonzero()[:, 0]
            for part in cells.split(512):
                moved = self._before_norm(after[part]) - self._before_norm(before[part])
                shift = shift + moved.sum(dim=0)
            self.norm.running_mean[batch] += shift / len(cells)

    def forward(self, z: Tensor, batch_index: Tensor) -> Tensor:
        """Return logits ``(n_cells, n_output)``; their sigmoid is the expression in [0, 1]."""
        return self.norm(self._before_norm(z), batch_index)

    def _before_norm(self, z: Tensor) -> Tensor:
        h = z
        for layer in self.layers:
            h = layer(h)
        h = self.linear(h)
        return h if self.residual is None else h + self.residual(z)
