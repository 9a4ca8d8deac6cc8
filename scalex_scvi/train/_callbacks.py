"""The stopping rule, and the noise of several processes."""

from __future__ import annotations

import logging
import sys
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping

logger = logging.getLogger(__name__)


class BestTrainingLoss(EarlyStopping):
    """Stop when the mean training loss no longer falls, and restore the best weights.

    The training loss is used, as published: all cells are trained on, so there is no validation
    set. Several processes share one loss and one set of weights, so all of them stop together.

    Parameters
    ----------
    patience
        Epochs without a better mean training loss after which training stops. ``None``: never
        stop early, but still restore the best weights.

    Raises
    ------
    RuntimeError
        When the loss is no longer finite.
    """

    def __init__(self, patience: int | None = 10) -> None:
        super().__init__(
            monitor="train_loss",
            patience=sys.maxsize if patience is None else patience,
            mode="min",
            check_on_train_epoch_end=True,
            check_finite=False,
        )
        self._best_state: dict[str, torch.Tensor] = {}
        self._best_epoch = -1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep a copy of the weights whenever the loss is the best so far."""
        loss = trainer.callback_metrics.get("train_loss")
        if loss is None:
            return
        if not torch.isfinite(loss):
            msg = (
                f"The training loss is {loss.item()!r} in epoch {trainer.current_epoch}: training "
                "diverged. Lower `lr`."
            )
            raise RuntimeError(msg)
        if loss < self.best_score:
            self._remember(pl_module.module, trainer.current_epoch)
        super().on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the best weights."""
        super().on_train_end(trainer, pl_module)
        if self._best_state:
            pl_module.module.load_state_dict(self._best_state)
            if trainer.is_global_zero:
                logger.info(
                    "Restored the weights of epoch %d, mean training loss %.3f.",
                    self._best_epoch,
                    float(self.best_score),
                )

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds: the best weights, too."""
        best = {"best_state": self._best_state, "best_epoch": self._best_epoch}
        return super().state_dict() | best

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what a checkpoint holds."""
        super().load_state_dict(state_dict)
        self._best_state = state_dict["best_state"]
        self._best_epoch = state_dict["best_epoch"]

    def _remember(self, module: Any, epoch: int) -> None:
        state = module.state_dict()
        if not self._best_state:
            self._best_state = {name: value.detach().clone() for name, value in state.items()}
        for name, value in state.items():
            self._best_state[name].copy_(value)
        self._best_epoch = epoch


class ProcessNoise(Callback):
    """Give each of several processes its own noise.

    Processes start from one seed, and would all draw the same noise for different cells. Lightning
    may have seeded them anew, too, if ``scvi.settings.seed`` is set.

    Parameters
    ----------
    seed
        Seed of the training, from which that of each process is drawn.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed this process."""
        sequence = np.random.SeedSequence([self.seed, trainer.global_rank])
        torch.manual_seed(int(sequence.generate_state(1)[0]))


def training_callbacks(patience: int | None, seed: int, n_processes: int) -> list[Callback]:
    """Make the callbacks of a training: each costs each minibatch a dozen hooks, so no idle ones.

    Parameters
    ----------
    patience
        See :class:`BestTrainingLoss`.
    seed
        Seed of the training.
    n_processes
        Number of processes, of which several need :class:`ProcessNoise`.
    """
    noise = [ProcessNoise(seed)] if n_processes > 1 else []
    return [BestTrainingLoss(patience), *noise]
