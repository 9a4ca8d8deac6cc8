"""Saving and loading models."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from mudata import MuData, read_h5mu
from scvi import REGISTRY_KEYS

from scalex_scvi._core.files import check_no_run_has, is_published
from scalex_scvi._core.modalities import Cells, check_cells
from scalex_scvi._core.scvi_private import (
    FIELD_REGISTRIES_KEY,
    MODEL_NAME_KEY,
    SETUP_ARGS_KEY,
    STATE_REGISTRY_KEY,
    parse_device_args,
)
from scalex_scvi._core.unfinished import arrive, unfinished
from scalex_scvi.io import read_h5ad
from scalex_scvi.pp import Preprocessing

from ._fields import LOGARITHMS_KEY, PROCESSED_KEY, RECORD_KEY
from ._files import SavedModel, cells_path, model_path, read_model, write_model

if TYPE_CHECKING:
    from scvi.model.base import BaseModelClass as _Base
else:
    _Base = object


logger = logging.getLogger(__name__)


class SavingMixin(_Base):
    """Replaces scvi-tools' :meth:`save` and :meth:`load`, which pickle."""

    def save(
        self,
        dir_path: str | os.PathLike[str],
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        save_kwargs: dict[str, Any] | None = None,
        **anndata_write_kwargs: Any,
    ) -> None:
        """Save the model: tensors and plain types in one file, written whole or not at all.

        A model that was never trained is saved with a warning.

        Parameters
        ----------
        dir_path
            Folder to save into.
        prefix
            Put before the file names; not a folder.
        overwrite
            Whether the folder may exist already.
        save_anndata
            Whether to save the model's AnnData or MuData too.
        save_kwargs
            Passed into :func:`torch.save`.
        **anndata_write_kwargs
            Passed into :meth:`anndata.AnnData.write_h5ad`, or ``write_h5mu`` of a MuData.

        Raises
        ------
        ValueError
            If the folder exists and ``overwrite`` is false, if it is the model of a run folder, if
            ``prefix`` names a folder, or if an AnnData is there that was not saved with a model.
        """
        folder = Path(dir_path).expanduser()
        if os.path.exists(folder) and not overwrite:
            msg = f"{str(dir_path)!r} exists. Choose another folder, or pass `overwrite=True`."
            raise ValueError(msg)
        check_no_run_has(model_path(folder, prefix))
        if not self.is_trained:
            logger.warning(
                "The model was never trained: it is saved, but cannot place cells or be a "
                "reference. `train()` it first."
            )
        of_mudata = isinstance(self.adata, MuData)
        if save_anndata:
            _check_replaceable(cells_path(folder, prefix, mudata=of_mudata), folder, prefix)
        attributes = {k: v for k, v in self._get_user_attributes() if k.endswith("_")}
        state = {name: value.cpu() for name, value in self.module.state_dict().items()}
        saved = SavedModel(state, [str(gene) for gene in self.get_var_names()], attributes)
        os.makedirs(folder, exist_ok=True)
        with unfinished(folder) as place:  # model and cells arrive together
            new = place / "new"
            if save_anndata:
                path = cells_path(new, prefix, mudata=of_mudata)
                self._write_cells(path, anndata_write_kwargs)
            path = model_path(new, prefix)
            write_model(path, saved, with_adata=save_anndata, **(save_kwargs or {}))
            arrive(place)

    def _write_cells(self, path: Path, anndata_write_kwargs: dict[str, Any]) -> None:
        if self.adata.isbacked:  # writing would make the new file that of the user's object
            self.adata.copy(path).file.close()
        elif isinstance(self.adata, MuData):
            self.adata.write_h5mu(path, **anndata_write_kwargs)
        else:
            self.adata.write_h5ad(path, **anndata_write_kwargs)

    @classmethod
    def load(
        cls,
        dir_path: str | os.PathLike[str],
        adata: Cells | Literal[False] | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
    ) -> Self:
        """Load a saved model. No code of the file is executed.

        Parameters
        ----------
        dir_path
            Folder that :meth:`save` wrote.
        adata
            Cells with the model's genes, counts or prepared as those of the model. ``None``: the
            AnnData or MuData saved with the model, if there is one; ``False``: no data.
        accelerator, device
            Where to put the model.
        prefix
            Put before the file names when saving.

        Returns
        -------
        The model, ready for use, with ``adata`` as its cells if there are any.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no model in the folder, or it is damaged, has weights or scales that are no
            numbers, or is of another class, or of the published package (:meth:`from_scalex`).
            Damage is found by a checksum.
        KeyError, TypeError
            For ``adata`` that cannot be registered as the model's cells were.
        """
        if adata is not None and adata is not False:
            check_cells(adata)
        dir_path = Path(dir_path).expanduser()
        if prefix is None and is_published(dir_path):
            msg = (
                f"{str(dir_path)!r} is of the published package: read its model by "
                "`SCALEXModel.from_scalex(folder)`."
            )
            raise ValueError(msg)
        saved = read_model(model_path(dir_path, prefix))
        registry = _with_record(saved.attributes)
        if registry.get(MODEL_NAME_KEY) != cls.__name__:
            found = registry.get(MODEL_NAME_KEY)
            msg = f"{str(dir_path)!r} holds a {found!r}, not a {cls.__name__!r}."
            raise ValueError(msg)
        of_mudata = registry[SETUP_ARGS_KEY].get("modalities") is not None
        stored = cells_path(dir_path, prefix, mudata=of_mudata)
        if adata is None and stored.exists():
            if saved.with_adata:
                adata = _read_mudata(stored) if of_mudata else read_h5ad(stored)
            else:
                logger.warning("%s was not saved with this model: it is not read.", stored)
        data = None if adata is None or adata is False else adata
        if data is not None:
            cls._set_up_alike(data, registry)
        # Earlier versions had linear decoders, and then one prior whatever the decoder.
        earlier = {"n_residual": 0, "n_prior_components": 1}
        init_params = earlier | saved.attributes.pop("init_params_")["non_kwargs"]
        model = cls(data, registry=registry, **init_params)
        for name, value in saved.attributes.items():
            setattr(model, name, value)
        if "untrained_batches_" not in saved.attributes and not model.history_:
            # Earlier versions did not note it: a query that was never trained has no history.
            n_reference = model.n_reference_batches_ or len(model.batch_names)
            model.untrained_batches_ = model.batch_names[n_reference:]
        try:
            model.module.load_state_dict(saved.state_dict)
        except RuntimeError as error:
            msg = f"{str(dir_path)!r} is damaged: its weights do not fit its settings. {error}"
            raise ValueError(msg) from error
        _check_scale(model.preprocessing, dir_path)
        model.freeze_reference()
        model.to_device(torch_device(accelerator, device))
        model.module.eval()
        return model


