"""A model that is not what was saved is refused, and its file is never executed."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import simulate_counts, small_model

import scalex_scvi as sx

Content = dict[str, Any]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = small_model(simulate_counts())
    model.is_trained_ = True
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save(folder)
    return folder


def weights_of(content: Content) -> torch.Tensor:
    return content["model_state_dict"]["encoder.layers.0.linear.weight"]


def nan_weight(content: Content) -> None:
    weights_of(content)[0, 0] = torch.nan


def infinite_weight(content: Content) -> None:
    weights_of(content)[0, 0] = torch.inf


def negative_variance(content: Content) -> None:
    content["model_state_dict"]["decoder.norm.running_var"][0, 0] = -1


def nan_scale(content: Content) -> None:
    registry = content["attr_dict"]["registry_"]
    scale = registry["field_registries"]["X"]["state_registry"]["preprocessing"]["scale"]
    scale["__frame__"][0][0] = torch.nan


def no_weights(content: Content) -> None:
    del content["model_state_dict"]


def other_width(content: Content) -> None:
    content["model_state_dict"]["encoder.layers.0.linear.weight"] = torch.zeros(3, 60)


CHANGES = {
    nan_weight: "1 of 1920 numbers of 'encoder.layers.0.linear.weight' are NaN or infinite",
    infinite_weight: "are NaN or infinite",
    negative_variance: "'decoder.norm.running_var' holds negative variances",
    nan_scale: "scales of its batches are NaN, infinite or negative",
    no_weights: "parts of the model are missing",
    other_width: "its weights do not fit its settings",
}


@pytest.mark.parametrize("has_checksum", [True, False])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_file_is_refused(
    saved: Path, tmp_path: Path, change: Callable[[Content], None], has_checksum: bool
) -> None:
    content = torch.load(saved / "model.pt", weights_only=True)
    change(content)
    if not has_checksum:  # as files of earlier versions
        del content["checksum"]
    torch.save(content, tmp_path / "model.pt")
    message = "its checksum differs" if has_checksum else CHANGES[change]
    with pytest.raises(ValueError, match=message):
        sx.SCALEXModel.load(tmp_path, adata=False)


def test_flipped_bytes_are_found(saved: Path, tmp_path: Path) -> None:
    whole = (saved / "model.pt").read_bytes()
    expected = torch.load(saved / "model.pt", weights_only=True)
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(len(whole), size=60):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "model.pt").write_bytes(changed)
        try:
            loaded = sx.SCALEXModel.load(tmp_path, adata=False)
        except ValueError:
            refused += 1
            continue
        # What is read is what was saved: the byte lay between the parts of the file.
        for name, value in loaded.module.state_dict().items():
            assert torch.equal(value, expected["model_state_dict"][name])
    assert refused > 20


def test_a_file_of_an_earlier_version_without_checksum_is_read(saved: Path, tmp_path: Path) -> None:
    content = torch.load(saved / "model.pt", weights_only=True)
    del content["checksum"]
    torch.save(content, tmp_path / "model.pt")
    loaded = sx.SCALEXModel.load(tmp_path, adata=False)
    assert torch.equal(loaded.module.encoder.layers[0].linear.weight.cpu(), weights_of(content))


class Trap:
    def __reduce__(self) -> object:
        return Path.touch, (Path("executed"),)


BROKEN = {
    "key": b"\x80\x02h\x65.",  # KeyError: 101
    "empty": b"",
    "text": b"hello",
    "truncated": None,
    "code": Trap(),
    "numpy of scvi-tools": {"model_state_dict": {}, "attr_dict": {"a": np.float64(1)}},
    "another format": {"model_state_dict": {}, "attr_dict": {}},
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("published", [False, True])
def test_no_advice_to_execute_a_file_reaches_the_user(
    saved: Path, tmp_path: Path, kind: str, published: bool
) -> None:
    path, content = tmp_path / "model.pt", BROKEN[kind]
    if kind == "truncated":
        path.write_bytes((saved / "model.pt").read_bytes()[:2000])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    read = sx.SCALEXModel.load
    if published:
        shutil.copy(path, tmp_path / "config.pt")
        read = sx.SCALEXModel.from_scalex
    with pytest.raises(ValueError, match=r"(model|config).pt'") as caught:
        read(tmp_path)
    printed = "".join(traceback.format_exception(caught.value))
    assert "weights_only=False" not in printed
    assert "weights_only` to `False" not in printed
    assert not Path("executed").exists()


def test_a_folder_below_home(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(saved.parent))
    model = sx.SCALEXModel.load("~/model", adata=False)
    model.save("~/copy")
    assert (saved.parent / "copy" / "model.pt").is_file()
