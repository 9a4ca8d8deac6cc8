"""label_transfer: which query cells are called unknown, and how many known ones are refused."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse, stats

import scalex_scvi as sx
from scalex_scvi.tl import _misfit_calibration

CENTERS = {"a": (0, 0), "b": (20, 0), "c": (0, 20), "absent": (20, 20)}
SCORES = {"novelty": "latent", "batch_key": "batch"}
LATENT = SCORES | {"unknown": True}


def blobs(sizes: dict[str, int], *, n_batches: int = 3, seed: int = 0) -> AnnData:
    """Gaussian blobs in a latent space of two dimensions; no expression."""
    rng = np.random.default_rng(seed)
    celltype = np.repeat(list(sizes), list(sizes.values()))
    points = np.array([CENTERS[name] for name in celltype]) + rng.normal(size=(len(celltype), 2))
    batch = [f"batch{i % n_batches}" for i in range(len(celltype))]
    obs = pd.DataFrame({"celltype": pd.Categorical(celltype), "batch": batch})
    return AnnData(obs=obs.set_index("c" + obs.index.astype(str)), obsm={"latent": points})


def with_expression(adata: AnnData, *, n_genes: int = 200, seed: int = 0) -> AnnData:
    """The same cells with expression of their type, and a latent that cannot tell `absent`."""
    profiles = np.random.default_rng(99).uniform(size=(len(CENTERS), n_genes))
    codes = adata.obs["celltype"].astype(str).map({name: i for i, name in enumerate(CENTERS)})
    noise = np.random.default_rng(seed).normal(0, 0.2, size=(adata.n_obs, n_genes))
    x = np.clip(profiles[codes] + noise, 0, 1).astype(np.float32)
    points = adata.obsm["latent"].copy()
    points[(codes == 3).to_numpy()] -= CENTERS["absent"]  # on top of "a"
    return AnnData(X=sparse.csr_matrix(x), obs=adata.obs.copy(), obsm={"latent": points})


@pytest.fixture
def ref() -> AnnData:
    return blobs({"a": 300, "b": 300, "c": 300})


def test_an_absent_blob_is_unknown_and_the_others_keep_their_labels(ref: AnnData) -> None:
    query = blobs({"a": 50, "b": 50, "absent": 50}, seed=1)
    labels = sx.label_transfer(ref, query, **LATENT)
    assert list(labels.cat.categories) == ["a", "b", "c", "unknown"]
    assert (labels[100:] == "unknown").all()
    kept = labels[:100][labels[:100] != "unknown"]
    assert len(kept) > 85
    assert (kept.astype(str) == query.obs["celltype"].astype(str)[kept.index]).all()


@pytest.mark.parametrize("batch_key", ["batch", None])
@pytest.mark.parametrize("max_refused", [0.02, 0.05, 0.2])
def test_as_many_known_cells_are_refused_as_allowed(
    ref: AnnData, batch_key: str | None, max_refused: float
) -> None:
    # The share itself varies with the 900 held-out cells, so the interval is that of a
    # beta-binomial: 99.9 % of both draws.
    query = blobs({"a": 1000, "b": 1000, "c": 1000}, seed=2)
    labels = sx.label_transfer(
        ref, query, **LATENT | {"batch_key": batch_key}, max_refused=max_refused
    )
    k = int(max_refused * 901)
    low, high = stats.betabinom(3000, k, 901 - k).interval(0.999)
    if batch_key is not None:
        low = 0  # held-out cells have fewer reference cells around them: a little cautious
    assert low <= (labels == "unknown").sum() <= high


def test_a_query_of_nothing_known_is_unknown_altogether(ref: AnnData) -> None:
    assert (sx.label_transfer(ref, blobs({"absent": 40}), **LATENT) == "unknown").all()


def test_expression_finds_a_type_that_the_latent_hides(ref: AnnData) -> None:
    ref = with_expression(ref)
    query = with_expression(blobs({"a": 50, "b": 50, "absent": 50}, seed=1), seed=1)
    by_latent = sx.label_transfer(ref, query, **LATENT)
    by_expression = sx.label_transfer(
        ref, query, unknown=True, batch_key="batch", novelty="expression"
    )
    assert (by_latent[100:] == "unknown").mean() < 0.3
    assert (by_expression[100:] == "unknown").all()
    assert (by_expression[:100] == "unknown").mean() < 0.15


def test_misfit_is_one_minus_correlation_with_the_neighbors_by_agreement(ref: AnnData) -> None:
    """Ranks of the p-values against numpy's correlation, cell by cell."""
    ref = with_expression(ref)
    query = with_expression(blobs({"a": 10, "b": 10}, seed=3), seed=3)
    details = sx.tl.label_scores(ref, query, batch_key="batch", novelty="expression").to_frame()
    x, y = ref.X.toarray(), query.X.toarray()
    apart = np.linalg.norm(ref.obsm["latent"][None] - query.obsm["latent"][:, None], axis=2)
    nearest = np.argsort(apart, axis=1)[:, :10]
    expected = [1 - np.corrcoef(y[i], x[nearest[i]].mean(axis=0))[0, 1] for i in range(20)]
    expected = np.array(expected) / details["celltype_probability"].to_numpy()
    assert stats.spearmanr(expected, details["celltype_p_value"]).statistic < -0.999


