"""The published training recipe as an scvi-tools training plan."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from functools import partial
from typing import Any, get_args

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import BaseModuleClass
from scvi.train import TrainingPlan

from scalex_scvi.module import OFFSET_KEY
from scalex_scvi.nn import synchronize_statistics

from ._graphed import GraphedLoss, loss_and_sums
from ._processes import of_all_processes, of_this_process
from ._recipe import Schedule

RISE = 0.05
"""Share of the steps over which the cosine schedule warms up."""


class SCALEXTrainingPlan(TrainingPlan):
    """scvi-tools' training plan with the published SCALEX defaults.

    Adam with the learning rate, eps and weight decay of the publication, and a constant KL weight
    instead of scvi-tools' warm-up over 400 epochs; :meth:`scalex_scvi.SCALEXModel.train` gives it
    a learning rate and a schedule of its own. The means over an epoch are logged once at its
    end (``train_loss``, ``elbo_train``, ``reconstruction_loss_train``, ``kl_local_train``, all per
    cell, and ``batch_offset_train``): logging at each step costs as much as a third of the step.

    Parameters
    ----------
    module
        The network.
    lr
        Learning rate.
    weight_decay
        L2 penalty of Adam.
    eps
        Adam's eps. scvi-tools' 0.01 would change the method.
    kl_weight
        Constant weight of the KL divergence in the loss.
    alignment_weight
        Weight in the loss of the squared distance of each batch's cells from those of all (0: the
        published loss; see :class:`scalex_scvi.nn.BatchOffset`).
    lr_schedule
        ``"constant"`` (published), or ``"cosine"``: the learning rate rises over the first
        twentieth of the steps and falls to zero along half a cosine.
    **plan_kwargs
        Further arguments of :class:`scvi.train.TrainingPlan`.

    Raises
    ------
    ValueError
        For an unknown schedule.
    TypeError
        For a name that :class:`scvi.train.TrainingPlan` does not know. It would take it for an
        argument of the loss and ignore it.
    """

    def __init__(
        self,
        module: BaseModuleClass,
        *,
        lr: float = 2e-4,
        weight_decay: float = 5e-4,
        eps: float = 1e-8,
        kl_weight: float = 0.5,
        alignment_weight: float = 0.0,
        lr_schedule: Schedule = "constant",
        **plan_kwargs: Any,
    ) -> None:
        _check_names(plan_kwargs)
        defaults = {
            "n_epochs_kl_warmup": None,
            "max_kl_weight": kl_weight,
            "alignment_weight": alignment_weight,
        }
        super().__init__(
            module, lr=lr, weight_decay=weight_decay, eps=eps, **(defaults | plan_kwargs)
        )
        if lr_schedule not in get_args(Schedule):
            msg = f"`lr_schedule` must be one of {get_args(Schedule)!r}, got {lr_schedule!r}."
            raise ValueError(msg)
        self.lr_schedule = lr_schedule
        self._epoch_sums: torch.Tensor | None = None
        self._graphs = False
        self._graphed: GraphedLoss | None = None

    def initialize_train_metrics(self) -> None:
        """Make none of scvi-tools' metrics: :meth:`training_step` adds up what is logged."""

    def initialize_val_metrics(self) -> None:
        """Make scvi-tools' metrics, once where the trainer says that no cell is validated on."""
        if self.n_obs_validation != 0:
            super().initialize_val_metrics()

    def on_fit_start(self) -> None:
        """Switch to train mode: scvi-tools leaves a trained or loaded module in eval mode.

        Lightning does not switch it back, and BatchNorm statistics would never move. Several
        processes share these statistics.
        """
        self.module.train()
        if self._epoch_sums is not None:  # of a checkpoint
            self._epoch_sums = self._epoch_sums.to(self.device)
        synchronize_statistics(self.module, self.trainer.world_size > 1)
        self._graphs = self._can_be_graphed()

    def _can_be_graphed(self) -> bool:
        """Whether each minibatch is the same sequence of kernels: see :class:`GraphedLoss`."""
        return (
            self.device.type == "cuda"
            and self.trainer.world_size == 1
            and self.trainer.precision == "32-true"
            and self.n_epochs_kl_warmup is None
            and self.n_steps_kl_warmup is None
            and all(parameter.requires_grad for parameter in self.module.parameters())
        )

    def on_fit_end(self) -> None:
        """Let the module go on in this process alone."""
        synchronize_statistics(self.module, False)
        self._graphed = None

    def on_train_epoch_start(self) -> None:
        """Forget the previous epoch's sums."""
        self._epoch_sums = None

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Loss of one minibatch."""
        if "kl_weight" in self.loss_kwargs:
            self.loss_kwargs["kl_weight"] = self.kl_weight
        if self._graphed is None and self._graphs:
            self._graphed = GraphedLoss(self.module, dict(self.loss_kwargs), batch)
        if self._graphed is not None and self._graphed.shape == batch[REGISTRY_KEYS.X_KEY].shape:
            loss, sums = self._graphed(batch)
        else:
            *_, losses = self.forward(batch, loss_kwargs=self.loss_kwargs)
            loss, sums = loss_and_sums(losses)
        self._epoch_sums = sums.clone() if self._epoch_sums is None else self._epoch_sums + sums
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the means over the epoch's cells, those of all processes."""
        if self._epoch_sums is None:
            return
        *sums, n_cells = self.trainer.strategy.reduce(self._epoch_sums, reduce_op="sum")
        loss, reconstruction, kl, offset = (total / n_cells for total in sums)
        self.log("train_loss", loss, prog_bar=True, sync_dist=self.use_sync_dist)
        self.log_dict(
            {
                "elbo_train": reconstruction + kl,
                "reconstruction_loss_train": reconstruction,
                "kl_local_train": kl,
                f"{OFFSET_KEY}_train": offset,
            },
            sync_dist=self.use_sync_dist,
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what weights and optimizer do not hold: the epoch's sums, and the recent cells."""
        checkpoint["epoch_sums"] = of_all_processes(self._epoch_sums)
        checkpoint["not_in_weights"] = of_all_processes(dict(self._not_in_weights()))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what :meth:`on_save_checkpoint` added."""
        self._epoch_sums = of_this_process(checkpoint["epoch_sums"])
        kept = of_this_process(checkpoint["not_in_weights"])
        for name, buffer in self._not_in_weights():
            buffer.copy_(kept[name])

    def _not_in_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Buffers that are not saved with a model, as those of :class:`BatchOffset`."""
        saved = self.module.state_dict().keys()
        return ((name, of) for name, of in self.module.named_buffers() if name not in saved)

    def configure_optimizers(self) -> dict[str, Any]:
        """Take scvi-tools' optimizer, with the schedule of the learning rate."""
        configured = super().configure_optimizers()
        if self.lr_schedule == "cosine":
            factor = partial(_cosine, n_steps=int(self.trainer.estimated_stepping_batches))
            scheduler = torch.optim.lr_scheduler.LambdaLR(configured["optimizer"], factor)
            configured["lr_scheduler"] = {"scheduler": scheduler, "interval": "step"}
        return configured

    def get_optimizer_creator(
        self,
    ) -> Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]:
        """Adam and AdamW in their fused form, a third of the plain step's time on a CPU."""
        classes = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}
        if self.optimizer_name not in classes or self.device.type not in ("cpu", "cuda"):
            return super().get_optimizer_creator()
        optimizer_class = classes[self.optimizer_name]
        return lambda parameters: optimizer_class(
            list(parameters), lr=self.lr, eps=self.eps, weight_decay=self.weight_decay, fused=True
        )


def _cosine(step: int, n_steps: int) -> float:
    """Share of the learning rate at a step: a linear rise, times half a cosine."""
    rise = min(1.0, (step + 1) / (RISE * n_steps))
    return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, step / n_steps)))


def _check_names(plan_kwargs: dict[str, Any]) -> None:
    known = {
        parameter.name
        for plan in (TrainingPlan, SCALEXTrainingPlan)
        for parameter in inspect.signature(plan.__init__).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    for name in plan_kwargs:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            msg = f"Unknown training plan argument {name!r}.{hint} Allowed: {sorted(known)}."
            raise TypeError(msg)
