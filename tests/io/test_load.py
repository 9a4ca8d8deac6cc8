"""Loading: what is read, joined, drawn and prepared before a model sees it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from conftest import simulate_counts

import scalex_scvi as sx


@pytest.mark.parametrize("name", ["batch_name", "batch_key"])
def test_columns_of_batches_are_named_by_text(name: str) -> None:
    with pytest.raises(
        TypeError, match=rf"`{name}` must be the name of a column, got \['a', 'b'\]"
    ):
        sx.io.Reading(**{name: ["a", "b"]})


def test_load_data_reads_joins_and_prepares(counts: AnnData, tmp_path: Path) -> None:
    other = simulate_counts(60, seed=1)
    other.write_h5ad(tmp_path / "other.h5ad")
    loaded = sx.io.load_data(
        [counts, tmp_path / "other.h5ad"], ["A", "B"], min_features=0, n_top_features=30
    )
    joined = sx.io.concat([counts, other], ["A", "B"])
    expected = sx.pp.rna(joined, batch_key="batch", min_features=0, n_top_features=30)
    assert list(loaded.var_names) == list(expected.var_names)
    assert list(loaded.obs["batch"]) == ["A"] * 150 + ["B"] * 60
    assert (loaded.X != expected.X).nnz == 0


def test_load_counts_leaves_the_source_alone(counts: AnnData) -> None:
    counts.obs["donor"] = ["a", "b", "c"] * 50
    before = counts.obs.copy()
    loaded = sx.io.load_counts(counts, sx.io.Reading(batch_name="donor"))
    loaded.obs["new"] = 1
    assert counts.obs.equals(before)
    assert sx.io.batch_column(loaded) == "donor"
    assert list(loaded.obs["batch"]) == list(counts.obs["batch"])
    assert (loaded.X != counts.X).nnz == 0


@pytest.mark.parametrize("names", ["batch,lane", "batch, lane"], ids=["plain", "with a space"])
def test_columns_are_combined(counts: AnnData, names: str) -> None:
    counts.obs["lane"] = np.arange(150) % 2
    loaded = sx.io.load_counts(counts, sx.io.Reading(batch_name=names))
    assert loaded.obs[sx.io.batch_column(loaded)].iloc[1] == "batch1_1"


def test_a_missing_value_in_a_combined_column_is_no_batch(counts: AnnData) -> None:
    counts.obs["lane"] = np.where(np.arange(150) < 3, None, "a")
    with pytest.raises(ValueError, match=r"'lane'.*missing"):
        sx.io.load_counts(counts, sx.io.Reading(batch_name="batch,lane"))


def test_a_column_whose_name_has_a_comma(counts: AnnData) -> None:
    counts.obs["a,b"] = counts.obs["batch"]
    loaded = sx.io.load_counts(counts, sx.io.Reading(batch_name="a,b"))
    assert list(loaded.obs["batch"]) == list(counts.obs["batch"])


def test_unnamed_columns_of_obsm(counts: AnnData) -> None:
    counts.obsm["protein"] = np.ones((150, 3))
    loaded = sx.io.load_counts(counts, sx.io.Reading(use_layer="protein"))
    assert list(loaded.var_names) == ["protein_0", "protein_1", "protein_2"]


def test_batch_key_of_one_source_is_its_column_of_batches(counts: AnnData) -> None:
    counts.obs["sample"] = ["a", "b", "c"] * 50
    loaded = sx.io.load_counts(counts, sx.io.Reading(batch_key="sample"))
    assert sx.io.batch_column(loaded) == "sample"
    with pytest.raises(KeyError, match="'nowhere'"):
        sx.io.load_counts(counts, sx.io.Reading(batch_key="nowhere"))


def test_two_different_columns_of_batches_are_refused(counts: AnnData) -> None:
    counts.obs["sample"] = ["a", "b", "c"] * 50
    counts.obs["donor"] = ["x", "y"] * 75
    with pytest.raises(ValueError, match="'sample'.*'donor'|'donor'.*'sample'"):
        sx.io.load_counts(counts, sx.io.Reading(batch_key="sample", batch_name="donor"))


def test_a_column_named_batch_that_says_the_same_is_the_column(counts: AnnData) -> None:
    counts.obs["again"] = counts.obs["batch"].astype(str)
    loaded = sx.io.load_counts(counts, sx.io.Reading(batch_name="again"))
    assert sx.io.batch_column(loaded) == "batch"
