"""What ends the trainings that are to be interrupted."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import Callback


class Interrupted(Exception):
    """What the tests end a training by."""


class Interrupt(Callback):
    """End a training after a number of minibatches, in all of its processes."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise Interrupted
