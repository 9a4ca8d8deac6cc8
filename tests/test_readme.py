"""The quick start of the README runs as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from conftest import QUIET, simulate_counts

import scalex_scvi as sx
from scalex_scvi import cli

pytestmark = pytest.mark.usefixtures("narrow")

README = Path(__file__).parent.parent / "README.md"
TEXT = README.read_text(encoding="utf-8")


@pytest.fixture
def donors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[AnnData, AnnData]:
    """Counts of two donors and of a new one, also as files; training is short."""
    train = sx.SCALEXModel.train

    def short(self: sx.SCALEXModel, **kwargs: Any) -> None:
        train(self, **(kwargs | {"max_epochs": 2, "lr": 2e-3} | QUIET))

    monkeypatch.setattr(sx.SCALEXModel, "train", short)
    monkeypatch.chdir(tmp_path)
    counts = simulate_counts(n_genes=900, n_batches=2)
    new_counts = simulate_counts(60, n_genes=900, n_batches=1, seed=1)
    names = {"batch0": "donor1", "batch1": "donor2"}
    counts.obs["batch"] = counts.obs["batch"].cat.rename_categories(names)
    new_counts.obs["batch"] = "donor3"
    for name in ("donor1", "donor2"):
        counts[counts.obs["batch"] == name].write_h5ad(tmp_path / f"{name}.h5ad")
    new_counts.write_h5ad(tmp_path / "new.h5ad")
    return counts, new_counts


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_one_call(donors: tuple[AnnData, AnnData]) -> None:
    scope: dict[str, Any] = {}
    exec(blocks("python")[0], scope)
    assert scope["adata"].n_obs == 150
    assert scope["query"].n_obs == 60
    assert 0 <= scope["f1"] <= 1


def on_their_own_object(counts: AnnData) -> AnnData:
    """Counts in a layer, batches in a column of another name."""
    adata = counts.copy()
    adata.obs["sample"] = adata.obs.pop("batch")
    adata.layers["counts"] = adata.X.copy()
    return adata


def test_on_your_own_anndata(donors: tuple[AnnData, AnnData]) -> None:
    adata, query = (on_their_own_object(cells) for cells in donors)
    exec(blocks("python")[1], {"adata": adata, "query": query})
    assert adata.obsm["X_scalex"].shape == (150, 10)
    assert query.obs["celltype_transfer"].isin(["type0", "type1", "type2"]).all()
    assert query.obsm["X_umap"].shape == (60, 2)


def test_as_an_scvi_tools_model(donors: tuple[AnnData, AnnData]) -> None:
    adata, query = (on_their_own_object(cells) for cells in donors)
    scope: dict[str, Any] = {"sx": sx, "adata": adata, "query": query}
    exec(blocks("python")[2], scope)
    assert adata.obsm["X_scalex"].shape == (150, 10)
    assert query.obsm["X_scalex"].shape == (60, 10)
    assert scope["expression"].shape == adata.shape
    assert np.isfinite(scope["expression"].to_numpy()).all()
    assert ad.read_h5ad("imputed.h5ad").shape == adata.shape


def test_more_cells_than_memory(donors: tuple[AnnData, AnnData]) -> None:
    counts, new_counts = donors
    counts.write_h5ad("atlas.h5ad")
    scope: dict[str, Any] = {"sx": sx}
    exec(blocks("python")[3], scope)
    query = scope["query"]
    assert query.obs["celltype_transfer"].isin(["type0", "type1", "type2"]).all()
    latent = ad.read_h5ad("latent.h5ad")
    assert list(latent.obs_names) == list(new_counts.obs_names)
    np.testing.assert_allclose(latent.obsm["latent"], query.obsm["X_scalex"], atol=1e-5)


def test_shell(donors: tuple[AnnData, AnnData]) -> None:
    counts, _ = donors
    counts.obs["sample"] = counts.obs["batch"]
    counts.write_h5ad("pooled.h5ad")
    (commands,) = [block for block in blocks("sh") if "scalex-scvi integrate" in block]
    for line in commands.strip().splitlines():
        program, *argv = shlex.split(line, comments=True)
        run = {"scalex-scvi": cli.main, "SCALEX.py": cli.scalex_main}[program]
        assert run([*argv, "--quiet"]) == 0, line


def test_the_commands_exist() -> None:
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", TEXT, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_local_link_leads_somewhere() -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT):
        assert (README.parent / link).exists(), link


def row(text: str, start: str) -> list[str]:
    """Cells of the one row of a table that starts like this."""
    (found,) = re.findall(rf"^\| {re.escape(start)}[^|]*\|(.*)\|$", text, re.MULTILINE)
    return [cell.strip() for cell in found.split("|")]


def page(name: str) -> str:
    return (README.parent / "docs" / name).read_text(encoding="utf-8")


def rounded(value: str) -> str:
    return f"{float(value):.0f}"


def test_the_table_has_the_figures_of_the_pages() -> None:
    """One figure is written in several places, and has to be the same in all."""
    methods = ["scalex", "scvi", "scanvi", "harmony"]  # after ours, as the columns are
    scores = pd.read_csv(README.parent / "docs" / "quality_scores.csv")
    by_set = scores.groupby(["embedding", "set"])["Total"].mean().unstack()
    names = ["scalex_scvi (running)", "scalex 1.0.4", "scvi", "scanvi (sees labels)", "harmony"]
    shown = row(TEXT, "integration")
    of_eight = by_set.loc[names[0], by_set.loc[names[3]].notna()].mean()
    totals = [f"{by_set.loc[name].mean():.3f}" for name in names]
    totals[3] += f" (eight; this: {of_eight:.3f})"
    assert shown == totals

    scores = pd.read_csv(README.parent / "docs" / "projection_scores.csv")
    scores = scores[~scores["set"].str.startswith("pooled")]
    by_set = scores.groupby(["method", "set"])["macro_f1"].mean().unstack()
    means = by_set.mean(axis=1)
    assert row(TEXT, "projection") == [f"{means[m]:.3f}" for m in ["ours (running)", *methods]]

    unknown = page("label_transfer.md")
    # AUROC, found, refused, found at 5 %, of the means over sets
    found = [float(row(unknown, name)[3]) for name in ("ours", "scANVI")]
    ours, scanvi = (f"{value:.2f}" for value in found)
    assert row(TEXT, "unseen types") == [ours, "none", "none", scanvi, "none"]
    others = ["Mahalanobis", "SVM", "logistic regression", "CellTypist", "5-NN"]
    best = max(float(row(unknown.split("By set")[0], name)[3]) for name in others)
    assert f"the best of five other classifiers has {best:.2f}" in TEXT

    speed = page("speed.md")
    trained = speed.split("## A whole training")[1].split("\n## ")[0]
    names = ["**ours, by", "**ours, `recipe", "scalex", "scVI", "scANVI"]
    ours, quick, *others = (rounded(row(trained, name)[0]) for name in names)
    assert row(TEXT, "training")[:4] == [f"{ours} ({quick})", *others]
    job = speed.split("| 12 000 cells |")[1].split("| 2 901 cells |")[0]
    ours, quick, harmony = (
        rounded(row(job, name)[0]) for name in ("ours, default", "ours, `QUICK`", "scanpy")
    )
    stopped = [f"≈ {row(job, name)[0].strip('*')}" for name in ("scalex", "scVI", "scANVI")]
    shown = [f"{ours} ({quick})", *stopped, harmony]
    assert row(TEXT, "whole job") == shown


def test_it_is_short() -> None:
    assert len(TEXT.splitlines()) <= 120
    assert len(re.findall(r"^\|-", TEXT, re.MULTILINE)) == 1  # one table
