"""Reading and writing saved models."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scalex_scvi._core.scvi_private import SAVE_KEYS
from scalex_scvi._core.unfinished import current

from ._checksum import checksum, impossible_numbers
from ._plain import from_plain, to_plain

WITH_ADATA_KEY = "saved_with_adata"

CHECKSUM_KEY = "checksum"
"""Of everything else in the file; files of earlier versions have none."""


@dataclass(frozen=True)
class KindOfFile:
    """A kind of file that this package writes and reads.

    Attributes
    ----------
    what
        What it is called, in a message.
    key, format
        Where in the file the number of its format is, and the number that is written.
    instead
        What to do about a file that cannot be used, a sentence.
    not_ours
        What to say of another file that lies there, a sentence.
    """

    what: str
    key: str
    format: int
    instead: str
    not_ours: str = ""

    def check(self, path: Path, content: Any) -> dict[str, Any]:
        """Return what was read from a file of this kind, without format and checksum.

        Raises
        ------
        ValueError
            If it is not of this kind, of a later format, or changed since it was written.
        """
        found = content.get(self.key) if isinstance(content, dict) else None
        if isinstance(found, int) and found > self.format:
            msg = (
                f"{str(path)!r} is in format {found} of scalex-scvi; this version reads up to "
                f"format {self.format}. Update it: pip install -U scalex-scvi."
            )
            raise ValueError(msg)
        if found != self.format:
            more = f"{_of_scvi(content)} {self.not_ours}".rstrip()
            msg = (
                f"{str(path)!r} is not {self.what} in format {self.format}, "
                f"but in format {found!r}.{more}"
            )
            raise ValueError(msg)
        expected = content.pop(CHECKSUM_KEY, None)
        if expected is not None and checksum(content) != expected:
            msg = (
                f"{str(path)!r} is damaged: it is not what was saved (its checksum differs). "
                f"{self.instead}"
            )
            raise ValueError(msg)
        return content


MODEL = KindOfFile(
    "a model saved by scalex-scvi",
    "scalex_scvi_format",
    1,
    instead="Copy it again, or save the model again.",
)


@dataclass
class SavedModel:
    """What a model file holds."""

    state_dict: dict[str, torch.Tensor]
    var_names: list[str]
    attributes: dict[str, Any]
    with_adata: bool = True


def model_path(folder: str | os.PathLike[str], prefix: str | None) -> Path:
    """Path of the model file in a folder, wherever it is at the moment."""
    return _path(folder, prefix, SAVE_KEYS.MODEL_FNAME)


def cells_path(folder: str | os.PathLike[str], prefix: str | None, *, mudata: bool) -> Path:
    """Path of the AnnData or MuData that was saved with a model."""
    name = SAVE_KEYS.MDATA_FNAME if mudata else SAVE_KEYS.ADATA_FNAME
    return _path(folder, prefix, name)


def _path(folder: str | os.PathLike[str], prefix: str | None, name: str) -> Path:
    name = f"{prefix or ''}{name}"
    if Path(name).name != name:  # it would be written outside the folder
        msg = (
            f"`prefix` {prefix!r} names a folder; allowed is text that file names begin with, "
            "without a path separator. Give the folder as `dir_path`."
        )
        raise ValueError(msg)
    return current(current(Path(folder).expanduser()) / name)


def write_model(
    path: Path, model: SavedModel, *, with_adata: bool = False, **save_kwargs: Any
) -> None:
    """Write tensors and plain types only; to write it whole or not at all is up to the caller.

    ``with_adata`` says whether the model's AnnData is written with it: another one in the same
    folder is of another model.
    """
    content = {
        MODEL.key: MODEL.format,
        WITH_ADATA_KEY: with_adata,
        SAVE_KEYS.MODEL_STATE_DICT_KEY: dict(model.state_dict),
        SAVE_KEYS.VAR_NAMES_KEY: model.var_names,
        SAVE_KEYS.ATTR_DICT_KEY: {
            name: to_plain(value, name=f"The model's attribute {name!r}")
            for name, value in model.attributes.items()
        },
    }
    write_checked(path, content, **save_kwargs)


def write_checked(path: Path, content: dict[str, Any], **save_kwargs: Any) -> None:
    """Write tensors on the CPU and plain types, with their checksum.

    Raises
    ------
    OSError
        If the disk is full, which torch does not say.
    """
    content = content | {CHECKSUM_KEY: checksum(content)}
    try:
        torch.save(content, path, **save_kwargs)
    except RuntimeError as error:
        if shutil.disk_usage(path.parent).free >= _n_bytes(content):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def _n_bytes(content: Any) -> int:
    if isinstance(content, torch.Tensor):
        return content.nbytes
    parts = content.values() if isinstance(content, dict) else content
    return sum(map(_n_bytes, parts)) if isinstance(content, dict | list | tuple) else 0


def _why_absent(path: Path) -> str:
    """Say what else the folder of a model that is not there may be."""
    folder = path.parent
    if (folder / "checkpoint" / path.name).is_file():
        return f". {str(folder)!r} is a run folder: give {str(folder / 'checkpoint')!r}"
    if folder.name == "checkpoint" and (folder.parent / path.name).is_file():
        return (
            f". {str(folder.parent)!r} is a saved model and no run folder: place cells on it by "
            "scalex_scvi.map_query"
        )
    absent = [str(each) for each in reversed(path.parents) if not each.exists()]
    return f": the folder {absent[0]!r} does not exist" if absent else ""


def read_model(path: Path) -> SavedModel:
    """Read a model file without executing code from it.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a model that this package saved, if it changed since, or if its weights
        are no numbers.
    """
    if not path.is_file():
        msg = f"There is no saved model at {str(path)!r}{_why_absent(path)}."
        raise FileNotFoundError(msg)
    content = MODEL.check(path, read_plain(path, MODEL.what))
    try:
        model = SavedModel(
            state_dict=content[SAVE_KEYS.MODEL_STATE_DICT_KEY],
            var_names=content[SAVE_KEYS.VAR_NAMES_KEY],
            attributes=from_plain(content[SAVE_KEYS.ATTR_DICT_KEY]),
            with_adata=content.get(WITH_ADATA_KEY, True),  # earlier versions did not say
        )
        problem = impossible_numbers(model.state_dict)
    except (KeyError, TypeError, AttributeError) as error:
        msg = f"{str(path)!r} is damaged: parts of the model are missing ({error!r})."
        raise ValueError(msg) from error
    if problem is not None:
        msg = f"{str(path)!r} cannot be used: {problem}. Train and save the model again."
        raise ValueError(msg)
    return model


def read_plain(path: Path, what: str) -> Any:
    """Read tensors and plain types; nothing else is built, whatever the file asks for.

    Parameters
    ----------
    path
        The file.
    what
        What it is taken for, in a message.

    Raises
    ------
    ValueError
        If it is not that, or damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch raises whatever a damaged file trips
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "weights_only" in str(error):
            # torch advises to load with `weights_only=False`, which would execute the file.
            reason = (
                "it holds more than tensors and plain types, as models of other classes of "
                "scvi-tools do. What it asks for was not executed"
            )
        elif isinstance(error, KeyError):
            reason = f"its pickle is broken ({error!r})"
        msg = f"{str(path)!r} is not {what}, or is damaged: {reason}."
        raise ValueError(msg) from None


def _of_scvi(content: Any) -> str:
    if isinstance(content, dict) and SAVE_KEYS.MODEL_STATE_DICT_KEY in content:
        return " It may be of another class of scvi-tools, whose `load` reads it."
    return ""
