"""When and where the state of a training is kept, and the order of cells that goes on from it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from scalex_scvi._core.ranges import check_whole

from ._processes import of_all_processes, of_this_process

SUFFIX = ".ckpt"
MINUTES = 10.0
"""Minutes between two checkpoints: writing one takes seconds, which is little beside this."""


@dataclass(frozen=True)
class Checkpoint:
    """Where the state of a training is kept, and how often: ``model.train(checkpoint=…)``.

    Attributes
    ----------
    path
        File that ends in ``.ckpt``. The folder must exist.
    minutes
        Time between two checkpoints.
    steps
        Minibatches between two checkpoints, instead of ``minutes``.
    resume
        Whether to continue the training whose state is in ``path``, if that file exists. ``False``
        starts from the beginning; the first checkpoint of the new training replaces the file.

    Raises
    ------
    ValueError
        For numbers out of range, or another suffix.
    """

    path: str | os.PathLike[str]
    minutes: float = MINUTES
    steps: int | None = None
    resume: bool = True

    def __post_init__(self) -> None:
        if self.place.suffix != SUFFIX:
            msg = f"The checkpoint {str(self.path)!r} must be a file that ends in {SUFFIX!r}."
            raise ValueError(msg)
        if not 0 < self.minutes < float("inf"):
            msg = f"`minutes` must be a finite number above 0, got {self.minutes!r}."
            raise ValueError(msg)
        if self.steps is not None:
            check_whole(self.steps, 1, name="steps")

    @property
    def place(self) -> Path:
        """The file, with the home folder for ``~``."""
        return Path(self.path).expanduser().absolute()

    @classmethod
    def of(cls, given: str | os.PathLike[str] | Checkpoint | None) -> Checkpoint | None:
        """Return a checkpoint for a path; a checkpoint or ``None`` is returned as it is."""
        return given if given is None or isinstance(given, Checkpoint) else cls(given)


class CheckpointWriter(Callback):
    """Keep the state of the training between two minibatches.

    Lightning's own :class:`~lightning.pytorch.callbacks.ModelCheckpoint` may also do so after the
    last minibatch of an epoch. Lightning then takes the epoch for complete when it continues, and
    the mean loss of that epoch, by which the best weights are chosen, would be missing.

    Parameters
    ----------
    checkpoint
        Where and how often.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from here."""
        self._since(trainer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write a checkpoint if it is due, and neither the epoch nor a step is to be completed."""
        accumulates = (batch_idx + 1) % trainer.accumulate_grad_batches
        if trainer.is_last_batch or accumulates or not self._is_due(trainer):
            return
        trainer.save_checkpoint(self.checkpoint.place, weights_only=False)
        self._since(trainer)

    def _since(self, trainer: Trainer) -> None:
        self._step, self._time = trainer.global_step, time.monotonic()

    def _is_due(self, trainer: Trainer) -> bool:
        if self.checkpoint.steps is not None:
            return trainer.global_step - self._step >= self.checkpoint.steps
        due = time.monotonic() - self._time >= 60 * self.checkpoint.minutes
        # Several processes, whose clocks differ, write one checkpoint at the same moment.
        return trainer.strategy.reduce_boolean_decision(due, all=False)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the history, which the logger holds in memory."""
        checkpoint["history"] = dict(_history_of(trainer))

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the history up."""
        _history_of(trainer).update(checkpoint["history"])


def _history_of(trainer: Trainer) -> dict[str, Any]:
    """Return the history that scvi-tools' logger holds; another one keeps it elsewhere."""
    history = getattr(trainer.logger, "history", None)
    return history if isinstance(history, dict) else {}


class ResumableData(LightningDataModule):
    """A data module whose order of cells can be taken up in the middle of an epoch.

    Attributes
    ----------
    resumable
        Whether checkpoints are made, which hold the order of the cells of each process.
    """

    resumable = False
    _order: ResumableLoader | None = None
    _resumed: Mapping[str, Any] | None = None

    def in_order(self, loader: Any, rng: np.random.Generator | None = None) -> Any:
        """Return the minibatches to train on, whose order is kept if it is to be.

        Parameters
        ----------
        loader
            Minibatches of one process, in an order that it draws anew each time.
        rng
            Generator that it draws from, beside torch's.
        """
        if not self.resumable:
            return loader
        device = self.trainer.strategy.root_device
        self._order = ResumableLoader(loader, device, rng, self._resumed)
        self._resumed = None
        return self._order

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds of the order."""
        return {} if self._order is None else of_all_processes(self._order.position())

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up what a checkpoint holds."""
        self._resumed = of_this_process(state_dict)


class ResumableLoader:
    """Minibatches whose order can be taken up in the middle of an epoch, bit for bit.

    What is drawn at random follows from the generators at the epoch's start: to continue, they
    are set back to it, the minibatches that were trained on are read again and left out, and the
    generators are set to where they were.

    Parameters
    ----------
    loader, rng
        See :meth:`ResumableData.in_order`.
    device
        Where the model is trained, whose generator draws the noise.
    resumed
        The :meth:`position` to go on from, of an earlier training.
    """

    def __init__(
        self,
        loader: Any,
        device: torch.device,
        rng: np.random.Generator | None = None,
        resumed: Mapping[str, Any] | None = None,
    ) -> None:
        self.loader = loader
        self.device = device
        self.rng = rng
        self._resumed = resumed
        self._start: Mapping[str, Any] = {}
        self._n_given = 0

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def sampler(self) -> Any:
        """The loader's own: Lightning tells that of several processes the epoch."""
        return getattr(self.loader, "sampler", None)

    def __iter__(self) -> Iterator[Any]:
        """Go through an epoch, or once through the rest of one.

        Nothing is drawn before the first minibatch: Lightning calls this to see whether it can.
        """
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            self._set(resumed["start"])
        self._start, self._n_given = self._generators(), 0
        minibatches = iter(self.loader)
        if resumed is not None:
            self._n_given = sum(1 for _ in islice(minibatches, resumed["n_given"]))
            self._set(resumed["now"])
        for minibatch in minibatches:
            self._n_given += 1
            yield minibatch

    def position(self) -> dict[str, Any]:
        """Return where in the epoch the training is, as plain types."""
        return {"start": self._start, "n_given": self._n_given, "now": self._generators()}

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: by this method Lightning knows loaders that can be resumed.

        It loads their states too late where the schedule of the learning rate has asked for the
        number of minibatches before; so the data module keeps it.
        """
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Do nothing: see :meth:`state_dict`."""

    def _generators(self) -> dict[str, Any]:
        states: dict[str, Any] = {"cpu": torch.get_rng_state()}
        if self.device.type != "cpu":
            states[self.device.type] = torch.get_device_module(self.device).get_rng_state()
        if self.rng is not None:
            states["own"] = self.rng.bit_generator.state
        return states

    def _set(self, states: Mapping[str, Any]) -> None:
        torch.set_rng_state(states["cpu"])
        if self.device.type in states and self.device.type != "cpu":
            torch.get_device_module(self.device).set_rng_state(states[self.device.type])
        if self.rng is not None:
            self.rng.bit_generator.state = states["own"]