def test_scores_hold_labels_probabilities_and_p_values(ref: AnnData) -> None:
    query = blobs({"a": 30, "absent": 30}, seed=1)
    scores = sx.tl.label_scores(ref, query, **SCORES, max_refused=0.1)
    details, proba = scores.to_frame(), scores.probabilities
    assert list(details) == [
        f"celltype_{what}" for what in ("transfer", "probability", "p_value", "unknown")
    ]
    assert details.index.equals(query.obs_names)
    assert details["celltype_p_value"].between(0, 1, inclusive="right").all()
    labels = scores.labels_or_unknown()
    assert labels.equals(sx.label_transfer(ref, query, **LATENT, max_refused=0.1))
    assert labels.cat.categories[-1] == "unknown"
    assert ((labels == "unknown") == details["celltype_unknown"]).all()
    assert (details["celltype_unknown"] == (details["celltype_p_value"] <= 0.1)).all()
    np.testing.assert_allclose(details["celltype_probability"], proba.max(axis=1))
    assert list(proba) == ["a", "b", "c"]
    np.testing.assert_array_equal(details["celltype_p_value"], scores.p_values)
    assert scores.labels.equals(sx.label_transfer(ref, query, batch_key="batch"))
    assert details["celltype_transfer"].equals(scores.labels.rename("celltype_transfer"))
    with pytest.raises(AttributeError):
        scores.labels = labels


def test_a_cells_decision_is_its_own_and_repeats(ref: AnnData) -> None:
    query = blobs({"a": 30, "absent": 30}, seed=1)
    before = ref.obs.copy(), ref.obsm["latent"].copy()
    how = LATENT | {"method": "neighbors"}
    together = sx.label_transfer(ref, query, **how)
    assert together.equals(sx.label_transfer(ref, query, **how))
    assert together[::3].equals(sx.label_transfer(ref, query[::3].copy(), **how))
    pd.testing.assert_frame_equal(ref.obs, before[0])
    np.testing.assert_array_equal(ref.obsm["latent"], before[1])


def test_a_type_of_two_cells_is_still_transferred(ref: AnnData) -> None:
    ref = blobs({"a": 300, "b": 300, "c": 2})
    query = blobs({"a": 30, "b": 30, "c": 1}, seed=1)
    how = SCORES | {"method": "neighbors", "n_neighbors": 3}
    details = sx.tl.label_scores(ref, query, **how).to_frame()
    assert details["celltype_transfer"].astype(str).iloc[-1] == "c"
    assert details["celltype_probability"].iloc[-1] == pytest.approx(2 / 3)


def test_a_tie_goes_to_the_label_that_sorts_first_and_lowers_the_fit() -> None:
    ref = blobs({"a": 40, "b": 40})
    ref.obsm["latent"][:] = 0  # every cell in one place
    query = blobs({"a": 1})
    query.obsm["latent"][:] = 0
    details = sx.tl.label_scores(ref, query, **SCORES, n_neighbors=80).to_frame()
    assert details["celltype_transfer"].iloc[0] == "a"
    assert details["celltype_probability"].iloc[0] == 0.5
    assert not details["celltype_unknown"].iloc[0]  # all cells fit alike: nothing is worse


