"""Reading and writing saved models."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scalex_scvi._core.files import whole_file
from scalex_scvi._core.scvi_private import SAVE_KEYS

from ._plain import from_plain, to_plain

FORMAT_KEY, FORMAT = "scalex_scvi_format", 1


@dataclass
class SavedModel:
    """What a model file holds."""

    state_dict: dict[str, torch.Tensor]
    var_names: list[str]
    attributes: dict[str, Any]


def model_path(folder: str | os.PathLike[str], prefix: str | None) -> Path:
    """Path of the model file in a folder."""
    return Path(folder) / f"{prefix or ''}{SAVE_KEYS.MODEL_FNAME}"


def adata_path(folder: str | os.PathLike[str], prefix: str | None) -> Path:
    """Path of the AnnData that was saved with a model."""
    return Path(folder) / f"{prefix or ''}{SAVE_KEYS.ADATA_FNAME}"


def write_model(path: Path, model: SavedModel, **save_kwargs: Any) -> None:
    """Write tensors and plain types only, whole or not at all."""
    content = {
        FORMAT_KEY: FORMAT,
        SAVE_KEYS.MODEL_STATE_DICT_KEY: dict(model.state_dict),
        SAVE_KEYS.VAR_NAMES_KEY: model.var_names,
        SAVE_KEYS.ATTR_DICT_KEY: {
            name: to_plain(value, name=f"The model's attribute {name!r}")
            for name, value in model.attributes.items()
        },
    }
    with whole_file(path) as temporary:
        torch.save(content, temporary, **save_kwargs)


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
    found = content.get(FORMAT_KEY) if isinstance(content, dict) else None
    if isinstance(found, int) and found > FORMAT:
        msg = (
            f"{str(path)!r} is in format {found} of scalex-scvi; this version reads up to format "
            f"{FORMAT}. Update it: pip install -U scalex-scvi."
        )
        raise ValueError(msg)
    if found != FORMAT:
        msg = (
            f"{str(path)!r} is not a model saved by scalex-scvi in format {FORMAT}, "
            f"but in format {found!r}."
        )
        raise ValueError(msg)
    return SavedModel(
        state_dict=content[SAVE_KEYS.MODEL_STATE_DICT_KEY],
        var_names=content[SAVE_KEYS.VAR_NAMES_KEY],
        attributes=from_plain(content[SAVE_KEYS.ATTR_DICT_KEY]),
    )
