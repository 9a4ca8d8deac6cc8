"""Models of cells that a data module of others gives, minibatch by minibatch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS
from torch import Tensor

from scalex_scvi._core.columns import text_of
from scalex_scvi._core.scvi_private import (
    FIELD_REGISTRIES_KEY,
    SETUP_ARGS_KEY,
    SETUP_METHOD_KEY,
    STATE_REGISTRY_KEY,
    SUMMARY_STATS_KEY,
)
from scalex_scvi.pp import NewBatches, Preparation, Preprocessing, Transform
from scalex_scvi.train import (
    MinibatchBlocks,
    SCALEXDataManager,
    TransformedDataModule,
    TransformedMinibatches,
    default_residual,
    mean_expression,
    share_of_nonzero,
    values_of_minibatch,
)

from ._fields import (
    HIGHLY_VARIABLE,
    ExpressionField,
    advise,
    new_state,
    plain_selection,
    preparation_of,
    record_in,
)

if TYPE_CHECKING:
    from scvi.model.base import BaseModelClass as _Base
else:
    _Base = object

logger = logging.getLogger(__name__)

METHOD = "setup_datamodule"
"""How scvi-tools' registries say that cells come from a data module."""

FEATURES_KEY, SEEN_KEY = "features_of_module", "seen_in_module"
"""Keys of the registry of the expression: names of the module's features, of which the model may
have some; and what the training asks of cells, which the model does not have."""

CELLS_KEPT = 8192
"""Cells that are held to find that out: as many as are looked at where a model has its cells."""

_EACH = 3
"""Cells of each batch that scvi-tools wants."""

_NEEDED = ("registry", "train_dataloader", "inference_dataloader")

_OF_MODULE = "the data module says what cells are trained on, and in which minibatches"


