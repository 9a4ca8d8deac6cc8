"""A report says at its head that a training was too short, where it shows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from conftest import trained_model

import scalex_scvi as sx

TYPES_FELL = "Types are separated worse than before. Train longer"
LONGER = "Train longer (max_steps, --max-steps)."


def history(*losses: float) -> SimpleNamespace:
    """A model of which no more is known than its losses."""
    losses_by_epoch = pd.DataFrame({"train_loss": losses})
    return SimpleNamespace(history={"train_loss": losses_by_epoch}, preprocessing=None)


def falling(share: float, n_epochs: int) -> list[float]:
    """Losses that halve in the first half, and fall by a share of the last one in the second."""
    half = n_epochs // 2
    return [*np.linspace(200, 100 * (1 + share), half), *np.linspace(100 * (1 + share), 100, half)]


def with_latent(prepared: AnnData, of_types: bool) -> AnnData:
    types = pd.get_dummies(prepared.obs["celltype"]).to_numpy(float)
    noise = np.random.default_rng(0).normal(size=types.shape)
    prepared.obsm["latent"] = noise + 100 * types if of_types else noise
    return prepared


def page(adata: AnnData, folder: Path, model: object) -> str:
    options = {"labels_key": "celltype", "model": model}
    return sx.pl.report(adata, folder / "r.html", **options).read_text(encoding="utf-8")


CASES = {
    "long enough": (True, falling(0.001, 40), None),
    "long, of which single epochs go up and down": (
        True,
        [*falling(0.001, 20), *(100 + i % 2 for i in range(20))],
        None,
    ),
    "the loss fell": (True, falling(0.05, 40), f"<b>{LONGER}</b> The loss was still falling: by"),
    "the types fell": (False, falling(0.001, 40), f"<b>{TYPES_FELL}"),
    "both": (False, falling(0.05, 40), f"<b>{LONGER}</b> The share of a cell&#39;s 30 neighbors"),
    "two epochs": (True, [200, 100], None),
    "diverged": (True, [200, *[np.nan] * 9], None),
}


@pytest.mark.parametrize(("of_types", "losses", "said"), CASES.values(), ids=CASES.keys())
def test_verdict(
    prepared: AnnData, tmp_path: Path, of_types: bool, losses: list[float], said: str | None
) -> None:
    text = page(with_latent(prepared, of_types), tmp_path, history(*losses))
    assert ("Train longer" in text) == (said is not None)
    if said is not None:
        assert said in text
        assert text.index(said) < text.index("<section")  # the first lines


def test_the_figures_are_those_of_the_table(prepared: AnnData, tmp_path: Path) -> None:
    adata = with_latent(prepared, of_types=False)
    before, after = (
        sx.metrics.knn_purity(points, adata.obs["celltype"])
        for points in (sx.metrics.uncorrected_pca(adata.copy()), adata.obsm["latent"])
    )
    text = page(adata, tmp_path, None)
    assert f"fell from {before:.2f} before the integration to {after:.2f}." in text
    assert before - after > 0.05


def test_a_loss_in_the_second_half_is_told_in_percent(prepared: AnnData, tmp_path: Path) -> None:
    text = page(
        with_latent(prepared, True), tmp_path, history(*([150] * 10 + [110] * 2 + [100] * 8))
    )
    assert "The loss was still falling: by 10.0% in the second half" in text


def test_without_labels_the_loss_speaks(prepared: AnnData, tmp_path: Path) -> None:
    adata = with_latent(prepared, of_types=False)
    for losses, said in ((falling(0.05, 10), True), (falling(0.001, 10), False)):
        written = sx.pl.report(adata, tmp_path / "r.html", model=history(*losses))
        assert ("Train longer" in written.read_text(encoding="utf-8")) == said


def test_a_real_training_of_some_steps_is_short(prepared: AnnData, tmp_path: Path) -> None:
    model = trained_model(prepared, max_epochs=4)
    prepared.obsm["latent"] = model.get_latent_representation()
    assert "Train longer" in page(prepared, tmp_path, model)


def test_nothing_was_trained_in_a_projection(prepared: AnnData, tmp_path: Path) -> None:
    adata = with_latent(prepared, of_types=False)
    adata.obs["projection"] = "query"
    assert "Train longer" not in page(adata, tmp_path, history(*falling(0.05, 40)))
