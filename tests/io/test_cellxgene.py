"""Files of CELLxGENE and R: counts in `.raw`, symbols in a column, ids with versions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from conftest import QUIET, simulate_counts

import scalex_scvi as sx

pytestmark = pytest.mark.usefixtures("narrow")

IDS = [f"ENSG{i:011d}" for i in range(60)]
SYMBOLS = [f"GENE{i}" for i in range(60)]
FAST = {
    "min_features": 0,
    "max_iteration": 8,
    "ignore_umap": True,
    "progress_bar": False,
    "show": False,
}


@pytest.fixture
def plain() -> AnnData:
    adata = simulate_counts()
    adata.var_names = SYMBOLS
    return adata


@pytest.fixture
def cellxgene(plain: AnnData) -> AnnData:
    """X log-normalized, of some genes; counts of all in raw; ids as names, symbols beside them."""
    adata = plain.copy()
    adata.var_names = IDS
    adata.raw = adata.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    del adata.uns["log1p"]
    adata.var["feature_name"] = SYMBOLS
    return adata[:, 5:].copy()


def test_counts_in_raw_are_taken_by_themselves_and_said(
    plain: AnnData, cellxgene: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = sx.SCALEX(plain, **FAST)
    cellxgene.write_h5ad(tmp_path / "cells.h5ad")
    for source in (cellxgene, tmp_path / "cells.h5ad"):
        caplog.clear()
        found = sx.SCALEX(source, **FAST)
        np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())
        np.testing.assert_array_equal(found.obsm["latent"], expected.obsm["latent"])
        assert ".raw counts of 60 genes: these are taken" in caplog.text


def test_what_is_declared_is_done(cellxgene: AnnData) -> None:
    assert sx.SCALEX(cellxgene, log_normalized=True, **FAST).n_vars == 55
    assert sx.SCALEX(cellxgene, use_layer="raw", **FAST).n_vars == 60
    assert sx.SCALEX(cellxgene, use_layer="raw", gene_names="feature_name", **FAST).var_names[
        -1
    ] in (SYMBOLS)
    with pytest.raises(KeyError, match="`gene_names` 'nowhere' is not a column"):
        sx.SCALEX(cellxgene, gene_names="nowhere", **FAST)
    del cellxgene.raw
    with pytest.raises(KeyError, match="has no .raw to take counts from"):
        sx.SCALEX(cellxgene, use_layer="raw", **FAST)


def test_a_backed_file_with_counts_in_raw(
    plain: AnnData, cellxgene: AnnData, tmp_path: Path
) -> None:
    cellxgene.write_h5ad(tmp_path / "cells.h5ad")
    counts = sx.io.load_counts(tmp_path / "cells.h5ad", sx.io.Reading(use_layer="raw", backed=True))
    np.testing.assert_array_equal(counts.X.toarray(), plain.X.toarray())


LAYER_RAW: dict[str, Callable[[AnnData], AnnData]] = {
    "rna": lambda adata: sx.pp.rna(adata, batch_key="batch", layer="raw"),
    "prepare_query": lambda adata: sx.pp.prepare_query(
        adata,
        sx.pp.Preprocessing.fit(adata, batch_key="batch", layer="raw"),
        batch_key="batch",
        layer="raw",
    ),
}


@pytest.mark.parametrize("call", LAYER_RAW.values(), ids=LAYER_RAW)
def test_layer_raw(plain: AnnData, cellxgene: AnnData, call: Callable[[AnnData], AnnData]) -> None:
    found = call(cellxgene)
    expected = sx.pp.rna(plain, batch_key="batch")
    np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())


def test_models_of_counts_in_raw(
    plain: AnnData, cellxgene: AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    model = sx.integrate(cellxgene, "batch", "raw", max_steps=8, **QUIET)
    assert cellxgene.obsm["X_scalex"].shape == (150, 10)
    assert len(model.get_var_names()) == 60
    query = cellxgene.copy()
    del query.obsm["X_scalex"]
    mapped = sx.map_query(query, model, layer="raw")
    np.testing.assert_array_equal(query.obsm["X_scalex"], cellxgene.obsm["X_scalex"])
    assert mapped.adata.n_obs == 150
    with pytest.raises(KeyError, match="from_raw"):
        sx.SCALEXModel.setup_anndata(cellxgene, layer="raw")
    with pytest.raises(ValueError, match="does not look like counts"):
        sx.SCALEXModel.setup_anndata(cellxgene)
    assert "register `scalex_scvi.io.from_raw(adata)`" in caplog.text


def test_sources_named_by_ids_and_by_symbols(
    plain: AnnData, cellxgene: AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    both = sx.io.read([plain, cellxgene], batch_categories=["symbols", "ids"])
    assert list(both.var_names) == SYMBOLS[5:]
    assert "its genes are named by var['feature_name']" in caplog.text
    assert list(cellxgene.var_names) == IDS[5:]


def test_versions_of_ids_that_differ_between_sources(
    plain: AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = plain.copy(), plain.copy()
    first.var_names = [f"{name}.1" for name in IDS]
    second.var_names = [f"{name}.2" for name in IDS]
    assert list(sx.io.read([first, second]).var_names) == IDS
    assert "versions of Ensembl ids differ between the sources" in caplog.text
    assert list(sx.io.read([first, first.copy()]).var_names) == list(first.var_names)


def test_mixtures_of_ids_and_symbols_are_said(
    plain: AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    plain.var_names = [*IDS[:15], *SYMBOLS[15:]]
    sx.io.load_counts(plain)
    assert "a mixture: about 25 % are Ensembl ids" in caplog.text


SHARED = {
    "genes": ([f"GENE{i}" for i in range(60)], [f"OTHER{i}" for i in range(60)], "kind"),
    "peaks": (
        [f"chr1:{i}-{i + 9}" for i in range(60)],
        [f"chr2:{i}-{i + 9}" for i in range(60)],
        "one set of peaks",
    ),
}


@pytest.mark.parametrize("join", ["inner", "outer"])
@pytest.mark.parametrize("features", SHARED)
def test_few_shared_features_are_a_warning_in_their_own_words(
    plain: AnnData, features: str, join: str, caplog: pytest.LogCaptureFixture
) -> None:
    names, others, advice = SHARED[features]
    first, second = plain.copy(), plain.copy()
    first.var_names = names
    second.var_names = [*names[:10], *others[10:]]
    sx.io.read([first, second], join=join)
    assert f"share only 10 of 60 {features} (16.7 %" in caplog.text
    assert advice in caplog.text
    caplog.clear()
    sx.io.read([first, ad.AnnData(first.X, var=first.var)], join=join)
    assert "share only" not in caplog.text
