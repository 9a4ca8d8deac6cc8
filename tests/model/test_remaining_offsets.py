"""What training leaves of the batches' offsets is removed from the encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anndata import AnnData
from conftest import QUIET, simulate_counts, trained_model

import scalex_scvi as sx
from scalex_scvi.model._remaining_offsets import (
    RIDGE,
    WEIGHT,
    batch_offsets,
    least_change,
    remove_remaining_offsets,
)
from scalex_scvi.model._training_sample import sample_of
from scalex_scvi.train import PUBLISHED

FEW = {"max_steps": 150, **QUIET}


@pytest.fixture(scope="module")
def pancreas() -> AnnData:
    return sx.datasets.pancreas()


def a_model(adata: AnnData, batch_key: str | None = "batch", **training: object) -> sx.SCALEXModel:
    sx.SCALEXModel.setup_anndata(adata, batch_key=batch_key)
    model = sx.SCALEXModel(adata, n_hidden=128, seed=0)
    model.train(seed=0, **(FEW | training))
    return model


@pytest.fixture(scope="module")
def both(pancreas: AnnData) -> tuple[sx.SCALEXModel, sx.SCALEXModel]:
    """The same training without the removal, and with it."""
    return a_model(pancreas, remove_offsets=False), a_model(pancreas)


def two_batches(shift: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hidden units of three types, in other shares in each batch; without the shift; batches."""
    random = np.random.default_rng(0)
    codes = np.repeat([0, 1], [400, 600])
    types = np.concatenate(
        [np.repeat(range(3), [300, 80, 20]), np.repeat(range(3), [60, 240, 300])]
    )
    centers = random.normal(0, 8, (3, len(shift)))
    points = centers[types] + random.normal(0, 1, (1000, len(shift)))
    return points + codes[:, None] * shift, points, codes


def test_offsets_are_the_shift_of_a_batch_whatever_the_shares_of_its_types() -> None:
    shift = np.linspace(-1, 1, 12)
    hidden, points, codes = two_batches(shift)
    (first, second), shares = batch_offsets(hidden, points, codes)
    np.testing.assert_allclose(first, -shift, atol=0.25)
    np.testing.assert_allclose(second, shift, atol=0.25)
    np.testing.assert_allclose(shares, [0.4, 0.6])
    # The means of the batches differ by far more: their types do.
    assert np.abs(hidden[codes == 1].mean(0) - hidden[codes == 0].mean(0) - shift).max() > 2


def test_batches_without_neighbors_in_others_and_small_ones_have_none() -> None:
    hidden, points, codes = two_batches(np.ones(12))
    apart = points + 1000 * codes[:, None]
    assert not len(batch_offsets(hidden, apart, codes)[0])
    few = codes.copy()
    few[np.flatnonzero(codes == 1)[31:]] = 0
    offsets, shares = batch_offsets(hidden, points, few)
    assert len(offsets) == 1
    np.testing.assert_allclose(shares, [0.969])


def test_the_change_is_the_least_one() -> None:
    """The independent implementation: least squares, of the units' values stacked on offsets."""
    hidden, points, codes = two_batches(np.linspace(-1, 1, 12))
    offsets, shares = batch_offsets(hidden, points, codes)
    weight = np.random.default_rng(1).normal(size=(4, 12))
    centered = np.concatenate([hidden[codes == b] - hidden[codes == b].mean(0) for b in (0, 1)])
    ridge = np.sqrt(RIDGE * centered.var(axis=0).mean()) * np.eye(12)
    pulled = np.sqrt(WEIGHT * shares)[:, None] * offsets
    stacked = np.concatenate([centered / np.sqrt(len(hidden)), ridge, pulled])
    target = np.concatenate([np.zeros((len(hidden) + 12, 4)), -pulled @ weight.T])
    expected = np.linalg.lstsq(stacked, target, rcond=None)[0].T
    change = least_change(hidden, codes, offsets, shares, weight)
    np.testing.assert_allclose(change, expected, atol=1e-8)
    left = np.linalg.norm((weight + change) @ offsets.T)
    assert left < 0.05 * np.linalg.norm(weight @ offsets.T)


