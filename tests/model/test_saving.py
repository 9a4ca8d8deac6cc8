"""Saved models: plain, safe to read, written whole."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from anndata import AnnData

import scalex_scvi as sx
from scalex_scvi.model._plain import from_plain, to_plain


def test_round_trip(model: sx.SCALEXModel, tmp_path: Path) -> None:
    model.save(tmp_path / "m", save_anndata=True)
    loaded = sx.SCALEXModel.load(tmp_path / "m")
    np.testing.assert_array_equal(
        loaded.get_latent_representation(), model.get_latent_representation()
    )
    assert loaded.preprocessing == model.preprocessing
    np.testing.assert_array_equal(loaded.preprocessing.scale, model.preprocessing.scale)
    for key, frame in model.history.items():
        pd.testing.assert_frame_equal(loaded.history[key], frame, check_dtype=False)
    assert loaded.get_elbo() == model.get_elbo()


def test_without_data_and_with_other_data(
    model: sx.SCALEXModel, prepared: AnnData, tmp_path: Path
) -> None:
    model.save(tmp_path / "m")
    alone = sx.SCALEXModel.load(tmp_path / "m", adata=False)
    assert alone.adata is None
    assert alone.batch_names == model.batch_names
    np.testing.assert_array_equal(
        alone.get_latent_representation(prepared.copy()), model.get_latent_representation()
    )
    given = sx.SCALEXModel.load(tmp_path / "m", prepared.copy())
    np.testing.assert_array_equal(
        given.get_latent_representation(), model.get_latent_representation()
    )


def test_reading_executes_no_code(model: sx.SCALEXModel, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    content = torch.load(tmp_path / "m" / "model.pt", weights_only=True)
    assert set(content) >= {"model_state_dict", "var_names", "attr_dict"}

    class Trap:
        def __reduce__(self) -> object:
            return Path.touch, (tmp_path / "executed",)

    torch.save({"model_state_dict": Trap()}, tmp_path / "m" / "model.pt")
    with pytest.raises(ValueError, match="not a model saved by scalex-scvi"):
        sx.SCALEXModel.load(tmp_path / "m", adata=False)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 truncated", pickle.dumps({"a": 1})])
def test_damaged_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"model.pt' is not a model saved by scalex-scvi"):
        sx.SCALEXModel.load(tmp_path)


@pytest.mark.parametrize("prefix", ["runs/", "../b_", "/b_"])
def test_a_prefix_is_no_folder(model: sx.SCALEXModel, prefix: str, tmp_path: Path) -> None:
    model.save(tmp_path / "m", prefix="a_")
    for act in (model.save, sx.SCALEXModel.load):
        with pytest.raises(ValueError, match=f"`prefix` '{prefix}' names a folder"):
            act(tmp_path / "m", prefix=prefix, **({} if act != model.save else {"overwrite": True}))
    assert [path.name for path in tmp_path.rglob("*.pt")] == ["a_model.pt"]


def test_existing_folders_and_prefixes(model: sx.SCALEXModel, tmp_path: Path) -> None:
    model.save(tmp_path / "m", prefix="a_")
    with pytest.raises(ValueError, match="overwrite=True"):
        model.save(tmp_path / "m")
    model.save(tmp_path / "m", prefix="b_", overwrite=True)
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["a_model.pt", "b_model.pt"]
    assert sx.SCALEXModel.load(tmp_path / "m", adata=False, prefix="b_").is_trained


def test_a_failed_save_leaves_the_old_model(
    model: sx.SCALEXModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.save(tmp_path / "m")
    before = (tmp_path / "m" / "model.pt").read_bytes()

    def interrupted(content: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.save(tmp_path / "m", overwrite=True)
    assert (tmp_path / "m" / "model.pt").read_bytes() == before
    assert len(list((tmp_path / "m").iterdir())) == 1


def test_only_plain_attributes_can_be_saved(model: sx.SCALEXModel, tmp_path: Path) -> None:
    model.something_ = object()
    with pytest.raises(TypeError, match="'something_' is a 'object', which cannot be saved"):
        model.save(tmp_path / "m")


def test_another_class(model: sx.SCALEXModel, tmp_path: Path) -> None:
    model.registry_["model_name"] = "SCVI"
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match="holds a 'SCVI', not a 'SCALEXModel'"):
        sx.SCALEXModel.load(tmp_path / "m", adata=False)


VALUES = [
    None,
    [1, 2.5, "a", True],
    (1, ("b",)),
    {"a": {"b": [1]}, 3: "c"},
    np.arange(6).reshape(2, 3),
    np.array([True, False]),
    np.array(["x", 1, True], dtype=object),
    np.float32(0.5),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_plain_types_round_trip(value: object) -> None:
    restored = from_plain(to_plain(value, name="value"))
    if isinstance(value, np.ndarray):
        np.testing.assert_array_equal(restored, value)
        assert restored.dtype == value.dtype
    else:
        assert restored == value
        assert isinstance(restored, type(value)) or isinstance(value, np.generic)


def test_data_frames_round_trip() -> None:
    frame = pd.DataFrame({"a": [1.5, 2.0], "b": ["x", "y"]}, index=pd.Index([3, 4], name="epoch"))
    pd.testing.assert_frame_equal(
        from_plain(to_plain(frame, name="frame")), frame, check_dtype=False
    )


def test_scvi_version_is_recorded(model: sx.SCALEXModel) -> None:
    assert model.registry["scvi_version"] == scvi.__version__


def test_model_and_cells_are_saved_together(
    model: sx.SCALEXModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "m"
    model.save(folder, save_anndata=True)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:  # the cells are written by then
        patched.setattr(torch, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.save(folder, save_anndata=True, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    model.save(folder, overwrite=True)  # the cells are of the earlier model from now on
    assert sx.SCALEXModel.load(folder).adata is None
    assert "was not saved with this model" in caplog.text
    model.save(folder, save_anndata=True, overwrite=True)
    assert sx.SCALEXModel.load(folder).adata.n_obs == 150


def test_cells_that_were_not_saved_with_a_model_stay(
    model: sx.SCALEXModel, prepared: AnnData, tmp_path: Path
) -> None:
    prepared.write_h5ad(tmp_path / "adata.h5ad")
    before = (tmp_path / "adata.h5ad").read_bytes()
    with pytest.raises(ValueError, match="was not saved with a model"):
        model.save(tmp_path, save_anndata=True, overwrite=True)
    assert (tmp_path / "adata.h5ad").read_bytes() == before
