"""What a reference is on disk: a fixed list of files, and what is said of them.

``reference.json`` says what the reference is, and size and SHA-256 of each of the other files, and
has a checksum of its own. Names of files are those below and no others, whatever it says, so that
nothing of it can lead out of the folder.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

FORMAT = 1
KIND = "reference of scalex-scvi"

ABOUT_FILE = "reference.json"
CARD_FILE = "README.md"
MODEL_FILE = "model.pt"
CELLS_FILE = "adata.h5ad"
LABELS_FILE = "labels.npz"

CHECKED = (MODEL_FILE, CELLS_FILE, LABELS_FILE)
"""Files that are read by a program; their SHA-256 is known. The card may be edited."""

FILES = (ABOUT_FILE, CARD_FILE, *CHECKED)

MAX_ABOUT = 4_000_000
"""Bytes of ``reference.json`` that are read."""

CHECKSUM, CONTENTS = "checksum", "files"

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_TYPES: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "license": str,
    "about": dict,
    "n_cells": int,
    "n_genes": int,
    "batch_key": (str, type(None)),
    "batches": dict,
    "labels": dict,
    "versions": dict,
    "training": dict,
    CONTENTS: dict,
}
"""What ``reference.json`` must say, and in what type."""


def check_name(name: str) -> None:
    """Raise unless a name can be one of a reference.

    Raises
    ------
    ValueError
        With what is allowed.
    """
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        msg = (
            f"`name` {str(name)[:80]!r} must be 1 to 64 letters, digits, dots, dashes and "
            "underscores, and begin with a letter or digit."
        )
        raise ValueError(msg)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_about(folder: Path, about: dict[str, Any]) -> None:
    """Write ``reference.json``, with the checksums of the files that lie beside it."""
    contents = {
        name: {"sha256": sha256_of(folder / name), "bytes": (folder / name).stat().st_size}
        for name in CHECKED
    }
    about = {"format": FORMAT, "kind": KIND, **about, CONTENTS: contents}
    about[CHECKSUM] = _checksum(about)
    text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
    (folder / ABOUT_FILE).write_text(text, encoding="utf-8")


def read_about(path: Path) -> dict[str, Any]:
    """Read ``reference.json``, and check all of it.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not of a reference, of a later format, damaged, or names files that a reference
        does not have.
    """
    where = str(path.parent)
    if not path.is_file():
        msg = f"{where!r} is no reference: there is no {ABOUT_FILE!r} in it.{_hint(path.parent)}"
        raise FileNotFoundError(msg)
    if path.stat().st_size > MAX_ABOUT:
        msg = f"{where!r} is no reference: its {ABOUT_FILE!r} has more than {MAX_ABOUT} bytes."
        raise ValueError(msg)
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        msg = f"{where!r} is no reference, or is damaged: its {ABOUT_FILE!r} is not JSON ({error})."
        raise ValueError(msg) from error
    if not isinstance(about, dict) or about.get("kind") != KIND:
        msg = f"{where!r} is no reference of scalex-scvi: its {ABOUT_FILE!r} is of something else."
        raise ValueError(msg)
    if about.get("format") != FORMAT:
        msg = (
            f"{where!r} is in format {str(about.get('format'))[:20]!r} of references; this version "
            f"reads format {FORMAT}. Update it: pip install -U scalex-scvi."
        )
        raise ValueError(msg)
    if about.get(CHECKSUM) != _checksum(about):
        msg = f"{where!r} is damaged: its {ABOUT_FILE!r} is not what was saved. Fetch it again."
        raise ValueError(msg)
    _check_content(about, where)
    return about


def _hint(folder: Path) -> str:
    """Say what a folder is that is no reference, and how to make one of it."""
    if (folder / "checkpoint").is_dir():
        return (
            " It is a run folder, for `scalex-scvi project` and `map_query`; `scalex-scvi "
            "reference` (or `scalex_scvi.references.save`) makes a reference of it."
        )
    if (folder / MODEL_FILE).is_file() and not (folder / LABELS_FILE).exists():
        return (
            " It is what `model.save` wrote: `scalex_scvi.references.save(model, folder, labels, "
            "license=…)` makes a reference of the model, in another folder."
        )
    return ""


def _check_content(about: dict[str, Any], where: str) -> None:
    """Raise for content that this package never writes, although its checksum is right."""
    for key, kind in _TYPES.items():
        if not isinstance(about.get(key), kind):
            msg = f"{where!r} cannot be used: {key!r} of its {ABOUT_FILE!r} is missing or wrong."
            raise ValueError(msg)
    check_name(about["name"])
    contents = about[CONTENTS]
    if set(contents) != set(CHECKED):
        foreign = sorted(str(name)[:60] for name in set(contents) - set(CHECKED))
        msg = f"{where!r} cannot be used: a reference has {list(CHECKED)!r}, this one {foreign!r}."
        raise ValueError(msg)
    for name, facts in contents.items():
        sha256 = facts.get("sha256") if isinstance(facts, dict) else None
        if not isinstance(sha256, str) or re.fullmatch("[0-9a-f]{64}", sha256) is None:
            msg = f"{where!r} cannot be used: there is no SHA-256 of its {name!r}."
            raise ValueError(msg)


def check_files(folder: Path, about: dict[str, Any]) -> None:
    """Raise unless the files of a reference are those that were saved.

    Raises
    ------
    FileNotFoundError
        If one is missing.
    ValueError
        If one is damaged, or of another reference.
    """
    for name, facts in about[CONTENTS].items():
        path = folder / name
        if not path.is_file():
            msg = f"The reference {str(folder)!r} is incomplete: there is no {name!r}."
            raise FileNotFoundError(msg)
        if sha256_of(path) != facts["sha256"]:
            msg = (
                f"The reference {str(folder)!r} is damaged: its {name!r} is not what was saved "
                "(the SHA-256 differs). Fetch it again."
            )
            raise ValueError(msg)


def _checksum(about: dict[str, Any]) -> str:
    rest = {key: value for key, value in about.items() if key != CHECKSUM}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