def _check_replaceable(cells: Path, folder: Path, prefix: str | None) -> None:
    """Raise if cells would be replaced that no model was saved with."""
    check_no_run_has(cells)
    if cells.exists() and not model_path(folder, prefix).exists():
        msg = (
            f"{str(cells)!r} was not saved with a model, and would be replaced. Choose another "
            "folder, or a `prefix`."
        )
        raise ValueError(msg)


def _read_mudata(path: Path) -> MuData:
    try:
        return read_h5mu(path)
    except (OSError, KeyError, ValueError) as error:
        msg = f"{str(path)!r} is no .h5mu file, or is damaged: {error}"
        raise ValueError(msg) from error


def _with_record(attributes: dict[str, Any]) -> dict[str, Any]:
    """Take out the registry; earlier versions kept the transform beside it."""
    registry = attributes.pop("registry_")
    record = attributes.pop("preprocessing_", None)
    expression = registry[FIELD_REGISTRIES_KEY][REGISTRY_KEYS.X_KEY][STATE_REGISTRY_KEY]
    if PROCESSED_KEY not in expression:
        expression |= {RECORD_KEY: record, PROCESSED_KEY: True, LOGARITHMS_KEY: False}
    return registry


def _check_scale(record: Preprocessing | None, folder: str | os.PathLike[str]) -> None:
    """Raise for scales that would make values NaN."""
    scale = np.zeros(0) if record is None else record.scale.to_numpy(np.float64)
    if not (np.isfinite(scale) & (scale >= 0)).all():
        msg = f"{str(folder)!r} is damaged: scales of its batches are NaN, infinite or negative."
        raise ValueError(msg)


def torch_device(accelerator: str, device: int | str) -> torch.device:
    """Return the one device that these arguments of Lightning name."""
    _, _, torch_device = parse_device_args(
        accelerator=accelerator,
        devices=device,
        return_device="torch",
        validate_single_device=True,
    )
    return torch_device
