"""transfer_expression: the mean of the neighbors in the reference."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from conftest import QUIET, simulate_counts, trained_model
from scipy import sparse
from sklearn.neighbors import KNeighborsRegressor

import scalex_scvi as sx


def cells(n_cells: int, genes: list[str], seed: int) -> AnnData:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(1, size=(n_cells, len(genes))).astype(np.float32)
    return AnnData(
        X=sparse.csr_matrix(counts),
        obs=pd.DataFrame({"n": range(n_cells)}, index=[f"c{seed}_{i}" for i in range(n_cells)]),
        var=pd.DataFrame({"length": range(len(genes))}, index=genes),
        obsm={"latent": rng.normal(size=(n_cells, 3)), "spatial": rng.random((n_cells, 2))},
    )


@pytest.fixture
def ref() -> AnnData:
    return cells(60, ["a", "b", "c", "d", "e"], seed=0)


@pytest.fixture
def query() -> AnnData:
    return cells(25, ["b", "e", "other"], seed=1)


def test_names_that_repeat_among_other_genes_do_not_matter(ref: AnnData, query: AnnData) -> None:
    expected = sx.tl.transfer_expression(ref, query, ["d"]).X
    ref.var_names = ["a", "a", "c", "d", "e"]
    assert (sx.tl.transfer_expression(ref, query, ["d"]).X != expected).nnz == 0


def test_one_gene_by_its_name(ref: AnnData, query: AnnData) -> None:
    ref.var_names = ["a", "b", "c", "gene d", "e"]
    assert list(sx.tl.transfer_expression(ref, query, "gene d").var_names) == ["gene d"]


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_a_dask_array(ref: AnnData, query: AnnData, kind: Callable[[Any], Any]) -> None:
    da = pytest.importorskip("dask.array")
    expected = sx.tl.transfer_expression(ref, query, ["d", "a"]).X.toarray()
    ref.X = da.from_array(ref.X.toarray(), chunks=(20, -1)).map_blocks(kind)
    found = sx.tl.transfer_expression(ref, query, ["d", "a"]).X
    np.testing.assert_allclose(found.toarray() if sparse.issparse(found) else found, expected)


@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_as_sklearn_regresses(
    ref: AnnData, query: AnnData, weights: Any, kind: Callable[[Any], Any]
) -> None:
    query.obsm["latent"][3] = ref.obsm["latent"][7]  # distance 0
    dense = ref.X.toarray()
    ref.X = kind(dense)
    found = sx.tl.transfer_expression(ref, query, ["d", "a"], n_neighbors=7, weights=weights)
    knn = KNeighborsRegressor(n_neighbors=7, weights=weights)
    knn.fit(ref.obsm["latent"], dense[:, [3, 0]])
    values = found.X.toarray() if sparse.issparse(found.X) else found.X
    np.testing.assert_allclose(values, knn.predict(query.obsm["latent"]), rtol=1e-5)
    assert sparse.issparse(found.X) == (kind is not np.asarray)
    assert found.X.dtype == np.float32


def test_unmeasured_genes_in_the_place_of_the_query(ref: AnnData, query: AnnData) -> None:
    before, before_ref = query.copy(), ref.copy()
    found = sx.tl.transfer_expression(ref, query)
    assert list(found.var_names) == ["a", "c", "d"]
    assert list(found.var["length"]) == [0, 2, 3]
    assert list(found.obs_names) == list(query.obs_names)
    np.testing.assert_array_equal(found.obsm["spatial"], query.obsm["spatial"])
    for now, then in ((query, before), (ref, before_ref)):
        assert (now.X != then.X).nnz == 0
        assert list(now.obsm) == list(then.obsm)
        assert not now.uns


def test_genes_that_the_query_got_as_zeros_are_transferred(ref: AnnData, query: AnnData) -> None:
    expected = sx.tl.transfer_expression(ref, query)
    names = sorted({*ref.var_names, *query.var_names})
    padded = AnnData(
        np.zeros((query.n_obs, len(names)), np.float32),
        obs=query.obs,
        var=pd.DataFrame({"scalex_measured": np.isin(names, query.var_names)}, index=names),
        obsm=dict(query.obsm),
    )
    found = sx.tl.transfer_expression(ref, padded)
    pd.testing.assert_frame_equal(found.to_df(), expected.to_df())
    both = sx.tl.transfer_expression(ref, padded, ["a", "b"])
    assert list(both.var["scalex_measured"]) == [False, True]


def test_raw_layer_or_x(ref: AnnData, query: AnnData) -> None:
    ref.raw = AnnData(X=ref.X * 10, var=ref.var)
    ref.layers["hundred"] = ref.X * 100
    ref = ref[:, ["a", "b"]].copy()
    of_x = sx.tl.transfer_expression(ref, query, ["a"], use_raw=False).to_df()
    for kwargs, factor in [({}, 10), ({"use_raw": True}, 10), ({"layer": "hundred"}, 100)]:
        found = sx.tl.transfer_expression(ref, query, ["a"], **kwargs).to_df()
        np.testing.assert_allclose(found, factor * of_x, rtol=1e-5)
    assert list(sx.tl.transfer_expression(ref, query).var_names) == ["a", "c", "d"]


@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_backed_reference(ref: AnnData, query: AnnData, tmp_path: Path, dense: bool) -> None:
    ref.X = ref.X.toarray() if dense else ref.X
    expected = sx.tl.transfer_expression(ref, query).to_df()
    ref.write_h5ad(tmp_path / "ref.h5ad")
    backed = ad.read_h5ad(tmp_path / "ref.h5ad", backed="r")
    found = sx.tl.transfer_expression(backed, query)
    backed.file.close()
    pd.testing.assert_frame_equal(found.to_df(), expected, check_column_type=False)
    assert sparse.issparse(found.X) == (not dense)


def test_from_a_panel_to_genes_it_lacks() -> None:
    counts = simulate_counts(300, 60, n_batches=3)
    is_query = (counts.obs["batch"] == "batch2").to_numpy()
    panel = [f"gene{i}" for i in range(30)]
    reference = counts[~is_query].copy()
    spots = counts[is_query, panel].copy()
    spots.obsm["spatial"] = np.random.default_rng(0).random((spots.n_obs, 2))
    adata = sx.pp.rna(reference, batch_key="batch", min_features=0, n_top_features=panel)
    model = trained_model(adata)
    adata.obsm["latent"] = model.get_latent_representation()
    placed = sx.SCALEXModel.load_query_data(spots, model)
    placed.adata.obsm["latent"] = placed.get_latent_representation()
    found = sx.tl.transfer_expression(adata, placed.adata)
    assert sorted(found.var_names) == sorted(set(counts.var_names) - set(panel))
    assert list(found.obsm) == ["spatial", "latent"]
    # The type decides what a gene is: transferred means order the types as the truth does.
    celltype = spots.obs["celltype"].to_numpy()
    truth = pd.DataFrame(counts[is_query, found.var_names].X.toarray()).groupby(celltype).mean()
    guess = found.to_df().groupby(celltype).mean()
    agree = [truth[i].argmax() == guess.iloc[:, i].argmax() for i in range(found.n_vars)]
    assert np.mean(agree) > 0.75  # by chance: 0.33


def test_the_documented_path_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[2] / "docs" / "spatial.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    train, drawn = sx.SCALEXModel.train, []
    monkeypatch.setattr(sx.SCALEXModel, "train", lambda self: train(self, max_epochs=5, **QUIET))
    draw = sc.pl.embedding
    monkeypatch.setattr(
        sc.pl, "embedding", lambda *args, **kwargs: drawn.append(draw(*args, show=False, **kwargs))
    )
    counts = simulate_counts(300, 60, n_batches=3)
    is_query = (counts.obs["batch"] == "batch2").to_numpy()
    spatial = counts[is_query, :30].copy()
    del spatial.obs["celltype"]
    spatial.obsm["spatial"] = np.random.default_rng(0).random((spatial.n_obs, 2))
    scope = {"reference": counts[~is_query].copy(), "spatial": spatial}
    exec(code, scope)
    assert scope["spots"].obs["celltype"].isin(["type0", "type1", "type2"]).all()
    assert scope["transferred"].shape == (spatial.n_obs, 30)
    assert len(drawn) == 2
    plt.close("all")


def _nan(ref: AnnData) -> None:
    ref.obsm["latent"][0, 0] = np.nan


def _wider(ref: AnnData) -> None:
    ref.obsm["latent"] = np.zeros((60, 4))


def _all_measured(ref: AnnData) -> None:
    ref.var_names = ["b", "e", "other", "b2", "e2"]
    ref._inplace_subset_var(["b", "e"])


def _repeated(ref: AnnData) -> None:
    ref.var_names = ["a", "a", "c", "d", "e"]


def _fine(ref: AnnData) -> None: ...


BAD = {
    "unknown gene": (_fine, {"genes": ["a", "x"]}, ValueError, r"1 of 2 `genes`.*\['x'\]"),
    "no gene": (_fine, {"genes": []}, ValueError, "`genes` is empty"),
    "gene twice": (_fine, {"genes": ["a", "a"]}, ValueError, r"`genes` has \['a'\] more than once"),
    "repeated in the reference": (_repeated, {"genes": ["a"]}, ValueError, "more than once"),
    "nothing to transfer": (_all_measured, {}, ValueError, "has all 2 genes"),
    "no representation": (_fine, {"use_rep": "X_pca"}, KeyError, "not in ref.obsm"),
    "not finite": (_nan, {}, ValueError, "NaN or infinite"),
    "other space": (_wider, {}, ValueError, "4 dimensions in `ref` and 3 in `query`"),
    "no raw": (_fine, {"use_raw": True}, ValueError, "there is no `ref.raw`"),
    "no layer": (_fine, {"layer": "x"}, KeyError, "not in ref.layers"),
    "weights": (_fine, {"weights": "gaussian"}, ValueError, "'uniform' or 'distance'"),
    "neighbors": (_fine, {"n_neighbors": 0}, ValueError, "at least 1, got 0"),
}


@pytest.mark.parametrize(("spoil", "kwargs", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(
    ref: AnnData,
    query: AnnData,
    spoil: Callable[[AnnData], None],
    kwargs: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    spoil(ref)
    with pytest.raises(error, match=message):
        sx.tl.transfer_expression(ref, query, **kwargs)