def test_only_the_last_layer_and_the_means_of_the_decoder_change(
    both: tuple[sx.SCALEXModel, sx.SCALEXModel],
) -> None:
    before, after = (model.module.state_dict() for model in both)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert sorted(changed) == [
        "decoder.norm.running_mean",
        "encoder.mean_head.bias",
        "encoder.mean_head.weight",
    ]


def test_batches_mix_more_and_types_stay_as_they_are(
    both: tuple[sx.SCALEXModel, sx.SCALEXModel], pancreas: AnnData
) -> None:
    latents = [model.get_latent_representation() for model in both]
    batch, types = pancreas.obs["batch"], pancreas.obs["celltype"]
    apart = [sx.metrics.same_batch_share(latent, batch) for latent in latents]
    purity = [sx.metrics.knn_purity(latent, types) for latent in latents]
    assert apart[1] < apart[0]
    assert purity[1] > purity[0] - 0.01
    change = np.square(latents[1] - latents[0]).sum() / np.square(latents[0]).sum()
    assert 0 < change < 0.05
    np.testing.assert_allclose(latents[1].mean(0), latents[0].mean(0), atol=1e-4)


def test_the_decoder_follows(both: tuple[sx.SCALEXModel, sx.SCALEXModel]) -> None:
    errors = [float(model.get_reconstruction_error()["reconstruction_loss"]) for model in both]
    assert errors[1] == pytest.approx(errors[0], rel=2e-3)
    means = [model.get_imputed_expression().mean(axis=0) for model in both]
    np.testing.assert_allclose(means[1], means[0], rtol=0.05, atol=1e-3)


def test_one_batch_and_the_published_recipe_are_left_alone(pancreas: AnnData) -> None:
    """After some steps, which by default leave something to remove."""
    some_genes = pancreas[:, ::3].copy()

    def is_left_alone(**training: object) -> bool:
        with_removal, without = (
            a_model(some_genes, max_steps=10, **training, **more).module.state_dict()
            for more in ({}, {"remove_offsets": False})
        )
        return all(torch.equal(with_removal[name], without[name]) for name in without)

    assert is_left_alone(recipe=PUBLISHED)
    assert is_left_alone(batch_key=None)
    assert is_left_alone(alignment_weight=0)
    assert not is_left_alone()


def test_of_many_cells_some_of_each_batch_are_looked_at(
    both: tuple[sx.SCALEXModel, sx.SCALEXModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They say nearly the same."""
    monkeypatch.setattr("scalex_scvi.model._training_sample.MOST_CELLS", 300)
    before, after = both
    sample = sample_of(before.adata_manager, None)
    assert np.bincount(sample.codes).tolist() == [60] * 5
    weights = before.module.state_dict()
    kept = {name: value.clone() for name, value in weights.items()}
    full = after.get_latent_representation()
    start = before.get_latent_representation()
    try:
        remove_remaining_offsets(before, sample)
        fewer = before.get_latent_representation()
    finally:
        before.module.load_state_dict(kept)
    moved, also = (full - start).ravel(), (fewer - start).ravel()
    assert np.corrcoef(moved, also)[0, 1] > 0.5


@pytest.mark.parametrize("n_kinds", [1, 2])
def test_batches_of_identical_cells_change_nothing(prepared: AnnData, n_kinds: int) -> None:
    """All cells alike, or those of each batch: no differences within batches to keep."""
    batch = prepared.obs["batch"].cat.codes.to_numpy()
    prepared.X = prepared.X[batch % n_kinds]
    with_removal, without = (
        trained_model(prepared.copy(), max_epochs=2, remove_offsets=remove).module.state_dict()
        for remove in (True, False)
    )
    for name, value in without.items():
        torch.testing.assert_close(with_removal[name], value, rtol=0, atol=1e-4)


def test_cells_that_are_left_for_validation_do_not_count() -> None:
    """Of two sets that differ in these cells alone, the weights are the same, bit for bit."""
    cells = [sx.pp.rna(simulate_counts(), batch_key="batch", min_features=0) for _ in range(2)]
    cells[1].X[100:] = cells[1].X[:50]
    split = {"external_indexing": [np.arange(100), np.arange(100, 150), np.arange(0)]}
    how = {"max_epochs": 2, "start_at_mean": False, "datasplitter_kwargs": split}
    first, second = (trained_model(adata, **how).module.state_dict() for adata in cells)
    for name, value in first.items():
        assert torch.equal(second[name], value), name
