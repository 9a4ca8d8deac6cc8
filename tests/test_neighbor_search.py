"""What searches neighbors by pynndescent, which numba compiles in each process."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from conftest import real_data
from pynndescent import NNDescent

import scalex_scvi as sx


def test_clusters_of_many_cells_keep_separated_groups_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Above 8 192 cells scanpy searches by pynndescent; fewer are in tl/test_embed.py.

    The graph is that of scanpy, but for what a graph does not need and scanpy prepares after it.
    The map, which takes most of the time, is left out: it is drawn of the same graph.
    """
    prepared: list[NNDescent] = []
    monkeypatch.setattr(NNDescent, "compress_index", lambda index: prepared.append(index))
    monkeypatch.setattr(sc.tl, "umap", lambda *args, **kwargs: None)
    n_cells = 8200
    rng = np.random.default_rng(0)
    group = rng.integers(3, size=n_cells)
    points = rng.normal(size=(n_cells, 10)) + 30 * np.eye(10)[group]
    adata = AnnData(np.zeros((n_cells, 1), dtype=np.float32))
    adata.obsm["latent"] = points.astype(np.float32)
    sx.tl.embed(adata)
    clusters = pd.crosstab(adata.obs["leiden"], group)
    assert ((clusters > 0).sum(axis=1) == 1).all()
    assert prepared == []
    plain = AnnData(obsm={"latent": adata.obsm["latent"]})
    sc.pp.neighbors(plain, use_rep="latent", random_state=124)
    assert len(prepared) == 1
    for key in ("distances", "connectivities"):
        assert (adata.obsp[key] != plain.obsp[key]).nnz == 0
    assert adata.uns["neighbors"] == plain.uns["neighbors"]


@pytest.mark.real_data
def test_the_default_metrics_on_real_data() -> None:
    """Removing the batches' means mixes them, and every default metric has a value.

    Of these it is kBET that searches by pynndescent.
    """
    pytest.importorskip("scib_metrics", reason="needs the extra 'benchmark'")
    adata = sx.pp.rna(real_data("mesc_2batch_scmerge"), batch_key="batch", min_features=0)
    pca = sx.metrics.uncorrected_pca(adata)
    adata.obsm["uncorrected"] = pca
    batches = adata.obs["batch"].to_numpy()
    adata.obsm["centered"] = pca - np.stack([pca[batches == b].mean(0) for b in batches])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = sx.metrics.benchmark(adata, ["uncorrected", "centered"])
    assert len(table.columns) == 13
    assert table.notna().all(axis=None)
    assert ((table > -0.1) & (table <= 1)).all(axis=None)
    gain = table.loc["centered"] - table.loc["uncorrected"]
    assert gain["Batch correction"] > 0.1
    assert gain["PCR comparison"] > 0.5
