"""Training of a model."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from scalex_scvi._core.messages import without_hints_of_lightning
from scalex_scvi._core.ranges import check_share, check_whole
from scalex_scvi._core.scvi_private import parse_device_args
from scalex_scvi._core.seeds import resolve_seed, seeded
from scalex_scvi._core.threads import is_small_training, one_thread
from scalex_scvi._core.trainer_arguments import check_trainer_arguments
from scalex_scvi.train import (
    DEFAULT,
    Checkpoint,
    Recipe,
    TransformedDataModule,
    count_processes,
    ddp_logging,
    default_steps,
    mean_expression,
    share_of_nonzero,
    store_data_module,
    training_callbacks,
)

from ._checkpoint import KeptTraining, check_resumable
from ._missing_genes import MissingGenesMixin, gene_factors
from ._remaining_offsets import remove_remaining_offsets
from ._training_sample import TrainingSample, sample_of, sample_of_module

logger = logging.getLogger(__name__)

_OF_PLAN = ("lr", "weight_decay", "kl_weight", "alignment_weight", "lr_schedule")
"""Numbers of a recipe that are arguments of the training plan."""


DECAY, DECAY_OF_NONLINEAR = 5e-4, 1e-4
"""L2 penalty by default: the published one, and that of a decoder with a nonlinear part."""


class TrainingMixin(MissingGenesMixin):
    """Adds :meth:`train` to a model: scvi-tools' training by a recipe of this package."""

    is_trained_: bool
    untrained_batches_: list[str]
    offsets_removed_: bool
    _summarize: Callable[[], None]
    _seen_in_module: Callable[[str], Any]
    _module_to_train_on: Callable[..., TransformedDataModule | None]

    def train(
        self,
        max_epochs: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = 1.0,
        validation_size: float | None = None,
        recipe: Mapping[str, Any] = DEFAULT,
        seed: int | None = None,
        plan_kwargs: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """Train the model by a recipe, whose options are arguments of this method, too.

        All cells are trained on, in minibatches over all batches together; the incomplete last
        minibatch of an epoch is dropped. The weights with the best mean training loss are kept;
        from them, what is left of the batches' offsets among neighboring cells is removed
        (``remove_offsets``).

        Loss and optimizer are the published ones; minibatches are twice as large, the learning rate
        is fifteen times as high and falls to zero along half a cosine, over fewer minibatches
        (docs/quality.md). The published recipe is
        ``model.train(recipe=scalex_scvi.train.PUBLISHED)``. ``scalex_scvi.train.QUICK`` takes 1 000
        minibatches for sparse data and many types, too; results are about as good except for
        peaks, where scores are up to 0.03 lower.

        Cells of a store (:func:`scalex_scvi.io.open_store`) are read in blocks by annbatch (see
        :class:`scalex_scvi.train.StoreDataModule`), or row by row where that is not installed.

        On the CPU one thread trains, whatever the number of cores, unless minibatches have more
        than 400 000 values, or ``scvi.settings.num_threads`` or ``OMP_NUM_THREADS`` is set: more
        save little, and take more than twice as long where other programs use the cores.

        A model of a data module (:meth:`setup_datamodule`) is trained with ``datamodule=``, in the
        minibatches that the module makes.

        On a model from :meth:`load_query_data` this fits the decoder's normalization of the new
        batches and nothing else. The latent does not change; what changes is the expression that
        :meth:`get_imputed_expression` decodes in these batches.

        Parameters
        ----------
        max_epochs
            Number of epochs; ``None``: as many as the recipe's ``max_steps`` takes.
        accelerator, devices
            See :class:`lightning.pytorch.Trainer`. More than one device needs ``strategy="ddp"``:
            one process each, all of which train one model (see ``docs/distributed.md``).
        train_size, validation_size
            Shares of cells to train on (all of them by default) and to validate on.
        recipe
            Options of the training: see :class:`scalex_scvi.train.Recipe`.
        seed
            Seed of order and noise; ``None``: ``scvi.settings.seed``, else 124 as published.
            The same seed on the same machine gives the same weights, bit for bit.
        plan_kwargs
            Passed into :class:`scalex_scvi.train.SCALEXTrainingPlan`.
        **more
            Options of the recipe to change (``max_steps=1_000``, ``batch_size=128``, ``lr=1e-3``,
            ``early_stopping=True`` …), ``datasplitter_kwargs`` for
            :class:`scvi.dataloaders.DataSplitter`, and arguments of :class:`scvi.train.Trainer`,
            e.g. ``enable_progress_bar=False``, ``precision="bf16-mixed"`` or ``strategy="ddp"``.
            ``checkpoint="training.ckpt"`` keeps the state of the training in this file every ten
            minutes, and continues the training whose state an existing file holds: the weights
            are, bit for bit, those of an uninterrupted training. See
            :class:`scalex_scvi.train.Checkpoint`, and the guide for what it needs.

        Raises
        ------
        TypeError
            For an argument that neither this method nor the trainers have, for unknown names in
            ``recipe`` or ``plan_kwargs``, and for a ``recipe`` that is none.
        ValueError
            For numbers out of range, a model that is minified or has no cells, more than one
            device without ``strategy="ddp"``, or fewer than two cells for each process; for a
            checkpoint of other data or arguments, with what differs.
        RuntimeError
            If the loss diverges.
        KeyboardInterrupt
            After Ctrl-C; a model that was not trained before is not trained then.
        """
        check_trainer_arguments(more, TrainingMixin.train, options=Recipe.names())
        checkpoint = Checkpoint.of(more.pop("checkpoint", None))
        train_size = _checked_shares(train_size, validation_size)
        if max_epochs is not None:
            check_whole(max_epochs, 1, name="max_epochs")
            max_epochs = int(max_epochs)  # Lightning and torch take no number of NumPy
        changes = {name: more.pop(name) for name in Recipe.names() if name in more}
        recipe = Recipe.of(recipe).but(**changes)
        n_processes = count_processes(accelerator, devices, more)
        module = self._module_to_train_on(
            more.get("datamodule"), _up_to_module(changes, train_size, validation_size), n_processes
        )
        self._check_trainable(module)
        if not recipe.residual and not self.is_trained_ and not self.n_reference_batches_:
            self._drop_residual()
        if self.n_reference_batches_ == self.summary_stats.n_batch:
            logger.warning("The query has no new batches: there is nothing to train.")
            return
        device = _device(accelerator, devices, n_processes)
        n_train = self._count_training_cells(train_size, n_processes, module, more)
        batch_size = int(min(recipe.batch_size, n_train // n_processes))
        steps_per_epoch = n_train // n_processes // batch_size if module is None else len(module)
        if max_epochs is None:
            max_epochs = math.ceil(self._steps(recipe) / steps_per_epoch)
        more.setdefault("log_every_n_steps", min(10, steps_per_epoch))
        if module is None and n_train == self.adata.n_obs:
            _point_to_validation(more)
        more |= self._stopping(recipe, train_size, seed, n_processes, more.pop("callbacks", []))
        if module is not None:
            more["datamodule"] = module
        elif "datamodule" not in more:
            more["datamodule"] = store_data_module(
                self.adata_manager,
                batch_size=batch_size,
                seed=resolve_seed(seed),
                train_size=train_size,
            )
        more["datasplitter_kwargs"] = self._splitter(n_train, validation_size, seed, more)
        numbers = {"max_epochs": max_epochs, "batch_size": batch_size, "train_size": train_size}
        plan = self._plan(recipe, plan_kwargs)
        options = dict(recipe) | plan | numbers | {"seed": resolve_seed(seed)}
        n_values = batch_size * self.summary_stats.n_vars
        with one_thread(is_small_training(n_values, device)):
            kept = self._kept(checkpoint, options, n_processes, more, device)
            if kept is not None and kept.is_finished:
                kept.take(self)
            else:
                how = {"accelerator": accelerator, "devices": devices, "plan_kwargs": plan} | more
                how |= {"validation_size": validation_size, "shuffle_set_split": False} | numbers
                self._fit(recipe, seed, device, module, how)
                if kept is not None:
                    kept.finish(self)
        frozen = set(self.batch_names[: self.n_reference_batches_])
        self.untrained_batches_ = [name for name in self.untrained_batches_ if name in frozen]

    def _fit(
        self,
        recipe: Recipe,
        seed: int | None,
        device: torch.device,
        module: TransformedDataModule | None,
        how: dict[str, Any],
    ) -> None:
        """Train by scvi-tools' own method, and learn what is not learned by gradients."""
        with self._ready_to_fit(recipe, seed, device, how):
            super().train(**how)
            self._learn_from_sample(recipe, how["plan_kwargs"], module)

    def _kept(
        self,
        checkpoint: Checkpoint | None,
        options: dict[str, Any],
        n_processes: int,
        more: dict[str, Any],
        device: torch.device,
    ) -> KeptTraining | None:
        """Return the training as a checkpoint has it, if one is wanted; ``more`` will keep it."""
        if checkpoint is None:
            return None
        check_resumable(more)
        if n_processes > 1:
            options["n_processes"] = n_processes
        return KeptTraining(checkpoint, self, options, more, device)

    @contextmanager
    def _ready_to_fit(
        self, recipe: Recipe, seed: int | None, device: torch.device, more: dict[str, Any]
    ) -> Iterator[None]:
        """Hold the cells' values, the generators and the start of the decoder ready."""
        is_query = self.n_reference_batches_ > 0
        with (
            nullcontext() if self.adata is None else self.adata_manager.transformed_once(device),
            self._completed_minibatches(None, device) if is_query else nullcontext(),
            seeded(seed),
            self._history_started(),
            ddp_logging(more),
            without_hints_of_lightning(),
        ):
            if recipe.start_at_mean:
                self._start_at_mean()
            yield

    def _check_trainable(self, module: TransformedDataModule | None) -> None:
        if self.adata is None and module is None and self.is_trained_:
            msg = (
                f"The model was loaded without cells. To train it further load it with them, "
                f"`{type(self).__name__}.load(folder, adata=adata)`, or give the `datamodule`."
            )
            raise ValueError(msg)
        if self.adata is None and module is None:
            msg = (
                "The model was built from a registry, without cells, and the registry has no "
                "transform of counts, which is fitted to all cells. That of a data module: "
                "`SCALEXModel(registry=SCALEXModel.setup_datamodule(datamodule))`. Cells in "
                "memory, backed, of a store or of dask: `setup_anndata`."
            )
            raise ValueError(msg)
        if self.minified_data_type is not None:
            msg = (
                "The model is minified: its cells have no expression left to train on. Load the "
                "model with the cells that it was trained on."
            )
            raise ValueError(msg)
        if self.adata is not None:
            self.adata_manager.validate()

    def _drop_residual(self) -> None:
        """Make the decoder linear, as if it had been built so: all other weights are the same.

        A mixture that is the prior because of the nonlinear part goes with it.
        """
        built_with = self.init_params_["non_kwargs"]
        self.module.decoder.residual, built_with["n_residual"] = None, 0
        if self.prior_by_default_:
            self.module.prior, built_with["n_prior_components"] = None, 1
        self._summarize()

    def _count_training_cells(
        self,
        train_size: float,
        n_processes: int,
        module: TransformedDataModule | None,
        more: Mapping[str, Any],
    ) -> int:
        if module is not None:
            return module.n_train
        chosen = (more.get("datasplitter_kwargs") or {}).get("external_indexing")
        n_train = math.ceil(self.adata.n_obs * train_size) if chosen is None else len(chosen[0])
        # The normalization of a frozen encoder and decoder takes single cells, too.
        fewest = n_processes if self.n_reference_batches_ else 2 * n_processes
        if n_train < fewest:
            where = (
                f"shared out between {n_processes} processes" if n_processes > 1 else "trained on"
            )
            msg = f"{n_train} cells cannot be {where}: batch normalization needs {fewest} or more."
            raise ValueError(msg)
        return n_train

    def _steps(self, recipe: Recipe) -> int:
        if recipe.max_steps is not None:
            return recipe.max_steps
        # Of a query nothing is trained but the normalization of its batches.
        nonlinear = self.module.decoder.residual is not None and not self.n_reference_batches_
        if self.adata is None:
            return default_steps(self._seen_in_module("share_of_nonzero"), nonlinear=nonlinear)
        return default_steps(share_of_nonzero(self.adata_manager), nonlinear=nonlinear)

    def _plan(self, recipe: Recipe, plan_kwargs: dict[str, Any] | None) -> dict[str, Any]:
        plan = {name: recipe[name] for name in _OF_PLAN} | (plan_kwargs or {})
        recipe.but(**{name: plan[name] for name in _OF_PLAN})  # the same ranges
        if plan["weight_decay"] is None:
            is_linear = self.module.decoder.residual is None
            plan["weight_decay"] = DECAY if is_linear else DECAY_OF_NONLINEAR
        if self.n_reference_batches_:
            plan["weight_decay"] = 0.0  # it would move the frozen rows
        return plan

    def _learn_from_sample(
        self, recipe: Recipe, plan: Mapping[str, Any], module: TransformedDataModule | None
    ) -> None:
        """Do what is left to do for a reference: it needs some cells, and no gradients.

        What is left of the batches' offsets is removed, unless batches are not to be aligned, and
        it is noted how genes vary together, for queries that lack some.
        """
        if self.n_reference_batches_:
            return
        sample = self._training_sample(module)
        wanted = recipe.remove_offsets and plan["alignment_weight"] > 0
        self.offsets_removed_ = wanted and remove_remaining_offsets(self, sample)
        self.gene_factors_ = gene_factors(sample.values)

    def _training_sample(self, module: TransformedDataModule | None) -> TrainingSample:
        if module is None:
            return sample_of(self.adata_manager, self.train_indices)
        return sample_of_module(module, len(self.batch_names), self.trainer.global_step)

    @staticmethod
    def _stopping(
        recipe: Recipe,
        train_size: float,
        seed: int | None,
        n_processes: int,
        callbacks: list[Any],
    ) -> dict[str, Any]:
        """Arguments of the trainer that say when to stop."""
        wanted, constant = recipe.early_stopping, recipe.lr_schedule == "constant"
        by_validation = bool(wanted) and train_size < 1
        if wanted and not by_validation and not constant:
            logger.warning(
                "`early_stopping=True` has no effect: the cosine schedule is run to its end. Leave "
                "cells for validation (`train_size=0.9`), or pass `lr_schedule='constant'`."
            )
        by_training = wanted is not False and constant and not by_validation
        patience = recipe.early_stopping_patience if by_training else None
        stopping: dict[str, Any] = {
            "callbacks": [
                *callbacks,
                *training_callbacks(patience, resolve_seed(seed), n_processes),
            ]
        }
        if by_validation:
            stopping["early_stopping"] = True
            stopping["early_stopping_patience"] = recipe.early_stopping_patience
        return stopping

    def _splitter(
        self, n_train: int, validation_size: float | None, seed: int | None, more: dict[str, Any]
    ) -> dict[str, Any]:
        """Arguments of the data splitter; those of ``more`` that are its own are taken out."""
        shuffle = more.pop("shuffle_set_split", True)
        given = more.pop("datasplitter_kwargs", None) or {}
        if self.adata is None:  # a data module of others
            return given
        # `drop_dataset_tail`: no cell twice in an epoch to fill up the last process.
        splitter = {
            "order_seed": resolve_seed(seed),
            "drop_last": True,
            "drop_dataset_tail": True,
        } | given
        if n_train < self.adata.n_obs and "external_indexing" not in splitter:
            splitter["external_indexing"] = self._split(n_train, validation_size, seed, shuffle)
        return splitter

    def _split(
        self, n_train: int, validation_size: float | None, seed: int | None, shuffle: bool
    ) -> list[np.ndarray]:
        """Draw training, validation and test cells, reproducibly."""
        n_cells = self.adata.n_obs
        n_validation = n_cells - n_train
        if validation_size is not None:
            n_validation = min(n_validation, math.floor(n_cells * validation_size))
        order = np.arange(n_cells)
        if shuffle:
            order = np.random.default_rng(resolve_seed(seed)).permutation(n_cells)
        return np.split(order, [n_train, n_train + n_validation])

    def _start_at_mean(self) -> None:
        """Before the first training, of all batches or of a query's, place the decoder's output."""
        is_first = not self.is_trained_ or (self.n_reference_batches_ > 0 and not self.history_)
        if is_first:
            mean = self._seen_in_module("mean")
            mean = mean_expression(self.adata_manager) if self.adata is not None else mean
            self.module.decoder.start_at(torch.from_numpy(mean).to(self.module.device))

    @contextmanager
    def _history_started(self) -> Iterator[None]:
        """Let scvi-tools start a new history for a query model, which counts as trained.

        It starts one only for a model that is not trained yet. A query model stays usable when its
        training fails: its latent needs none.
        """
        was_trained = self.is_trained_
        if not self.history_:
            self.is_trained_ = False
        try:
            yield
        finally:
            self.is_trained_ = self.is_trained_ or was_trained


def _checked_shares(train_size: float | None, validation_size: float | None) -> float:
    """Return the share of cells to train on."""
    train_size = 1.0 if train_size is None else train_size
    check_share(train_size, name="train_size")
    if validation_size is not None:
        check_share(validation_size, name="validation_size", zero=True)
    return train_size


def _point_to_validation(more: Mapping[str, Any]) -> None:
    """Say so if something is to be done by validation, and all cells are trained on."""
    wanted = ["check_val_every_n_epoch"]
    if "validation" in more.get("checkpointing_monitor", "validation_loss"):
        wanted.append("enable_checkpointing")
    wanted = [name for name in wanted if more.get(name)]
    if wanted:
        logger.warning(
            "%s has no effect: all cells are trained on. Leave some for validation: "
            "`train_size=0.9`.",
            ", ".join(f"`{name}={more[name]!r}`" for name in wanted),
        )


def _up_to_module(
    changes: Mapping[str, Any], train_size: float, validation_size: float | None
) -> list[str]:
    """Names of the arguments that were given, and are up to a data module of others."""
    given = [name for name in ("batch_size",) if name in changes]
    given += ["train_size"] if train_size < 1 else []
    return given + (["validation_size"] if validation_size is not None else [])


def _device(accelerator: str, devices: int | list[int] | str, n_processes: int) -> torch.device:
    """Where one process trains; several share no memory of a device."""
    if n_processes > 1:
        return torch.device("cpu")
    *_, device = parse_device_args(accelerator, devices, return_device="torch")
    return device
