"""What holds for all plots: nothing changed, nothing left open, files whole; and the history."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from conftest import real_data, small_model
from matplotlib.figure import Figure
from PIL import Image

import scalex_scvi as sx

HISTORY = {
    name: pd.DataFrame({name: np.linspace(value, 1, 5)}, index=pd.RangeIndex(5, name="epoch"))
    for name, value in (
        ("train_loss", 12),
        ("reconstruction_loss_train", 10),
        ("kl_local_train", 4),
    )
}

PLOTS: dict[str, Callable[..., Figure | None]] = {
    "umap": lambda a, **k: sx.pl.umap(a, ["batch", "celltype"], **k),
    "before_after": lambda a, **k: sx.pl.before_after(a, ["batch", "celltype"], **k),
    "projection": lambda a, **k: sx.pl.projection(a, "celltype", **k),
    "embedding": sx.pl.embedding,
    "meta": sx.pl.meta,
    "meta_pair": lambda a, **k: sx.pl.meta_pair(a, batches=["batch0", "batch1"], **k),
    "history": lambda a, **k: sx.pl.history(HISTORY, **k),
    "confusion": lambda a, **k: sx.pl.confusion(a.obs["celltype"], a.obs["batch"], **k),
}
WITH_AX = {"meta", "meta_pair", "history", "confusion"}

each_plot = pytest.mark.parametrize("name", PLOTS)


@pytest.fixture
def adata(counts: AnnData) -> AnnData:
    rng = np.random.default_rng(0)
    counts.obsm["X_umap"] = rng.normal(size=(counts.n_obs, 2))
    counts.obsm["X_umap_uncorrected"] = rng.normal(size=(counts.n_obs, 2))
    counts.obsm["latent"] = rng.normal(size=(counts.n_obs, 5))
    counts.obs["projection"] = pd.Categorical(["reference"] * 100 + ["query"] * 50)
    counts.obs["celltype"] = counts.obs["celltype"].astype(object)  # to be made categorical
    return counts


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Figures that were open whenever plt.show was called."""
    calls: list[list[int]] = []
    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: calls.append(plt.get_fignums()))
    return calls


@each_plot
def test_nothing_is_changed_or_left_open(name: str, adata: AnnData, tmp_path: Path) -> None:
    before, settings = adata.copy(), dict(matplotlib.rcParams)
    PLOTS[name](adata, save=tmp_path / "figure.png", show=False)
    assert plt.get_fignums() == []
    assert dict(matplotlib.rcParams) == settings
    assert not adata.uns
    assert set(adata.obsm) == set(before.obsm)
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert (adata.X != before.X).nnz == 0
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


def test_saved_pictures_are_sharp(
    dpi: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scalex_scvi.pl._figure.DPI", dpi)
    sx.pl.history(HISTORY, save=tmp_path / "figure.png", show=False)
    with Image.open(tmp_path / "figure.png") as image:
        assert image.info["dpi"] == pytest.approx((200, 200), abs=1)


@pytest.mark.parametrize("name", [name for name in PLOTS if name != "history"])
def test_names_begin_no_formula(name: str, adata: AnnData, tmp_path: Path) -> None:
    names = ["$$", "$x$", "a_b^c"]
    adata.obs["celltype"] = adata.obs["celltype"].astype("category").cat.rename_categories(names)
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        PLOTS[name](adata, show=False, save=tmp_path / "picture.svg")
    drawn = (tmp_path / "picture.svg").read_text()
    assert [text for text in names if text not in drawn] == []


@each_plot
def test_views_stay_views(name: str, adata: AnnData) -> None:
    view = adata[:120]
    PLOTS[name](view, show=False)
    assert view.is_view


@each_plot
def test_shown_or_returned(name: str, adata: AnnData, shown: list[list[int]]) -> None:
    returned = PLOTS[name](adata, show=False)
    assert not shown
    assert isinstance(returned, tuple if name == "confusion" else Figure)
    again = PLOTS[name](adata, show=True)
    assert len(shown) == len(shown[0]) == 1
    assert again == returned if name == "confusion" else again is None
    assert plt.get_fignums() == []


def test_default_follows_scanpy(adata: AnnData, shown: list[list[int]]) -> None:
    assert sx.pl.umap(adata, "batch") is None
    assert len(shown) == 1
    try:
        sc.settings.autoshow = False
        assert isinstance(sx.pl.umap(adata, "batch"), Figure)
    finally:
        sc.settings.autoshow = True
    assert len(shown) == 1


def test_windows_stay_open_in_interactive_mode(adata: AnnData, shown: list[list[int]]) -> None:
    with plt.ion():
        sx.pl.umap(adata, "batch", show=True)
        assert len(plt.get_fignums()) == 1
    plt.close("all")


@pytest.mark.parametrize("name", sorted(WITH_AX))
def test_given_axes_stay_open_and_are_drawn_in(name: str, adata: AnnData, tmp_path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 4))
    returned = PLOTS[name](adata, ax=axes[0], save=tmp_path / "figure.pdf", show=False)
    assert name == "confusion" or returned is figure
    assert plt.get_fignums() == [figure.number]
    assert axes[0].has_data() and not axes[1].has_data()
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")
    plt.close(figure)


