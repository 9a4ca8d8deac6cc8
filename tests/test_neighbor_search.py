"""What searches neighbors by pynndescent, which numba compiles in each process."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from conftest import real_data

import scalex_scvi as sx


def test_clusters_of_many_cells_keep_separated_groups_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of very many cells the search is pynndescent's; fewer are in tl/test_embed.py.

    The graph is that of scanpy, but for what a graph does not need and scanpy prepares after it.
    """
    from pynndescent import NNDescent  # slow to import

    prepared: list[NNDescent] = []
    monkeypatch.setattr(NNDescent, "compress_index", lambda index: prepared.append(index))
    monkeypatch.setattr("scalex_scvi.tl._neighbors.EXACT_PRODUCTS", 8200 * 8200 * 10 - 1)
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


def test_nearest_cells_of_very_many_are_found_by_pynndescent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by comparing all with all, in groups far apart; nearly so on the map.

    A cell for which the search ends before it found enough, as it may, is compared with all.
    """
    from pynndescent import NNDescent  # slow to import

    rng = np.random.default_rng(0)
    group = np.concatenate([rng.integers(3, size=1190), np.full(10, 3)])
    latent = rng.normal(size=(1200, 10)) + 30 * np.eye(10)[group]
    own_map = 100 * np.eye(4)[group][:, :2] + latent[:, :2]
    query_group = rng.integers(4, size=300)
    query = rng.normal(size=(300, 10)) + 30 * np.eye(10)[query_group]
    query[0] = latent[0]
    exact = sx.tl.place_on_map(latent, own_map, query)
    searches: list[int] = []
    plain = NNDescent.query

    def seen(index: NNDescent, cells: np.ndarray, **how: object) -> object:
        searches.append(len(cells))
        nearest, distances = plain(index, cells, **how)
        nearest[1, 5:], distances[1, 5:] = -1, np.inf
        return nearest, distances

    monkeypatch.setattr(NNDescent, "query", seen)
    monkeypatch.setattr("scalex_scvi.tl._nearest.EXACT_PAIRS", 1200 * 300 - 1)
    monkeypatch.setattr("scalex_scvi.tl._nearest.BLOCK", 256)
    placed = sx.tl.place_on_map(latent, own_map, query)
    assert searches == [256, 44]
    assert np.linalg.norm(placed - exact, axis=1).max() < 1
    np.testing.assert_allclose(placed[0], own_map[0], atol=1e-4)
    np.testing.assert_allclose(placed[1], exact[1], atol=1e-4)
    with pytest.raises(ValueError, match="9 dimensions, those of the reference 10"):
        sx.tl.place_on_map(latent, own_map, query[:, :9])
    with pytest.raises(ValueError, match="contains NaN"):
        sx.tl.place_on_map(latent, own_map, np.full_like(query, np.nan))
    monkeypatch.setattr("scalex_scvi.tl._nearest.EXACT_PAIRS", 500 * 690 - 1)
    adata, by_search = (AnnData(obsm={"latent": latent[:1190]}) for _ in range(2))
    sx.tl.embed(by_search, max_cells=500)
    monkeypatch.undo()
    sx.tl.embed(adata, max_cells=500)
    assert list(adata.obs["leiden"].cat.categories) == list(by_search.obs["leiden"].cat.categories)
    of_group = pd.crosstab(by_search.obs["leiden"], group[:1190])
    assert ((of_group > 0).sum(axis=1) == 1).all()
    assert (adata.obs["leiden"] == by_search.obs["leiden"]).mean() > 0.98


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