def test_types_of_one_batch_are_no_example_of_the_known(ref: AnnData) -> None:
    """A type that only one batch has would be new to the others: it must not set the standard."""
    ref.obs["batch"] = np.where(ref.obs["celltype"] == "c", "batch0", ref.obs["batch"])
    query = blobs({"a": 30, "absent": 30}, seed=1)
    assert (sx.label_transfer(ref, query, **LATENT)[30:] == "unknown").all()


@pytest.mark.parametrize("batches", [None, "one", "nothing in common"])
def test_warns_where_held_out_cells_are_not_of_another_batch(
    ref: AnnData, batches: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    ref.obs["batch"] = ref.obs["celltype"].astype(str) if batches == "nothing in common" else "one"
    query = blobs({"a": 30, "absent": 30}, seed=1)
    with caplog.at_level(logging.WARNING):
        labels = sx.label_transfer(ref, query, **LATENT | {"batch_key": batches and "batch"})
    assert (labels[30:] == "unknown").all()
    assert "cells of their own batch" in caplog.text


def test_held_out_batches_make_allowance_for_a_shift(ref: AnnData) -> None:
    """A query shifted as far as batches of the reference are is refused less than without them."""

    def shifted(adata: AnnData) -> AnnData:
        adata.obsm["latent"][:, 0] += 4.0 * adata.obs["batch"].astype(str).str[-1].astype(int)
        return adata

    ref, query = shifted(ref), blobs({"a": 300, "b": 300}, seed=4)
    query.obsm["latent"][:, 0] -= 4.0
    refused = {
        key: (sx.label_transfer(ref, query, **LATENT | {"batch_key": key}) == "unknown").mean()
        for key in ("batch", None)
    }
    assert refused["batch"] < 0.2 < 0.8 < refused[None]


def as_one_batch(sizes: dict[str, int], *, seed: int = 1, shift: float = 0.0) -> AnnData:
    """A query that names no batches, with an offset of all its genes."""
    query = with_expression(blobs(sizes, seed=seed), seed=seed)
    offset = shift * np.random.default_rng(5).uniform(size=query.n_vars)
    x = sparse.csr_matrix((query.X.toarray() + offset).astype(np.float32))
    return AnnData(X=x, obs=query.obs[["celltype"]], obsm=dict(query.obsm))


NEIGHBORHOODS = {
    "one type in three": ({"a": 100, "b": 100, "absent": 100}, {}),
    "fewer cells than neighbors": ({"a": 300, "b": 300, "absent": 8}, {}),
    "nothing else": ({"absent": 60}, {}),
    "an offset": ({"a": 100, "b": 100, "c": 100, "absent": 50}, {"shift": 0.5}),
}


@pytest.mark.parametrize("batch_key", ["batch", None])
@pytest.mark.parametrize(
    ("sizes", "kwargs"), NEIGHBORHOODS.values(), ids=list(NEIGHBORHOODS.keys())
)
def test_neighborhoods_find_an_absent_type(
    ref: AnnData, sizes: dict[str, int], kwargs: dict[str, float], batch_key: str | None
) -> None:
    query = as_one_batch(sizes, **kwargs)
    scores = sx.tl.label_scores(with_expression(ref), query, batch_key=batch_key)
    absent = (query.obs["celltype"] == "absent").to_numpy()
    assert scores.is_unknown[absent].mean() > 0.9
    assert not scores.is_unknown[~absent].any() or scores.is_unknown[~absent].mean() < 0.08


@pytest.mark.parametrize("batch_key", ["batch", None])
@pytest.mark.parametrize("max_refused", [0.05, 0.2])
def test_neighborhoods_refuse_about_the_share_that_is_allowed(
    ref: AnnData, batch_key: str | None, max_refused: float
) -> None:
    query = as_one_batch({"a": 100, "b": 100, "c": 100}, seed=2)
    scores = sx.tl.label_scores(
        with_expression(ref), query, batch_key=batch_key, max_refused=max_refused
    )
    assert scores.is_unknown.mean() <= 1.6 * max_refused + 0.01


HIGHS = {"two": ((1, 3), 2 * 1.25), "four": ((1, 1, 1, 5), 2 * 17 / 16), "one": ((2,), 4)}


@pytest.mark.parametrize(("highs", "expected"), HIGHS.values(), ids=HIGHS.keys())
def test_held_out_batches_count_alike_and_few_of_them_leave_room(
    highs: tuple[float, ...], expected: float
) -> None:
    """Whatever their sizes, and the same share of each is beyond what a new one may show."""
    batches = [np.linspace(0.01, 1, 40 * 10**i) for i in range(len(highs))]
    batches = [high * b / np.quantile(b, 0.95) for high, b in zip(highs, batches, strict=True)]
    stretched = _misfit_calibration.as_one_batch(batches)
    np.testing.assert_allclose([np.quantile(b, 0.95) for b in stretched], expected)
    for before, after in zip(batches, stretched, strict=True):
        np.testing.assert_allclose(after / before, after[-1] / before[-1])


@pytest.mark.parametrize(
    ("n_labels", "usual"), [(1, 0.15), (2, 0.15), (3, 0.3), (4, 0.4), (30, 0.4)]
)
@pytest.mark.parametrize("high", [0.1, 0.9])
def test_halves_of_one_batch_are_drawn_towards_what_is_usual(
    n_labels: int, usual: float, high: float
) -> None:
    """Halfway on a logarithmic scale, in units of the weight of correlations."""
    halves = np.linspace(0.01, 1, 200)
    halves *= 2 * high / halves[190]  # where (1 + 9) / (1 + 200) is the first below 0.05
    stretched = _misfit_calibration.as_new_batch(halves, np.array([2.0, 0, 0]), n_labels)
    assert stretched[190] / 2 == pytest.approx((usual * high) ** 0.5)
    np.testing.assert_allclose(stretched / halves, stretched[0] / halves[0])


def test_a_type_that_a_new_batch_moves_is_refused_less_after_a_small_odd_batch() -> None:
    """One of two batches is small and scatters more: a query like it must not be refused."""
    ref = with_expression(blobs({"a": 480, "b": 480, "c": 480}, n_batches=8))
    ref.obs["batch"] = np.where(ref.obs["batch"] == "batch0", "odd", "usual")
    moved = np.random.default_rng(3).normal(size=(3, ref.n_vars))
    query = as_one_batch({"a": 60, "b": 60, "c": 60}, seed=2)
    for adata, size in ((ref, 0.15), (query, 0.15)):
        codes = adata.obs["celltype"].astype(str).map({"a": 0, "b": 1, "c": 2}).to_numpy()
        is_odd = (adata.obs["batch"] == "odd").to_numpy() if adata is ref else 1
        step = size * moved[codes] * np.reshape(is_odd, (-1, 1))
        adata.X = sparse.csr_matrix(np.clip(adata.X.toarray() + step, 0, None).astype(np.float32))
    assert sx.tl.label_scores(ref, query, batch_key="batch").is_unknown.mean() < 0.1


def test_neighborhoods_do_not_depend_on_the_order_of_cells(ref: AnnData) -> None:
    query = as_one_batch({"a": 60, "b": 60, "absent": 40})
    ref = with_expression(ref)
    order = np.random.default_rng(0).permutation(query.n_obs)
    p = sx.tl.label_scores(ref, query, batch_key="batch").p_values
    mixed = sx.tl.label_scores(ref, query[order].copy(), batch_key="batch").p_values
    # Ties and roundings of the components can move a rank or two among 900.
    np.testing.assert_allclose(mixed[p.index], p, atol=0.01)


@pytest.mark.parametrize("n_cells", [1, 2, 7])
def test_a_few_known_cells_are_not_refused_for_being_few(ref: AnnData, n_cells: int) -> None:
    query = as_one_batch({"a": n_cells})
    scores = sx.tl.label_scores(with_expression(ref), query, batch_key="batch", max_refused=0.01)
    assert not scores.is_unknown.all()


def test_clusters_say_what_tells_them_from_the_nearest_label(ref: AnnData) -> None:
    query = as_one_batch({"a": 100, "b": 100, "absent": 60})
    query.obs["cluster"] = query.obs["celltype"].astype(str)
    ref = with_expression(ref)
    scores = sx.tl.label_scores(ref, query, batch_key="batch")
    table = sx.tl.unknown_clusters(ref, query, scores, "cluster", n_genes=3)
    assert list(table.index) == ["absent", "a", "b"]
    assert list(table["n_cells"]) == [60, 100, 100]
    assert list(table["nearest_label"])[1:] == ["a", "b"]
    assert table["share_unknown"].iloc[0] > 0.9 > 0.1 > table["share_unknown"].iloc[1:].max()
    assert table["distance"].iloc[0] > 5 * table["distance"].iloc[1:].max()
    genes = table["genes"].iloc[0].split(", ")
    label = (ref.obs["celltype"] == table["nearest_label"].iloc[0]).to_numpy()
    own = query[(query.obs["cluster"] == "absent").to_numpy(), genes].X.mean(axis=0)
    assert (np.asarray(own) > np.asarray(ref[label, genes].X.mean(axis=0)) + 0.3).all()
    from_column = sx.tl.unknown_clusters(ref, query, scores.is_unknown, "cluster", n_genes=3)
    from_array = sx.tl.unknown_clusters(
        ref, query, scores.is_unknown.to_numpy(), "cluster", n_genes=3
    )
    pd.testing.assert_frame_equal(from_array, from_column)
    with pytest.raises(ValueError, match="`scores` are not of the cells of `query`"):
        sx.tl.unknown_clusters(ref, query, scores.is_unknown.to_numpy()[1:], "cluster")
    pd.testing.assert_frame_equal(from_column, table)
    ref.obs.loc[ref.obs_names[0], "celltype"] = None  # stays out of it
    with_missing = sx.tl.unknown_clusters(ref, query, scores, "cluster", n_genes=3)
    assert list(with_missing["nearest_label"]) == list(table["nearest_label"])
    with pytest.raises(KeyError, match="'leiden' is not a column"):
        sx.tl.unknown_clusters(ref, query, scores, "leiden")
    with pytest.raises(ValueError, match="not of the cells"):
        sx.tl.unknown_clusters(ref, query[::2].copy(), scores, "cluster")


def test_clusters_are_compared_with_the_labeled_cells_of_the_reference(ref: AnnData) -> None:
    query = as_one_batch({"a": 50, "absent": 30})
    query.obs["cluster"] = query.obs["celltype"].astype(str)
    ref = with_expression(ref)
    ref.obs["celltype"] = ref.obs["celltype"].astype(object)
    ref.obs.iloc[::7, ref.obs.columns.get_loc("celltype")] = None
    labeled = ref[ref.obs["celltype"].notna()].copy()
    unknown = pd.Series(False, index=query.obs_names)
    table = sx.tl.unknown_clusters(ref, query, unknown, "cluster", batch_key="batch")
    expected = sx.tl.unknown_clusters(labeled, query, unknown, "cluster", batch_key="batch")
    pd.testing.assert_frame_equal(table, expected)


def _label_called_unknown(ref: AnnData, query: AnnData) -> None:
    ref.obs["celltype"] = ref.obs["celltype"].astype(str).replace("c", "unknown")


def _other_genes(ref: AnnData, query: AnnData) -> None:
    query.var_names = ["z" + name for name in query.var_names]


def _each_cell_its_own_label(ref: AnnData, query: AnnData) -> None:
    ref.obs["celltype"] = ref.obs_names


def _without_batch(ref: AnnData, query: AnnData) -> None:
    ref.obs.loc["c0", "batch"] = None


BAD = {
    "label unknown": (_label_called_unknown, {}, ValueError, "has a label 'unknown' already"),
    "other genes": (_other_genes, {}, ValueError, "compares the same genes"),
    "no batch column": (None, {"batch_key": "donor"}, KeyError, "'donor' is not a column"),
    "no common label": (_each_cell_its_own_label, {}, ValueError, "labels of several cells each"),
    "missing batch": (_without_batch, {}, ValueError, "missing"),
    "share of 0": (None, {"max_refused": 0}, ValueError, "between 0 and 1"),
    "share of 1": (None, {"max_refused": 1.0}, ValueError, "between 0 and 1"),
    "too few cells": (None, {"max_refused": 1e-4}, ValueError, "at least 9999 held-out"),
    "novelty": (None, {"novelty": "pca"}, ValueError, "'pca'"),
}


@pytest.mark.parametrize(("spoil", "kwargs", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(
    ref: AnnData,
    spoil: object,
    kwargs: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    ref, query = with_expression(ref), with_expression(blobs({"a": 5}))
    if spoil is not None:
        spoil(ref, query)
    with pytest.raises(error, match=message):
        sx.label_transfer(ref, query, **{"unknown": True, "batch_key": "batch"} | kwargs)


def test_latents_alone_have_no_expression_to_compare(ref: AnnData) -> None:
    with pytest.raises(ValueError, match="novelty='latent'"):
        sx.label_transfer(ref, blobs({"a": 5}), unknown=True)
