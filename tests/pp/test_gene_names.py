"""Names of genes of a query: too few shared are refused, other names found where that is sure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from conftest import simulate_counts, small_model

import scalex_scvi as sx
from scalex_scvi._core.gene_names import kind_of, names_in

pytestmark = pytest.mark.usefixtures("narrow")

SYMBOLS = [f"GENE{i}" for i in range(60)]
IDS = [f"ENSG{i:011d}" for i in range(60)]
FAST = {"min_features": 0, "ignore_umap": True, "progress_bar": False, "show": False}


def cells(names: list[str], seed: int = 3) -> AnnData:
    adata = simulate_counts(40, n_batches=1, seed=seed)
    adata.obs["batch"] = "new"
    adata.var_names = names
    return adata


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose genes are symbols."""
    adata = simulate_counts()
    adata.var_names = SYMBOLS
    outdir = tmp_path_factory.mktemp("names") / "reference"
    sx.SCALEX(adata, outdir=outdir, max_iteration=8, **FAST)
    return outdir


def load_query_data(query: AnnData, folder: Path, **options: float) -> np.ndarray:
    model = sx.SCALEXModel.load_query_data(query, folder / "checkpoint", **options)
    return model.get_latent_representation()


def map_query(query: AnnData, folder: Path, **options: float) -> np.ndarray:
    sx.map_query(query, folder, **options)
    return query.obsm["X_scalex"]


def prepare_query(query: AnnData, folder: Path, **options: float) -> np.ndarray:
    model = sx.SCALEXModel.load(folder / "checkpoint", adata=False)
    prepared = sx.pp.prepare_query(query, model.preprocessing, batch_key="batch", **options)
    return model.get_latent_representation(prepared)


def project(query: AnnData, folder: Path, **options: float) -> np.ndarray:
    projected = sx.SCALEX(query, projection=folder, repeat=True, **FAST, **options)
    return projected.obsm["latent"]


def project_store(query: AnnData, folder: Path, **options: float) -> np.ndarray:
    pytest.importorskip("dask")
    path = folder.parent / "query.h5ad"
    query.write_h5ad(path)
    model = sx.SCALEXModel.load(folder / "checkpoint", adata=False)
    model.project_store(path, folder.parent / "latent.h5ad", **options)
    return ad.read_h5ad(folder.parent / "latent.h5ad").obsm["latent"]


ENTRIES = [load_query_data, map_query, prepare_query, project, project_store]
Entry = Callable[..., np.ndarray]


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_query_of_few_of_the_genes_is_refused_unless_declared(
    reference: Path, entry: Entry
) -> None:
    query = cells([*SYMBOLS[:10], *(f"other{i}" for i in range(50))])
    with pytest.raises(ValueError, match=r"only 10 of the 60 genes .*16.7 %, where 30 %"):
        entry(query, reference)
    assert entry(query, reference, min_gene_share=0.1).shape[0] == 40
    with pytest.raises(ValueError, match=r"`min_gene_share` is a share"):
        entry(query, reference, min_gene_share=30)


OTHER_NAMES = {
    "mouse": ([f"Gene{i}" for i in range(60)], "another species.*table of orthologs"),
    "ids": (IDS, r"no Ensembl ids. If a column of var holds symbols"),
    "others": ([f"x{i}" for i in range(60)], r"shares none of the 60 genes.*'x0'.*'GENE0'"),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("kind", OTHER_NAMES)
def test_names_of_another_kind_are_named_and_how_to_map_them(
    reference: Path, entry: Entry, kind: str
) -> None:
    names, message = OTHER_NAMES[kind]
    with pytest.raises(ValueError, match=message):
        entry(cells(names), reference)


@pytest.mark.parametrize("entry", ENTRIES)
def test_symbols_in_a_column_are_used(
    reference: Path, entry: Entry, caplog: pytest.LogCaptureFixture
) -> None:
    expected = entry(cells(SYMBOLS), reference)
    caplog.clear()
    query = cells(IDS)
    query.var["length"] = 1.0
    query.var["feature_name"] = pd.Categorical(SYMBOLS)
    np.testing.assert_array_equal(entry(query, reference), expected)
    assert "var['feature_name'] has them, and is used" in caplog.text
    assert list(query.var_names) == IDS


@pytest.mark.parametrize("versions_of", ["reference", "query", "both"])
def test_versions_of_ids_do_not_matter(versions_of: str, caplog: pytest.LogCaptureFixture) -> None:
    ref, query = simulate_counts(), cells(IDS)
    with_versions = [f"{name}.{i % 7}" for i, name in enumerate(IDS)]
    ref.var_names = with_versions if versions_of != "query" else IDS
    model = small_model(ref)
    model.is_trained_ = True
    query.var_names = ref.var_names
    expected = sx.SCALEXModel.load_query_data(query.copy(), model).get_latent_representation()
    later = {"reference": IDS, "query": [f"{name}.12" for name in IDS]}
    query.var_names = later.get(versions_of, [f"{name}.12" for name in IDS])
    found = sx.SCALEXModel.load_query_data(query, model).get_latent_representation()
    np.testing.assert_array_equal(found, expected)
    assert "without the versions of ids has them" in caplog.text


def test_repeated_symbols_keep_their_first_gene() -> None:
    var = pd.DataFrame({"symbol": ["A", "A", "B", "C"]}, index=IDS[:4])
    names, source = names_in(var, pd.Index(["A", "B", "C"]))
    assert list(names) == ["A", "A-1", "B", "C"]
    assert source == "var['symbol']"


def test_own_names_are_kept_where_they_are_enough() -> None:
    var = pd.DataFrame({"symbol": SYMBOLS}, index=[*SYMBOLS[:20], *IDS[20:]])
    names, source = names_in(var, pd.Index(SYMBOLS))
    assert list(names) == list(var.index)
    assert source == ""


KINDS = {
    "Ensembl ids of human": IDS,
    "Ensembl ids of human with versions": [f"{name}.3" for name in IDS],
    "Ensembl ids of mouse": [f"ENSMUSG{i:011d}" for i in range(60)],
    "Ensembl ids of ENSDARG…": [f"ENSDARG{i:011d}" for i in range(60)],
    "a mixture of Ensembl ids and other names": [*SYMBOLS[:30], *IDS[30:]],
    "places in a genome": [f"chr{i}:1-{i + 500}" for i in range(20)],
    "names in capitals, as symbols of human": ["ACTB", "CD3E", "HLA-A", "C1orf112"],
    "names with one capital, as symbols of mouse": ["Actb", "Cd3e", "H2-K1", "Gm1234"],
    "names of no known kind": ["g1", "g2", "x"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_names(kind: str) -> None:
    assert kind_of(pd.Index(KINDS[kind])) == kind
