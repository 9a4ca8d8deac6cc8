"""pp.preprocess: one entry for all profiles, and RNA beside gene activity."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from anndata import AnnData
from conftest import real_data

import scalex_scvi as sx
from scalex_scvi.pp import Preprocessing


@pytest.mark.parametrize("spelling", [str.lower, str.upper], ids=["lower case", "upper case"])
def test_is_the_profile_s_function(case, dense, spelling) -> None:
    options = {"batch_key": "batch", "min_features": 1, "n_top_features": 6, "scale_by": "global"}
    prepared = sx.pp.preprocess(case.counts, spelling(case.name), **options)
    expected = case.function(case.counts, **options)
    np.testing.assert_array_equal(dense(prepared), dense(expected))
    assert Preprocessing.from_adata(prepared) == Preprocessing.from_adata(expected)


def test_none_is_the_profile_s_default(case, counts: AnnData) -> None:
    if case.name == "ADT":
        assert sx.pp.preprocess(case.counts, "ADT").shape == (150, 15)
        return
    prepared = sx.pp.preprocess(case.counts, case.name)
    assert prepared.n_obs == case.counts.n_obs
    assert Preprocessing.from_adata(prepared).target_sum == 1e4


def test_rna_is_the_default(counts: AnnData) -> None:
    prepared = sx.pp.preprocess(counts, min_features=0, dropped_prefixes=["gene1"])
    assert Preprocessing.from_adata(prepared).profile == "RNA"
    assert "gene1" not in prepared.var_names


BAD = {
    "unknown profile": ({"profile": "CyTOF"}, ValueError, r"'CyTOF' is unknown.*RNA.*ATAC.*ADT"),
    "no profile": ({"profile": None}, ValueError, "None is unknown"),
    "unknown option": ({"keep_mt": True}, TypeError, r"takes no \['keep_mt'\]; allowed are"),
    "not of the profile": (
        {"profile": "ADT", "target_sum": 1e4},
        TypeError,
        "'ADT' takes no `target_sum`",
    ),
}


@pytest.mark.parametrize(("arguments", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_arguments(counts: AnnData, arguments, error, message: str) -> None:
    with pytest.raises(error, match=message):
        sx.pp.preprocess(counts, **arguments)


@pytest.mark.real_data
def test_rna_and_gene_activity_are_two_batches_of_one_profile() -> None:
    both = ad.concat(
        {"RNA": real_data("a549_scicar_rna"), "ATAC": real_data("a549_scicar_atac_geneactivity")},
        label="modality",
        index_unique="-",
    )
    assert both.shape == (2 * 2641, 1117)
    prepared = sx.pp.preprocess(
        both, batch_key="modality", min_features=0, min_cells=0, n_top_features=500
    )
    assert prepared.shape == (2 * 2641, 500)
    for modality in ("RNA", "ATAC"):
        block = prepared.X[(prepared.obs["modality"] == modality).to_numpy()]
        maxima = block.max(axis=0).toarray()
        np.testing.assert_allclose(maxima[maxima > 0], 1, rtol=1e-6)
        assert (maxima > 0).mean() > 0.95