class DataModuleMixin(_Base):
    """Adds :meth:`setup_datamodule`, and lets a model train on and read minibatches of counts."""

    @classmethod
    def setup_datamodule(
        cls,
        datamodule: Any,
        profile: str = "RNA",
        n_top_features: Any = None,
        log_normalized: bool | None = None,
        new_batches: NewBatches = "reference",
    ) -> dict[str, Any]:
        """Fit the transform to the counts of a data module, and return a registry for a model.

        For scvi-tools' data modules (:class:`scvi.dataloaders.MappedCollectionDataModule`,
        ``TileDBDataModule``, ``AnnbatchDataModule``) and others with the same interface. All cells
        are read once (peaks and proteins twice), minibatch by minibatch. The transform is the same
        as that of :meth:`setup_anndata` for the same cells. Up to 8 192 cells, spread evenly, are
        kept in memory meanwhile: from them follow the mean expression that the training starts
        from, its length, and ``n_residual``, as with an AnnData.

        The model trains on what ``train_dataloader()`` gives, in the module's order and minibatches
        (a module with ``set_split()``, as ``AnnbatchDataModule``, is told to shuffle all cells).
        The recipes of this package are made for minibatches of 64 to 128 cells of all batches
        together. Methods with an argument ``dataloader`` take the module's minibatches. An AnnData
        is taken by :meth:`load_query_data`, :meth:`get_latent_representation` and what returns
        expression. :meth:`get_elbo` needs a ``dataloader``, as with scvi-tools' models.

        Parameters
        ----------
        datamodule
            Has ``registry``, with the names of features and batches; ``train_dataloader()``; and
            ``inference_dataloader()``, which gives minibatches of all cells: dictionaries with
            counts, ``"X"`` (cells × features), and the number of each cell's ``"batch"``. If it
            needs ``datamodule.setup()``, call that before. It is not changed.
        profile, n_top_features, log_normalized, new_batches
            See :meth:`setup_anndata`.

        Returns
        -------
        The registry, for ``SCALEXModel(registry=…)``: a dictionary of plain types.

        Raises
        ------
        TypeError
            If ``datamodule`` or its minibatches are of another kind.
        ValueError
            For covariates, ``n_top_features="highly_variable"`` (give a list), batches that the
            registry does not name, and as :meth:`setup_anndata`.
        """
        module = _Module.of(datamodule, n_top_features)
        arguments = {
            "batch_key": module.batch_key,
            "labels_key": None,
            "layer": module.layer,
            "profile": profile,
            "n_top_features": plain_selection(n_top_features),
            "log_normalized": log_normalized,
            "processed": None,
            "new_batches": new_batches,
        }
        blocks = MinibatchBlocks(
            datamodule.inference_dataloader,
            module.n_obs,
            len(module.features),
            len(module.batches),
            n_kept=CELLS_KEPT,
        )
        record = _fitted(blocks, module, preparation_of(arguments))
        registry = cls._registry_of(module, record, arguments, blocks.n_seen)
        expression = registry[FIELD_REGISTRIES_KEY][REGISTRY_KEYS.X_KEY][STATE_REGISTRY_KEY]
        expression[SEEN_KEY] = cls._seen(module, *blocks.kept, registry)
        return registry

    @classmethod
    def _registry_of(
        cls, module: _Module, record: Preprocessing, arguments: dict[str, Any], n_obs: int
    ) -> dict[str, Any]:
        """Return a registry as of an AnnData with these features and batches."""
        genes = list(record.genes)
        cells = _cells(sparse.csr_matrix((_EACH * len(module.batches), len(genes))), module, genes)
        cls.setup_anndata(cells, batch_key=module.batch_key, processed=True)
        registry = dict(cls._manager_to_forget(cells).registry)
        registry |= {SETUP_ARGS_KEY: arguments, SETUP_METHOD_KEY: METHOD}
        state = new_state(n_obs, genes, record, False, record.log_normalized)
        expression = registry[FIELD_REGISTRIES_KEY][REGISTRY_KEYS.X_KEY]
        expression[STATE_REGISTRY_KEY] = state | {FEATURES_KEY: np.array(module.features, object)}
        expression[SUMMARY_STATS_KEY] = expression[SUMMARY_STATS_KEY] | {"n_cells": n_obs}
        return registry

    @classmethod
    def _seen(
        cls,
        module: _Module,
        counts: sparse.csr_matrix,
        codes: np.ndarray,
        registry: dict[str, Any],
    ) -> dict[str, Any]:
        """Find out of some cells what the training asks of them."""
        cells = _cells(counts, module, module.features, codes)
        cls._set_up_alike(cells, registry)
        manager = cls._manager_to_forget(cells)
        return {
            "mean": mean_expression(manager, CELLS_KEPT),
            "share_of_nonzero": share_of_nonzero(manager),
            "n_residual": default_residual(manager),
        }

    @classmethod
    def _manager_to_forget(cls, cells: AnnData) -> SCALEXDataManager:
        """Return the manager of cells that no model will have; scvi-tools would hold them."""
        manager = cls._get_most_recent_anndata_manager(cells, required=True)
        del cls._setup_adata_manager_store[manager.adata_uuid]
        return manager

    @property
    def _is_of_module(self) -> bool:
        return FEATURES_KEY in self._expression_state

    def _seen_in_module(self, name: str) -> Any:
        """Return what was found out of the module's cells, ``None`` of other models."""
        return self._expression_state.get(SEEN_KEY, {}).get(name)

    def _taking_values(self) -> Callable[[Any], dict[str, Tensor]]:
        """Return what makes of a minibatch of the module what the network takes."""
        state = self._expression_state
        record, features = record_in(state), pd.DataFrame(index=pd.Index(state[FEATURES_KEY]))
        assert record is not None, "it was fitted"
        transform = Transform.plan(
            record, features, log_normalized=record.log_normalized, report=False
        )
        names = ["0"] if self.batch_key is None else self.batch_names
        return partial(
            values_of_minibatch,
            transform=transform.with_scale(record.scale_of(names)),
            n_features=len(features),
            n_batches=len(names),
        )

    def _prepared(self, dataloader: Iterable[Any] | None) -> Any:
        """Return minibatches as the network takes them; those of a module hold counts."""
        if dataloader is None or not self._is_of_module:
            return dataloader
        record, take = self.preprocessing, self._taking_values()

        def checked(tensors: Any) -> dict[str, Tensor]:
            _check_counts(tensors, record)
            return take(tensors)

        return TransformedMinibatches(dataloader, checked)

    def _module_to_train_on(
        self, datamodule: Any, given: Sequence[str], n_processes: int
    ) -> TransformedDataModule | None:
        """Return the data module of others, ready to train on, if this is a model of one.

        Parameters
        ----------
        datamodule
            What was given to :meth:`train`.
        given
            Arguments of :meth:`train` that are up to the module.
        n_processes
            Processes to train in.
        """
        if not self._is_of_module or (self.adata is not None and datamodule is None):
            return None
        if not hasattr(datamodule, "train_dataloader"):
            msg = (
                f"The model has no cells of its own: `datamodule` is {datamodule!r}, and must be "
                "that which was given to `setup_datamodule`."
            )
            raise ValueError(msg)
        if given or n_processes > 1:
            names = ", ".join(f"`{name}`" for name in given) or "several processes"
            msg = f"{names} cannot be had with `datamodule`: {_OF_MODULE}."
            raise ValueError(msg)
        n_obs = self.summary_stats["n_cells"]
        if hasattr(datamodule, "set_split"):  # scvi-tools' training calls it, and so shuffles
            datamodule.set_split(
                train_size=1.0, validation_size=None, shuffle_set_split=True, batch_size=None
            )
        return TransformedDataModule(datamodule, self._taking_values(), n_obs)


