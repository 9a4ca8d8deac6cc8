"""Expression of a query whose decoder is not trained: decoded by the reference, never by noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from conftest import QUIET, simulate_counts

import scalex_scvi as sx


@pytest.fixture
def query() -> AnnData:
    """Cells of a known batch and of a new one."""
    adata = simulate_counts(60, n_batches=2, seed=3)
    adata.obs["batch"] = adata.obs["batch"].cat.rename_categories({"batch1": "new"})
    return adata


@pytest.mark.parametrize("units", ["scaled", "log_normalized"])
@pytest.mark.parametrize("unfrozen", [False, True])
def test_new_batches_are_decoded_by_the_mean_of_the_reference(
    model: sx.SCALEXModel,
    query: AnnData,
    units: str,
    unfrozen: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mapped = sx.SCALEXModel.load_query_data(query, model, unfrozen=unfrozen)
    found = mapped.get_imputed_expression(units=units)
    reference = ["batch0", "batch1", "batch2"]
    is_new = (query.obs["batch"] == "new").to_numpy()
    by_reference = mapped.get_imputed_expression(transform_batch=reference, units=units)
    by_own = mapped.get_imputed_expression(transform_batch="batch0", units=units)
    np.testing.assert_allclose(found[is_new], by_reference[is_new], rtol=1e-6)
    np.testing.assert_allclose(found[~is_new], by_own[~is_new], rtol=1e-5)
    assert "decoder of the batches ['new'] is not trained: their 30 cells" in caplog.text


def test_an_untrained_batch_cannot_be_chosen_until_it_is_trained(
    model: sx.SCALEXModel, query: AnnData, tmp_path: Path
) -> None:
    mapped = sx.SCALEXModel.load_query_data(query, model)
    mapped.save(tmp_path / "query")
    loaded = sx.SCALEXModel.load(tmp_path / "query", query)
    for each in (mapped, loaded):
        for wanted in ("new", ["batch0", "new"]):
            with pytest.raises(ValueError, match=r"`transform_batch` \['new'\].*`train\(\)`"):
                each.get_imputed_expression(transform_batch=wanted)
    loaded.train(max_epochs=1, **QUIET)
    own = loaded.get_imputed_expression(transform_batch="new")
    is_new = (query.obs["batch"] == "new").to_numpy()
    np.testing.assert_array_equal(loaded.get_imputed_expression()[is_new], own[is_new])


@pytest.mark.parametrize("name", ["get_elbo", "get_reconstruction_error"])
def test_what_an_untrained_decoder_makes_is_not_compared(
    model: sx.SCALEXModel, query: AnnData, name: str
) -> None:
    mapped = sx.SCALEXModel.load_query_data(query, model)
    compare = getattr(mapped, name)
    with pytest.raises(ValueError, match=r"batches \['new'\] is not trained.*`train\(\)`"):
        compare()
    known = np.flatnonzero(query.obs["batch"] == "batch0")
    with pytest.raises(ValueError, match="is not trained"):
        compare(indices=[*known, 1])
    # Cells of a batch that the reference knows are decoded as by the reference.
    assert compare(indices=known) == getattr(model, name)(query[known].copy())
    mapped.train(max_epochs=1, **QUIET)
    compare()


def test_a_query_of_an_untrained_query(model: sx.SCALEXModel, query: AnnData) -> None:
    first = sx.SCALEXModel.load_query_data(query, model)
    more = simulate_counts(30, n_batches=1, seed=5)
    more.obs["batch"] = "third"
    second = sx.SCALEXModel.load_query_data(more, first)
    second.train(max_epochs=1, **QUIET)
    assert second.untrained_batches_ == ["new"]
    assert second.get_imputed_expression(transform_batch="third").shape == (30, 60)
    with pytest.raises(ValueError, match="decodes noise"):
        second.get_imputed_expression(transform_batch="new")
