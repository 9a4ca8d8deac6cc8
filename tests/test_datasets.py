"""The embedded data are real counts with made technologies."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scanpy as sc

from scalex_scvi.datasets import (
    gene_activity,
    pancreas,
    pbmc_chromatin,
    pbmc_cite,
    pbmc_technologies,
    tutorial,
)
from scalex_scvi.metrics import knn_purity


def test_real_cells_and_counts() -> None:
    adata = pbmc_technologies()
    assert adata.shape == (700, 765)
    assert adata.obs["celltype"].nunique() == 10
    assert adata.obs["batch"].value_counts().min() >= 233
    assert "semi-synthetic" in adata.uns["source"]
    # The batch without simulated capture holds the source's own molecules: their logarithm is
    # the source's matrix again, up to the source's rounding.
    rows = (adata.obs["batch"] == "droplet").to_numpy()
    source = sc.datasets.pbmc68k_reduced()
    counts = adata.X[rows].toarray()
    log = source.raw.X[rows].toarray()
    one = np.expm1(np.where(log > 0, log, np.inf).min(axis=1, keepdims=True))
    np.testing.assert_allclose(np.log1p(counts * one), log, atol=0.02)


def test_technologies_differ_and_repeat() -> None:
    adata, again = pbmc_technologies(), pbmc_technologies()
    assert (adata.X != again.X).nnz == 0
    depth = {
        batch: adata.X[(adata.obs["batch"] == batch).to_numpy()].sum(axis=1).mean()
        for batch in adata.obs["batch"].cat.categories
    }
    assert depth["shallow"] < 0.6 * depth["droplet"] < depth["plate"]
    assert (pbmc_technologies(seed=1).X != adata.X).nnz > 0


def test_peaks_tell_cell_types_and_platforms_apart() -> None:
    adata = pbmc_chromatin()
    assert adata.shape == (700, 3060)
    assert set(np.unique(adata.X.data)) == {1}
    assert "simulated" in adata.uns["source"]
    assert (pbmc_chromatin().X != adata.X).nnz == 0
    platforms = [(adata.obs["batch"] == f"platform{i}").to_numpy() for i in (1, 2)]
    seen = [adata.X[rows].mean() for rows in platforms]
    assert seen[1] < 0.8 * seen[0]
    pca = sc.pp.pca(adata.X[platforms[0]].toarray(), n_comps=10, random_state=0)
    labels = adata.obs["celltype"][platforms[0]]
    by_chance = (labels.value_counts(normalize=True) ** 2).sum()
    assert knn_purity(pca, labels, n_neighbors=10) > by_chance + 0.2


def test_gene_activity_sums_the_peaks_of_a_gene() -> None:
    peaks = pbmc_chromatin()
    genes = gene_activity(peaks)
    assert genes.shape == (700, 765)
    of_gene = (peaks.var["gene"] == "CD79A").to_numpy()
    np.testing.assert_array_equal(
        genes[:, "CD79A"].X.toarray().ravel(), np.asarray(peaks.X[:, of_gene].sum(axis=1)).ravel()
    )
    with pytest.raises(KeyError, match="`gene_key` 'symbol'"):
        gene_activity(peaks, "symbol")


def test_proteins_tell_the_types_apart() -> None:
    adata = pbmc_cite()
    proteins = adata.obsm["protein_expression"]
    assert proteins.shape == (700, 14)
    assert (adata.X != pbmc_technologies().X).nnz == 0  # the RNA is the same
    assert ((proteins >= 0) & (proteins % 1 == 0)).all(axis=None)
    for label, own, other in [("CD19+ B", "CD19", "CD3"), ("CD56+ NK", "CD56", "CD14")]:
        of_type = adata.obs["celltype"] == label
        for batch in adata.obs["batch"].cat.categories:  # each with a staining of its own
            cells = proteins[of_type & (adata.obs["batch"] == batch)]
            others = proteins[~of_type & (adata.obs["batch"] == batch)]
            assert cells[own].mean() > 10 * others[own].mean()
            assert cells[other].mean() < others[other].mean()
    pd.testing.assert_frame_equal(proteins, pbmc_cite().obsm["protein_expression"])


@pytest.mark.parametrize("name", ["pbmc", "reference", "query", "atac", "rna", "gene_activity"])
def test_every_tutorial_has_embedded_data(name: str) -> None:
    adata = tutorial(name, "embedded")
    assert {"batch", "celltype"} <= set(adata.obs)
    assert adata.obs["batch"].value_counts().min() > 0


def test_tutorial_data_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCALEX_SCVI_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="must name the folder"):
        tutorial("pbmc", "small")
    with pytest.raises(ValueError, match="must be one of"):
        tutorial("pbmc", "large")
    with pytest.raises(ValueError, match="is not among the published data"):
        tutorial("rna", "published")


@pytest.fixture
def download_folder(tmp_path: Path) -> Iterator[Path]:
    """Where scanpy keeps downloads."""
    before = sc.settings.datasetdir
    sc.settings.datasetdir = tmp_path
    yield tmp_path
    sc.settings.datasetdir = before


def test_published_data_are_read_where_they_were_downloaded(
    download_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALEX_SCVI_TUTORIAL", "published")
    peaks = pbmc_chromatin()
    (download_folder / "scalex").mkdir()
    peaks.write_h5ad(download_folder / "scalex" / "mouse_brain_atac.h5ad")
    found = tutorial("atac")
    assert found.shape == peaks.shape
    assert (found.X != peaks.X).nnz == 0


def test_pancreas_is_the_published_selection() -> None:
    adata = pancreas()
    assert adata.shape == (500, 1776)
    assert set(adata.obs["batch"].value_counts()) == {100}
    assert adata.obs["celltype"].value_counts()["endothelial"] == 5
    assert adata.X.data.min() > 0
    assert "MIT" in adata.uns["source"]
    notice = files("scalex_scvi.datasets") / "data" / "NOTICE.md"
    assert "MIT License" in notice.read_text(encoding="utf-8")