class _Module:
    """What a registry says of a data module."""

    def __init__(self, registry: Mapping[str, Any]) -> None:
        arguments = registry[SETUP_ARGS_KEY]
        for name in ("categorical_covariate_keys", "continuous_covariate_keys"):
            if arguments.get(name):
                msg = (
                    f"The data module has `{name}`={arguments[name]!r}: SCALEX has no covariates "
                    "beside the batch. Join columns that are to be corrected for into one, and "
                    "give it as `batch_key`."
                )
                raise ValueError(msg)
        fields = registry[FIELD_REGISTRIES_KEY]
        expression = fields[REGISTRY_KEYS.X_KEY][STATE_REGISTRY_KEY]
        self.n_obs = int(expression[ExpressionField.N_OBS_KEY])
        self.features = [str(name) for name in expression[ExpressionField.COLUMN_NAMES_KEY]]
        self.layer = arguments.get("layer")
        self.batch_key = arguments.get("batch_key")
        self.batches = ["0"]
        if self.batch_key is not None:
            names = fields[REGISTRY_KEYS.BATCH_KEY][STATE_REGISTRY_KEY]["categorical_mapping"]
            if isinstance(names, Mapping):  # of names to numbers
                names = sorted(names, key=lambda name: names[name])
            self.batches = [text_of(name) for name in names]

    @classmethod
    def of(cls, datamodule: Any, n_top_features: Any) -> _Module:
        missing = [name for name in _NEEDED if not hasattr(datamodule, name)]
        if missing:
            msg = (
                f"`datamodule` is a {type(datamodule).__name__!r} without {missing!r}. It must "
                f"have {list(_NEEDED)!r}, as scvi-tools' data modules do "
                "(`scvi.dataloaders.MappedCollectionDataModule`)."
            )
            raise TypeError(msg)
        if isinstance(n_top_features, str) and n_top_features == HIGHLY_VARIABLE:
            msg = (
                "`n_top_features` 'highly_variable' is of an AnnData: a data module has no `var`. "
                "Give a number, or a list of names."
            )
            raise ValueError(msg)
        return cls(datamodule.registry)


def _fitted(blocks: MinibatchBlocks, module: _Module, preparation: Preparation) -> Preprocessing:
    var = pd.DataFrame(index=pd.Index(module.features))
    advise(len(var), preparation)
    record = Preprocessing.fit_blocks(
        blocks, var, module.batches, preparation, name="The data module", batch_key=module.batch_key
    )
    without = [name for name in module.batches if name not in record.scale]
    if without:
        logger.warning("The data module has no cells of the batches %r.", without)
    return record


def _cells(
    counts: sparse.csr_matrix,
    module: _Module,
    features: Sequence[str],
    codes: np.ndarray | None = None,
) -> AnnData:
    """Return some cells of the module; without batches given, some of each."""
    if codes is None:
        codes = np.repeat(np.arange(len(module.batches)), _EACH)
    names = [str(i) for i in range(len(codes))]
    obs = pd.DataFrame(index=names)
    if module.batch_key is not None:
        obs[module.batch_key] = pd.Categorical.from_codes(codes, categories=module.batches)
    cells = AnnData(counts.astype(np.float32), obs=obs, var=pd.DataFrame(index=list(features)))
    if module.layer is not None:
        cells.layers[module.layer] = cells.X
    return cells


def _check_counts(tensors: Any, record: Preprocessing | None) -> None:
    """Raise for values in [0, 1] where counts are expected: they would be transformed twice."""
    x = tensors.get(REGISTRY_KEYS.X_KEY) if hasattr(tensors, "get") else None
    if not isinstance(x, Tensor) or record is None or record.log_normalized or not len(x):
        return
    values = x.to_dense() if x.is_sparse or x.is_sparse_csr else x
    if values.max() <= 1 and bool((values % 1 != 0).any()):
        msg = (
            "The minibatches of `dataloader` hold values in [0, 1]. A model of a data module takes "
            "counts, as the module's `inference_dataloader()` gives them."
        )
        raise ValueError(msg)
