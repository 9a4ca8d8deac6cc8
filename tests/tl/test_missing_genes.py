"""A query that lacks genes of the reference is labeled by the genes that both have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from conftest import QUIET

import scalex_scvi as sx

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture(scope="module")
def cells() -> AnnData:
    """Real pancreas cells of five technologies."""
    return sx.datasets.pancreas()


@pytest.fixture(scope="module")
def model(cells: AnnData) -> sx.SCALEXModel:
    own = cells[cells.obs["batch"] != "CEL-seq2"].copy()
    return sx.integrate(own, "batch", max_steps=100, **QUIET)


@pytest.fixture
def query(cells: AnnData) -> AnnData:
    """A fifth technology, with 40 % of the genes."""
    has = np.random.default_rng(1).random(cells.n_vars) < 0.4
    return cells[cells.obs["batch"] == "CEL-seq2", has].copy()


def accuracy(query: AnnData) -> float:
    right = query.obs["celltype_transfer"].astype(str) == query.obs["celltype"].astype(str)
    return float(right.mean())


def test_labels_hold_without_most_genes(
    model: sx.SCALEXModel, query: AnnData, tmp_path: Path
) -> None:
    pytest.importorskip("dask", reason="needs the extra 'scale'")
    query.write_h5ad(tmp_path / "query.h5ad")
    sx.map_query(query, model, labels="celltype")
    assert accuracy(query) > 0.9
    assert query.obs["celltype_unknown"].mean() < 0.2
    lazy = sx.io.read_lazy(tmp_path / "query.h5ad", cells_in_block=64)
    sx.map_query(lazy, model, labels="celltype")
    assert list(lazy.obs["celltype_transfer"]) == list(query.obs["celltype_transfer"])
    columns = ["celltype_probability", "celltype_p_value"]
    np.testing.assert_allclose(lazy.obs[columns], query.obs[columns], atol=1e-4)
    np.testing.assert_allclose(lazy.obsm["X_scalex"], query.obsm["X_scalex"], atol=1e-6)


def test_a_reference_by_name_is_as_good(
    model: sx.SCALEXModel, query: AnnData, tmp_path: Path
) -> None:
    types = model.adata.obs["celltype"].astype(str)
    model.adata.obs["enough"] = types.where(types.map(types.value_counts()) >= 5)
    shared = sx.references.save(model, tmp_path / "named", "enough", license="mit")
    by_name = query.copy()
    sx.map_query(query, model, labels="enough")
    sx.map_query(by_name, shared)
    same = by_name.obs["enough_transfer"].astype(str) == query.obs["enough_transfer"].astype(str)
    assert same.mean() > 0.97
    assert (
        by_name.obs["enough_transfer"].astype(str) == by_name.obs["celltype"].astype(str)
    ).mean() > 0.9
    assert by_name.obs["enough_unknown"].mean() < 0.2


def test_clusters_are_described_by_genes_that_were_measured(
    model: sx.SCALEXModel, query: AnnData
) -> None:
    known = sx.tl.reference_cells(model, "celltype")
    mapped = sx.SCALEXModel.load_query_data(query, model)
    new = mapped.get_prepared()
    new.obsm["X_scalex"] = mapped.get_latent_representation()
    scores = sx.tl.label_scores(known, new, "X_scalex", "celltype", batch_key="batch")
    table = sx.tl.unknown_clusters(known, new, scores, "celltype", "celltype", batch_key="batch")
    named = {gene for genes in table["genes"] for gene in genes.split(", ")}
    assert named <= set(query.var_names)


def test_prepared_cells_say_which_genes_they_came_with(
    model: sx.SCALEXModel, query: AnnData
) -> None:
    prepared = sx.SCALEXModel.load_query_data(query, model).get_prepared()
    has = prepared.var_names.isin(query.var_names)
    assert list(prepared.var["scalex_measured"]) == list(has)
    assert prepared.X[:, ~has].nnz == 0
    assert "scalex_measured" not in model.get_prepared().var


def test_step_by_step_labels_are_as_good(model: sx.SCALEXModel, query: AnnData) -> None:
    known = sx.tl.reference_cells(model, "celltype")
    mapped = sx.SCALEXModel.load_query_data(query, model)
    new = mapped.get_prepared()
    new.obsm["X_scalex"] = mapped.get_latent_representation()
    query.obs["celltype_transfer"] = sx.label_transfer(
        known, new, use_rep="X_scalex", label="celltype", batch_key="batch"
    )
    assert accuracy(query) > 0.85
    del new.var["scalex_measured"]  # zeros in the place of genes are taken for expression
    query.obs["celltype_transfer"] = sx.label_transfer(
        known, new, use_rep="X_scalex", label="celltype", batch_key="batch"
    )
    assert accuracy(query) < 0.8


def test_values_themselves_are_compared_by_measured_genes(
    model: sx.SCALEXModel, query: AnnData
) -> None:
    known = sx.tl.reference_cells(model, "celltype")
    new = sx.SCALEXModel.load_query_data(query, model).get_prepared()
    measured = new.var["scalex_measured"].to_numpy()
    expected = sx.label_transfer(
        known[:, measured].copy(), new[:, measured].copy(), use_rep="X", label="celltype"
    )
    found = sx.label_transfer(known, new, use_rep="X", label="celltype")
    assert list(found) == list(expected)


def test_cells_without_a_common_gene_are_refused(model: sx.SCALEXModel, query: AnnData) -> None:
    known = sx.tl.reference_cells(model, "celltype")
    new = sx.SCALEXModel.load_query_data(query, model).get_prepared()
    known.var["scalex_measured"] = ~new.var["scalex_measured"].to_numpy()
    with pytest.raises(ValueError, match="measured for different genes: none is in both"):
        sx.label_transfer(known, new, use_rep="X", label="celltype")
