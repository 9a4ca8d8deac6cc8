"""Reading and writing saved models."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scalex_scvi._core.scvi_private import SAVE_KEYS
from scalex_scvi._core.unfinished import current

from ._plain import from_plain, to_plain

FORMAT_KEY, FORMAT = "scalex_scvi_format", 1
WITH_ADATA_KEY = "saved_with_adata"


@dataclass
class SavedModel:
    """What a model file holds."""

    state_dict: dict[str, torch.Tensor]
    var_names: list[str]
    attributes: dict[str, Any]
    with_adata: bool = True


def model_path(folder: str | os.PathLike[str], prefix: str | None) -> Path:
    """Path of the model file in a folder, wherever it is at the moment."""
    return current(current(Path(folder)) / f"{prefix or ''}{SAVE_KEYS.MODEL_FNAME}")


def adata_path(folder: str | os.PathLike[str], prefix: str | None) -> Path:
    """Path of the AnnData that was saved with a model."""
    return current(current(Path(folder)) / f"{prefix or ''}{SAVE_KEYS.ADATA_FNAME}")


def write_model(
    path: Path, model: SavedModel, *, with_adata: bool = False, **save_kwargs: Any
) -> None:
    """Write tensors and plain types only; to write it whole or not at all is up to the caller.

    ``with_adata`` says whether the model's AnnData is written with it: another one in the same
    folder is of another model.
    """
    content = {
        FORMAT_KEY: FORMAT,
        WITH_ADATA_KEY: with_adata,
        SAVE_KEYS.MODEL_STATE_DICT_KEY: dict(model.state_dict),
        SAVE_KEYS.VAR_NAMES_KEY: model.var_names,
        SAVE_KEYS.ATTR_DICT_KEY: {
            name: to_plain(value, name=f"The model's attribute {name!r}")
            for name, value in model.attributes.items()
        },
    }
    try:
        torch.save(content, path, **save_kwargs)
    except RuntimeError as error:  # torch does not say that the disk is full
        n_bytes = sum(value.nbytes for value in model.state_dict.values())
        if shutil.disk_usage(path.parent).free >= n_bytes:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def read_model(path: Path) -> SavedModel:
    """Read a model file without executing code from it.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a model that this package saved.
    """
    if not path.is_file():
        msg = f"There is no saved model at {str(path)!r}."
        raise FileNotFoundError(msg)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        msg = f"{str(path)!r} is not a model saved by scalex-scvi, or is damaged: {error}"
        raise ValueError(msg) from error
    if not isinstance(content, dict) or content.get(FORMAT_KEY) != FORMAT:
        found = content.get(FORMAT_KEY) if isinstance(content, dict) else None
        msg = (
            f"{str(path)!r} is not a model saved by scalex-scvi in format {FORMAT}, "
            f"but in format {found!r}."
        )
        raise ValueError(msg)
    return SavedModel(
        state_dict=content[SAVE_KEYS.MODEL_STATE_DICT_KEY],
        var_names=content[SAVE_KEYS.VAR_NAMES_KEY],
        attributes=from_plain(content[SAVE_KEYS.ATTR_DICT_KEY]),
        with_adata=content.get(WITH_ADATA_KEY, True),  # earlier versions did not say
    )
