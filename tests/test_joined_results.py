"""A projection beside its reference: nothing of it is made of the other's cells, or NaN."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from conftest import simulate_counts

import scalex_scvi as sx

pytestmark = pytest.mark.usefixtures("narrow")

FAST = {
    "min_features": 0,
    "max_iteration": 8,
    "ignore_umap": True,
    "progress_bar": False,
    "show": False,
}


def source(seed: int, n_cells: int = 40) -> AnnData:
    adata = simulate_counts(n_cells, n_batches=1, seed=seed)
    del adata.obs["batch"]
    return adata


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two sources without names, with imputed expression and embeddings of its own."""
    sources = [source(1), source(2)]
    for adata in sources:
        adata.obsm["X_pca"] = np.ones((adata.n_obs, 3))
        adata.obsm["spatial"] = np.ones((adata.n_obs, 2))
    outdir = tmp_path_factory.mktemp("joined") / "reference"
    sx.SCALEX(sources, outdir=outdir, impute=True, **FAST)
    return outdir


def scale_of(adata: AnnData) -> list[str]:
    return list(sx.pp.Preprocessing.from_adata(adata).scale.columns)


def test_sources_without_names_are_no_batches_of_the_reference(reference: Path) -> None:
    both = sx.SCALEX([source(3), source(4)], projection=reference, **FAST)
    query = both[both.obs["projection"] == "query"]
    assert list(query.obs["batch"].unique()) == ["query0", "query1"]
    assert scale_of(both) == ["0", "1", "query0", "query1"]
    # Their scale is that of a new batch, not that of the reference's batches 0 and 1.
    scale = query.varm["scalex_scale"]
    np.testing.assert_allclose(scale["query0"], scale["query1"])
    assert not np.allclose(scale["query0"], scale["0"])
    named = sx.SCALEX([source(3), source(4)], ["0", "b"], projection=reference, **FAST)
    assert scale_of(named) == ["0", "1", "b"]  # given by the user: it is meant


def test_a_default_name_that_the_reference_has_is_changed(tmp_path: Path) -> None:
    sx.SCALEX([source(1), source(2)], ["query", "query1"], outdir=tmp_path / "ref", **FAST)
    alone = sx.SCALEX(source(3), projection=tmp_path / "ref", repeat=True, **FAST)
    assert set(alone.obs["batch"]) == {"query_"}
    several = sx.SCALEX([source(3), source(4)], projection=tmp_path / "ref", repeat=True, **FAST)
    assert set(several.obs["batch"]) == {"query0", "query1_"}


@pytest.mark.parametrize("impute", [None, True])
def test_layers_and_embeddings_are_of_all_cells_or_left_out(
    reference: Path, impute: bool | None
) -> None:
    query = source(3)
    query.obsm["X_pca"] = np.ones((40, 5))  # another width
    query.obsm["spatial"] = np.full((40, 2), 2.0)
    both = sx.SCALEX(query, projection=reference, impute=impute, **FAST)
    assert set(both.obsm) == {"latent", "spatial"}
    np.testing.assert_array_equal(both.obsm["spatial"][[0, -1]], [[1, 1], [2, 2]])
    assert [key for key in both.layers if key] == (["impute"] if impute else [])
    for values in [*both.obsm.values(), *(both.layers[key] for key in both.layers if key)]:
        assert np.isfinite(values).all()
