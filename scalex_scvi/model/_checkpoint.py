"""The file with the state of a training: its content, and whether it belongs to this training.

The state is what Lightning saves (weights, optimizer, schedule, callbacks, loops), and what
``scalex_scvi.train`` adds: the order of cells, the random generators and the recent cells. It is
written as tensors and plain types, with a checksum, and read without executing code from it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.plugins.io import CheckpointIO
from scipy import sparse
from scvi import REGISTRY_KEYS

from scalex_scvi._core.matrices import in_memory
from scalex_scvi._core.unfinished import unfinished
from scalex_scvi.train import (
    Checkpoint,
    CheckpointWriter,
    SCALEXDataManager,
    StoreDataModule,
    cells_all_over,
)

from ._checksum import checksum, checksum_of_arrays, impossible_numbers
from ._fields import stored_record
from ._files import KindOfFile, read_plain, write_checked
from ._plain import from_plain, to_plain

if TYPE_CHECKING:
    from ._model import SCALEXModel

logger = logging.getLogger(__name__)

TRAINING = KindOfFile(
    "a checkpoint of a training by scalex-scvi",
    "scalex_scvi_training",
    2,  # 1: the optimizer's state of the first layer lay units × genes
    instead="Remove it to start anew.",
    not_ours="It is not replaced: name another file.",
)

CELLS_COMPARED = 1024
"""Number of cells on disk whose expression is compared; of cells in memory all are."""

_OF_INDICES = ("train_indices", "validation_indices", "test_indices")

_OF_FINISHED = ("weights", "history", *_OF_INDICES)
_OF_UNFINISHED = (
    "state_dict",
    "optimizer_states",
    "lr_schedulers",
    "callbacks",
    "loops",
    "global_step",
    "history",
    "epoch_sums",
    "not_in_weights",
)
"""What the state of a training consists of, its weights first."""

_NOT_EXACT = {
    "val_check_interval": "validation within an epoch",
    "reload_dataloaders_every_n_epochs": "loaders that are made anew",
}
"""Arguments of the trainer with which the continuation would not be the same training."""

_NOT_COMPARED = (
    "callbacks",  # their states are in the checkpoint
    "default_root_dir",
    "enable_",
    "log_",
    "logger",
    "plugins",
    "profiler",
    "progress_bar_refresh_rate",
    "simple_progress_bar",
)
"""Beginnings of arguments that show and store, and change no weight."""


class KeptTraining:
    """A training, and the file that its state is kept in.

    Parameters
    ----------
    checkpoint
        Where and how often.
    model
        The model to train, before the training has changed anything.
    options
        Numbers of the training, by name.
    trainer_kwargs
        Further arguments of scvi-tools' ``train``. What keeps and continues a training is added.
    device
        Where it runs.

    Raises
    ------
    FileNotFoundError, PermissionError
        If there is no such folder, or nothing can be written there.
    ValueError
        If the file is of another training, with what differs, or is no checkpoint, or damaged.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: SCALEXModel,
        options: Mapping[str, Any],
        trainer_kwargs: dict[str, Any],
        device: torch.device,
    ) -> None:
        folder = checkpoint.place.parent
        if not folder.is_dir():
            msg = f"The folder {str(folder)!r} of the checkpoint does not exist. Make it first."
            raise FileNotFoundError(msg)
        if not os.access(folder, os.W_OK | os.X_OK):
            msg = f"The checkpoint cannot be written into {str(folder)!r}. Name another folder."
            raise PermissionError(msg)
        self.checkpoint = checkpoint
        options = dict(options) | _options_of_trainer(trainer_kwargs)
        options.pop("max_steps", None)  # `max_epochs` says it
        self.training = to_plain(_data_of(model) | options, name="The training")
        self.machine = to_plain(_machine() | {"device": device.type}, name="The machine")
        self.found: dict[str, Any] | None = None
        if checkpoint.place.exists():
            found = read_training(checkpoint.place)  # nothing else is ever replaced
            self.found = found if checkpoint.resume else None
        if self.found is not None:
            self._check(self.found)
        self._add_to(trainer_kwargs)

    @property
    def is_finished(self) -> bool:
        """Whether the training came to its end before."""
        return self.found is not None and self.found["finished"]

    def _add_to(self, trainer_kwargs: dict[str, Any]) -> None:
        """Add what keeps and continues a training to the arguments of scvi-tools' ``train``."""
        plugins = trainer_kwargs.get("plugins") or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        trainer_kwargs["plugins"] = [*plugins, TrainingFile(self)]
        writer = CheckpointWriter(self.checkpoint)
        trainer_kwargs["callbacks"] = [writer, *trainer_kwargs["callbacks"]]
        if trainer_kwargs["datamodule"] is None:
            trainer_kwargs["datasplitter_kwargs"]["resumable"] = True
        else:
            trainer_kwargs["datamodule"].resumable = True
        if self.found is not None and not self.is_finished:
            trainer_kwargs["ckpt_path"] = str(self.checkpoint.place)
            n_done = self.found["state"]["global_step"]
            logger.info(
                "Continues the training of %s after %d minibatches.", self.checkpoint.place, n_done
            )

    def finish(self, model: SCALEXModel) -> None:
        """Write the result of the training: its weights, without the state to continue from.

        One of several processes writes; all of them find it from here on.
        """
        if model.trainer.is_global_zero:
            self._write_finished(model)
        model.trainer.strategy.barrier()

    def _write_finished(self, model: SCALEXModel) -> None:
        weights = {name: value.cpu() for name, value in model.module.state_dict().items()}
        result = {name: getattr(model, name, None) for name in _OF_INDICES}
        result["offsets_removed_"] = model.offsets_removed_
        result["gene_factors_"] = model.gene_factors_
        try:
            self.write({"weights": weights, "history": model.history_} | result, finished=True)
        except (OSError, RuntimeError, TypeError) as error:  # the model is trained all the same
            logger.warning("The checkpoint of the finished training was not written: %s.", error)

    def take(self, model: SCALEXModel) -> None:
        """Load the result of a finished training into a model."""
        state = self.found["state"]  # type: ignore[index]
        model.module.load_state_dict(state["weights"])
        model.module.eval()
        model.history_ = state["history"]
        for name in _OF_INDICES:
            setattr(model, name, state[name])
        model.offsets_removed_ = state.get("offsets_removed_", False)
        model.gene_factors_ = state.get("gene_factors_")
        model.is_trained_ = True
        logger.info("The training of %s came to its end before.", self.checkpoint.place)

    def write(self, state: Mapping[str, Any], *, finished: bool) -> None:
        """Write the file, whole or not at all."""
        place = self.checkpoint.place
        content = {
            TRAINING.key: TRAINING.format,
            "training": self.training,
            "machine": self.machine,
            "finished": finished,
            "state": to_plain(state, name="The training's state"),
        }
        with unfinished(place.parent) as folder:
            new = folder / "new" / place.name
            write_checked(new, content)
            os.replace(new, place)

    def _check(self, found: Mapping[str, Any]) -> None:
        place, there, here = self.checkpoint.place, found["training"], self.training
        differ = [name for name in [*there, *here] if there.get(name) != here.get(name)]
        if differ:
            what = "; ".join(_difference(name, there, here) for name in dict.fromkeys(differ))
            msg = (
                f"The checkpoint {str(place)!r} is of another training: {what}. Train with the "
                "same data and arguments to continue it, or start anew with another file "
                "(`resume=False` replaces this one)."
            )
            raise ValueError(msg)
        machine = found["machine"]
        changed = [name for name in self.machine if machine.get(name) != self.machine[name]]
        if changed:
            what = "; ".join(_difference(name, machine, self.machine) for name in changed)
            logger.warning(
                "The training goes on elsewhere: %s. Its weights are not those of an uninterrupted "
                "one, as with another seed: differences of rounding grow in a training.",
                what,
            )


