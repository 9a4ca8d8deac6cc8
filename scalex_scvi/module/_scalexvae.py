"""The SCALEX network as an scvi-tools module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import BaseMinifiedModeModuleClass, LossOutput, auto_move_data
from torch import Tensor
from torch.distributions import Normal
from torch.nn import functional as F

from scalex_scvi._core.scvi_private import MODULE_KEYS
from scalex_scvi.nn import ActivationName, BatchOffset, Decoder, Encoder, MixturePrior

# What the decoder returns, beside scvi-tools' own keys.
LOGITS_KEY = "logits"
# The squared distance of the batches' cells from those of all, among the loss's metrics.
OFFSET_KEY = "batch_offset"


class SCALEXVAE(BaseMinifiedModeModuleClass):
    """Variational autoencoder with a batch-free encoder and a batch-specific decoder.

    Parameters
    ----------
    n_input
        Number of genes.
    n_batch
        Number of batches.
    n_hidden
        Width of the encoder's hidden layers (1024, as published).
    n_latent
        Latent dimensions (10, as published).
    n_layers
        Hidden layers of the encoder (1, as published).
    n_layers_decoder
        Hidden layers of the decoder (0, as published).
    n_residual
        Width of the decoder's nonlinear part (0, as published: it is linear).
    activation
        Activation of hidden layers.
    dropout_rate
        Dropout in the encoder (0, as published).
    n_prior_components
        Normal distributions that the prior is a mixture of
        (:class:`~scalex_scvi.nn.MixturePrior`); 1, as published: the standard normal one.

    References
    ----------
    Xiong et al., Nat Commun 13:6118, 2022.
    """

    def __init__(
        self,
        n_input: int,
        n_batch: int = 1,
        *,
        n_hidden: int = 1024,
        n_latent: int = 10,
        n_layers: int = 1,
        n_layers_decoder: int = 0,
        n_residual: int = 0,
        activation: ActivationName = "relu",
        dropout_rate: float = 0.0,
        n_prior_components: int = 1,
    ) -> None:
        super().__init__()
        self.n_latent = n_latent
        self.encoder_frozen = False
        # Of the cells at hand: what genes are expected to be that they lack.
        self.completion: Callable[[Tensor], Tensor] | None = None
        self.encoder = Encoder(
            n_input,
            n_latent,
            n_hidden=n_hidden,
            n_layers=n_layers,
            activation=activation,
            dropout_rate=dropout_rate,
        )
        self.decoder = Decoder(
            n_latent,
            n_input,
            n_batch,
            n_hidden=n_hidden,
            n_layers=n_layers_decoder,
            n_residual=n_residual,
            activation=activation,
        )
        self.batch_offset = BatchOffset(n_latent, n_batch)
        self.prior = MixturePrior(n_latent, n_prior_components) if n_prior_components > 1 else None

    def train(self, mode: bool = True) -> SCALEXVAE:
        """Set train or eval mode; frozen parts stay in eval mode, whatever is asked.

        In train mode a frozen BatchNorm would go on moving its running statistics.
        """
        super().train(mode)
        if self.encoder_frozen:
            self.encoder.eval()
            self.decoder.freeze()
        return self

    def freeze_for_query(self, n_reference_batches: int) -> None:
        """Leave only the decoder's batch-norm rows of new batches trainable.

        Parameters
        ----------
        n_reference_batches
            Number of batches, the first ones, that belong to the reference.
        """
        self.encoder_frozen = True
        self.requires_grad_(False)
        norm = self.decoder.norm
        norm.requires_grad_(True)
        norm.freeze_domains(n_reference_batches)
        self.train(self.training)

    def _get_inference_input(
        self, tensors: dict[str, Tensor], full_forward_pass: bool = False
    ) -> dict[str, Tensor]:
        if full_forward_pass or self.minified_data_type is None:
            return {MODULE_KEYS.X_KEY: tensors[REGISTRY_KEYS.X_KEY]}
        return {
            MODULE_KEYS.QZM_KEY: tensors[REGISTRY_KEYS.LATENT_QZM_KEY],
            MODULE_KEYS.QZV_KEY: tensors[REGISTRY_KEYS.LATENT_QZV_KEY],
        }

    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Any]
    ) -> dict[str, Tensor]:
        return {
            MODULE_KEYS.Z_KEY: inference_outputs[MODULE_KEYS.Z_KEY],
            MODULE_KEYS.BATCH_INDEX_KEY: tensors[REGISTRY_KEYS.BATCH_KEY],
        }

    def _regular_inference(self, x: Tensor, n_samples: int = 1) -> dict[str, Any]:
        mean, var = self.encoder(x if self.completion is None else self.completion(x))
        return self._posterior(mean, var, n_samples)

    def _cached_inference(self, qzm: Tensor, qzv: Tensor, n_samples: int = 1) -> dict[str, Any]:
        return self._posterior(qzm, qzv, n_samples)

    @staticmethod
    def _posterior(mean: Tensor, var: Tensor, n_samples: int) -> dict[str, Any]:
        # Validation would wait for the device at each step; the input was validated at setup.
        qz = Normal(mean, var.sqrt(), validate_args=False)
        z = qz.rsample() if n_samples == 1 else qz.rsample((n_samples,))
        return {MODULE_KEYS.Z_KEY: z, MODULE_KEYS.QZ_KEY: qz}

    @auto_move_data
    def generative(self, z: Tensor, batch_index: Tensor) -> dict[str, Any]:
        """Decode the latent of cells, each by its own batch.

        Parameters
        ----------
        z
            Latent, ``(n_cells, n_latent)`` or ``(n_samples, n_cells, n_latent)``.
        batch_index
            Batch of each cell, ``(n_cells,)`` or ``(n_cells, 1)``.

        Returns
        -------
        ``logits`` of shape ``(..., n_cells, n_genes)``: their sigmoid is the expected
        expression, scaled to [0, 1] within the batch.
        """
        if z.ndim == 2:
            return {LOGITS_KEY: self.decoder(z, batch_index)}
        return {LOGITS_KEY: torch.stack([self.decoder(sample, batch_index) for sample in z])}

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Any],
        kl_weight: float | Tensor = 0.5,
        alignment_weight: float = 0.0,
    ) -> LossOutput:
        """Binary cross-entropy summed over genes + ``kl_weight`` · KL, averaged over cells.

        Parameters
        ----------
        tensors
            A minibatch: ``"X"``, cells × genes in [0, 1], and ``"batch"``.
        inference_outputs, generative_outputs
            What :meth:`inference` and :meth:`generative` return for it.
        kl_weight
            Weight of the KL divergence.
        alignment_weight
            Weight of the squared distance of each batch's cells from those of all
            (:class:`~scalex_scvi.nn.BatchOffset`), which is added; the published loss has none.

        Returns
        -------
        ``loss``, a scalar; ``reconstruction_loss`` and ``kl_local`` (unweighted) of each cell, in
        nats; and in ``extra_metrics`` that distance, unweighted.
        """
        x = tensors[REGISTRY_KEYS.X_KEY]
        reconstruction = F.binary_cross_entropy_with_logits(
            generative_outputs[LOGITS_KEY], x, reduction="none"
        ).sum(dim=-1)
        qz = inference_outputs[MODULE_KEYS.QZ_KEY]
        kl = self._divergence(qz, inference_outputs[MODULE_KEYS.Z_KEY])
        loss = (reconstruction + kl_weight * kl).mean()
        metrics = {}
        if alignment_weight and not self.encoder_frozen:
            offset = self.batch_offset(qz.loc, tensors[REGISTRY_KEYS.BATCH_KEY])
            loss = loss + alignment_weight * offset
            metrics[OFFSET_KEY] = offset.detach()
        return LossOutput(
            loss=loss,
            reconstruction_loss=reconstruction,
            kl_local=kl,
            extra_metrics=metrics,
        )

    def _divergence(self, qz: Normal, z: Tensor) -> Tensor:
        """KL divergence of each cell's posterior from the prior; from a mixture, by ``z`` alone.

        It has no closed form then, and one draw of a cell is enough, as for the reconstruction.
        """
        if self.prior is None:
            variance = qz.scale.square()
            return 0.5 * (variance + qz.loc.square() - 1 - variance.log()).sum(dim=-1)
        draws = z if z.ndim == 3 else z[None]
        return torch.stack(
            [qz.log_prob(draw).sum(dim=-1) - self.prior.log_prob(draw) for draw in draws]
        ).mean(dim=0)

    @torch.inference_mode()
    def sample(self, tensors: dict[str, Tensor], n_samples: int = 1) -> Tensor:
        """Draw latents from the posterior and decode them.

        Parameters
        ----------
        tensors
            A minibatch, as the data loader yields it.
        n_samples
            Number of draws per cell.

        Returns
        -------
        Expression in [0, 1], ``(n_cells, n_genes)`` or ``(n_samples, n_cells, n_genes)``.
        """
        _, generative_outputs = self.forward(
            tensors, inference_kwargs={"n_samples": n_samples}, compute_loss=False
        )
        return torch.sigmoid(generative_outputs[LOGITS_KEY])
