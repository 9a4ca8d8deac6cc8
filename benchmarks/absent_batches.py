"""Measure whether it matters that Adam moves the rows of batches that a minibatch lacks.

Trains the same network with stacked batch-norm parameters and with a list of BatchNorm1d, whose
members Adam skips when they have no gradient, and prints loss, mixing and purity of both.

Usage: ``python -m benchmarks.absent_batches FILE.h5ad [--steps 3056] [--seeds 1 2]``
"""

from __future__ import annotations

import argparse
import logging

import anndata as ad
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import scalex_scvi as sx
from scalex_scvi.nn import DomainSpecificBatchNorm1d, Encoder


class ListOfBatchNorms(nn.Module):
    """torch's own BatchNorm1d for each batch in turn; a lone cell is normalized as in eval."""

    def __init__(self, n_genes: int, n_batch: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(n_genes) for _ in range(n_batch))

    def forward(self, x: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        """Normalize each row by the norm of its batch."""
        out = torch.zeros_like(x)
        for index, norm in enumerate(self.norms):
            rows = (batch == index).nonzero()[:, 0]
            norm.train(len(rows) > 1)
            if len(rows):
                out[rows] = norm(x[rows])
        return out


def train(
    x: torch.Tensor, batch: torch.Tensor, norm: nn.Module, steps: int, lr: float
) -> tuple[Encoder, float]:
    """Train by the published recipe; return the encoder and the last epoch's mean loss."""
    encoder, decoder = Encoder(x.shape[1]), nn.Linear(10, x.shape[1])
    parameters = [*encoder.parameters(), *decoder.parameters(), *norm.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=lr, weight_decay=5e-4, fused=True)
    step, losses = 0, []
    while step < steps:
        losses = []
        for rows in torch.randperm(len(x)).split(64)[:-1]:
            mean, var = encoder(x[rows])
            z = mean + var.sqrt() * torch.randn_like(mean)
            logits = norm(decoder(z), batch[rows])
            cross_entropy = F.binary_cross_entropy_with_logits(logits, x[rows], reduction="none")
            kl = 0.5 * (var + mean.square() - 1 - var.log())
            loss = cross_entropy.sum(1).mean() + 0.5 * kl.sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            step += 1
    return encoder.eval(), float(np.mean(losses))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help=".h5ad with counts, obs 'batch' and 'celltype'")
    parser.add_argument("--steps", type=int, default=3056)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    adata = sx.pp.rna(ad.read_h5ad(args.data), batch_key="batch", min_features=0)
    codes = adata.obs["batch"].cat.codes.to_numpy().astype(np.int64)
    x, batch = torch.from_numpy(adata.X.toarray()), torch.from_numpy(codes)
    n_batch = int(codes.max()) + 1
    for seed in args.seeds:
        for kind in (ListOfBatchNorms, DomainSpecificBatchNorm1d):
            torch.manual_seed(seed)
            encoder, loss = train(x, batch, kind(x.shape[1], n_batch), args.steps, args.lr)
            with torch.no_grad():
                latent = encoder(x)[0].numpy()
            print(
                f"seed {seed}  {kind.__name__:26s} loss {loss:.2f}"
                f"  same-batch {sx.metrics.same_batch_share(latent, codes):.3f}"
                f"  purity {sx.metrics.knn_purity(latent, adata.obs['celltype']):.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