class TrainingFile(CheckpointIO):
    """Lightning's checkpoints, written and read as tensors and plain types."""

    def __init__(self, kept: KeptTraining) -> None:
        self.kept = kept
        self._said = False

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint, whole or not at all.

        A full disk, or another callback's state, does not end a long training; nor may it keep
        this process from those that wait for it.
        """
        try:
            self.kept.write(move_data_to_device(checkpoint, torch.device("cpu")), finished=False)
        except (OSError, RuntimeError, TypeError) as error:
            if not self._said:
                logger.warning("No checkpoint could be written, the training goes on: %s.", error)
            self._said = True

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the checkpoint, which was read when its training was compared, once."""
        return self.kept.found.pop("state")  # type: ignore[union-attr]

    def remove_checkpoint(self, path: Any) -> None:
        """Lightning's own callbacks remove old checkpoints; there is one, which stays."""


def check_resumable(trainer_kwargs: Mapping[str, Any]) -> None:
    """Raise where a training could not be continued exactly.

    Raises
    ------
    ValueError
        For a data module of the user's own, or validation within an epoch.
    """
    why = None
    module = trainer_kwargs.get("datamodule")
    if module is not None and not isinstance(module, StoreDataModule):
        why = f"a {type(module).__name__!r}, whose order of cells is not known"
    for name, what in _NOT_EXACT.items():
        if trainer_kwargs.get(name) is not None:
            why = f"`{name}`, {what}"
    if why is not None:
        msg = f"`checkpoint` is not possible with {why}: it could not be continued exactly."
        raise ValueError(msg)