@pytest.mark.parametrize(
    ("suffix", "start"),
    [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml"), ("PNG", b"\x89PNG")],
)
def test_files_have_the_format_of_their_suffix(
    adata: AnnData, tmp_path: Path, suffix: str, start: bytes
) -> None:
    path = tmp_path / f"figure.{suffix}"
    sx.pl.umap(adata, "batch", save=str(path), show=False)
    assert path.read_bytes().startswith(start)


def test_several_files_at_once(adata: AnnData, tmp_path: Path) -> None:
    paths = [tmp_path / "umap.png", tmp_path / "umap.pdf"]
    sx.pl.umap(adata, "batch", save=paths, show=False)
    assert all(path.stat().st_size for path in paths)


@each_plot
def test_files_that_cannot_be_written(name: str, adata: AnnData, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder .*Make it first"):
        PLOTS[name](adata, save=tmp_path / "absent" / "figure.png", show=False)
    with pytest.raises(ValueError, match=r"must end in one of .*'\.pdf'"):
        PLOTS[name](adata, save=tmp_path / "figure.h5ad", show=False)
    with pytest.raises(ValueError, match="must end in one of"):
        PLOTS[name](adata, save=tmp_path / "figure", show=False)
    with pytest.raises(TypeError, match="must be a path"):
        PLOTS[name](adata, save=True, show=False)
    assert plt.get_fignums() == [] and not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_earlier_file(
    adata: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "figure.png"
    path.write_bytes(b"earlier")

    def fails(self: Figure, place: Path, **kwargs: object) -> None:
        Path(place).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fails)
    with pytest.raises(OSError, match="disk full"):
        sx.pl.umap(adata, "batch", save=path, show=False)
    assert path.read_bytes() == b"earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["figure.png"]
    assert plt.get_fignums() == []


def test_history_draws_the_losses_over_epochs(model: sx.SCALEXModel) -> None:
    figure = sx.pl.history(model, show=False)
    lines = [line for axis in figure.axes for line in axis.get_lines()]
    names = ["train_loss", "reconstruction_loss_train", "kl_local_train"]
    assert len(lines) == 3
    for line, name in zip(lines, names, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(15))
        np.testing.assert_allclose(line.get_ydata(), model.history[name][name].astype(float))
    (legend,) = [axis.get_legend() for axis in figure.axes if axis.get_legend()]
    assert len(legend.get_texts()) == 3


def test_history_of_an_untrained_model(prepared: AnnData) -> None:
    with pytest.raises(ValueError, match=r"Call `model.train\(\)` first"):
        sx.pl.history(small_model(prepared), show=False)
    with pytest.raises(ValueError, match=r"Call `model.train\(\)` first"):
        sx.pl.history({}, show=False)
    with pytest.raises(KeyError, match="'reconstruction_loss_train' is not in the history"):
        sx.pl.history({"train_loss": HISTORY["train_loss"]}, show=False)


@pytest.mark.real_data
def test_types_of_real_batches_resemble_themselves() -> None:
    adata = real_data("kang_pbmc_published_labels")
    figure = sx.pl.meta_pair(adata, use_rep="X", show=False)
    table = np.asarray(figure.axes[0].collections[0].get_array()).reshape(5, 8)
    rows, columns = (
        [t.get_text() for t in labels]
        for labels in (figure.axes[0].get_yticklabels(), figure.axes[0].get_xticklabels())
    )
    assert set(columns) - set(rows) == {"DC", "Mk", "NK"}
    nearest = [columns[i] for i in table.argmax(axis=1)]
    assert sum(a == b for a, b in zip(rows, nearest, strict=True)) >= 4