def read_training(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing code from it.

    Raises
    ------
    ValueError
        If the file is not a checkpoint of ours, or changed since it was written.
    """
    content = TRAINING.check(path, read_plain(path, TRAINING.what))
    try:
        state = content["state"] = from_plain(content["state"])
        parts = _OF_FINISHED if content["finished"] else _OF_UNFINISHED
        missing = [name for name in parts if name not in state]
        missing += [name for name in ("training", "machine") if name not in content]
    except (KeyError, TypeError, AttributeError) as error:
        missing = [repr(error)]
    if missing:
        msg = f"{str(path)!r} is damaged: parts are missing, {missing!r}. {TRAINING.instead}"
        raise ValueError(msg)
    problem = impossible_numbers(state[parts[0]])
    if problem is not None:
        msg = f"{str(path)!r} cannot be used: {problem}. {TRAINING.instead}"
        raise ValueError(msg)
    return content


def _options_of_trainer(trainer_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a trainer that change weights, as plain types."""
    options = {
        name: _named(value)
        for name, value in trainer_kwargs.items()
        if not name.startswith(_NOT_COMPARED)
    }
    options["runs_in_buffer"] = getattr(trainer_kwargs["datamodule"], "runs_in_buffer", None)
    return options


def _named(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _named(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_named(item) for item in value]
    if isinstance(value, np.ndarray):
        return checksum_of_arrays([value])
    return type(value).__name__


def _data_of(model: SCALEXModel) -> dict[str, Any]:
    """Return what identifies the start of the training: cells, transform, network and weights."""
    manager = model.adata_manager
    network = dict(model.init_params_["non_kwargs"])
    network.pop("seed", None)  # of the weights at the start
    return {
        "cells": model.adata.n_obs,
        "genes": checksum([str(gene) for gene in model.get_var_names()]),
        "batches": model.batch_names,
        "batch of each cell": checksum_of_arrays([manager.codes.astype(np.int64)]),
        "expression": _checksum_of_cells(manager),
        "preparation": checksum(to_plain(stored_record(model.preprocessing), name="The record")),
        "weights at the start": checksum(
            {name: value.cpu() for name, value in model.module.state_dict().items()}
        ),
        "model": type(model).__name__,
        **network,
    }


def _checksum_of_cells(manager: SCALEXDataManager) -> str:
    """Checksum of the expression: all that is in memory, cells spread evenly on a disk."""
    matrix = manager.get_from_registry(REGISTRY_KEYS.X_KEY)
    if not in_memory(matrix):
        return checksum_of_arrays(cells_all_over(manager, CELLS_COMPARED))
    if sparse.issparse(matrix):
        return checksum_of_arrays([matrix.data, matrix.indices, matrix.indptr])
    return checksum_of_arrays([matrix])


def _machine() -> dict[str, Any]:
    """Return versions and settings that change results by rounding."""
    return {
        **{name: version(name) for name in ("scalex-scvi", "scvi-tools", "lightning", "torch")},
        "threads": torch.get_num_threads(),
    }


def _difference(name: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    values = [side.get(name) for side in (there, here)]
    is_sum = any(isinstance(value, str) and len(value) == 64 for value in values)
    if is_sum or any(len(repr(value)) > 80 for value in values):
        return f"{name} differ"
    return f"{name} was {values[0]!r}, is {values[1]!r}"
