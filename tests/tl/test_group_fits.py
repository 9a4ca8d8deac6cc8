"""Queries of types that the reference lacks, with no known ones beside them."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scalex_scvi as sx
from scalex_scvi.tl._group_fits import Groups

N_GENES = 300
NOISE = 0.3
PROFILES = {
    name: np.random.default_rng(i).uniform(size=N_GENES)
    for i, name in enumerate(("a", "b", "c", "d"))
}
# Types that lie near others, as a subtype does: an eighth of their genes differ.
for name, like in (("near a", "a"), ("near b", "b")):
    own = np.random.default_rng(len(name + like)).permutation(N_GENES)[: N_GENES // 8]
    PROFILES[name] = PROFILES[like].copy()
    PROFILES[name][own] = np.random.default_rng(own[0]).uniform(size=len(own))


def cells(sizes: dict[str, int], batch: str, *, seed: int, moved: float = 0.05) -> AnnData:
    """Cells of one batch: the profiles of their types, moved by what all its cells share, noise."""
    rng = np.random.default_rng(seed)
    celltype = np.repeat(list(sizes), list(sizes.values()))
    x = np.array([PROFILES[name] for name in celltype]) + rng.normal(0, moved, N_GENES)
    x = np.clip(x + rng.normal(0, NOISE, x.shape), 0, None)
    obs = pd.DataFrame({"celltype": celltype, "batch": batch})
    obs.index = [f"{batch}_{i}" for i in range(len(obs))]
    adata = AnnData(sparse.csr_matrix(x.astype(np.float32)), obs=obs)
    adata.obsm["latent"] = np.asarray(x[:, :10])
    return adata


def reference(n_batches: int = 4, *, types: str = "abcd", moved: float = 0.05) -> AnnData:
    sizes = dict.fromkeys(types, 80)
    parts = [cells(sizes, f"batch{i}", seed=i, moved=moved) for i in range(n_batches)]
    return sx.io.concat(parts, [f"batch{i}" for i in range(n_batches)])


def unknown(query: AnnData, ref: AnnData | None = None) -> pd.Series:
    return sx.tl.label_scores(ref or reference(), query, batch_key="batch").is_unknown


NOTHING_KNOWN = {
    "one type": {"near a": 120},
    "two types": {"near a": 90, "near b": 60},
    "one type and a few known cells": {"near a": 120, "c": 8},
}


@pytest.mark.parametrize("sizes", NOTHING_KNOWN.values(), ids=NOTHING_KNOWN.keys())
def test_types_that_the_reference_lacks_are_unknown_without_others_beside_them(
    sizes: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    query = cells(sizes, "new", seed=9)
    with caplog.at_level(logging.WARNING, "scalex_scvi"):
        is_unknown = unknown(query)
    is_near = query.obs["celltype"].str.startswith("near")
    assert is_unknown[is_near].mean() > 0.9
    assert f"A batch of {query.n_obs} query cells looks like none of the labels" in caplog.text


KNOWN = {
    "sorted cells": ({"a": 120}, 0.05),
    "two types": ({"a": 90, "b": 60}, 0.05),
    "two types of another technology": ({"a": 90, "b": 60}, 0.3),
    "few cells": ({"a": 10}, 0.05),
}


@pytest.mark.parametrize(("sizes", "moved"), KNOWN.values(), ids=KNOWN.keys())
def test_known_types_are_not_refused_for_being_few(sizes: dict[str, int], moved: float) -> None:
    assert unknown(cells(sizes, "new", seed=9, moved=moved)).mean() < 0.15


def test_each_batch_of_a_query_is_judged_by_itself() -> None:
    batches = {"sorted": {"a": 120}, "other": {"near b": 120}}
    parts = [cells(sizes, name, seed=5) for name, sizes in batches.items()]
    query = sx.io.concat(parts, list(batches))
    is_unknown = unknown(query)
    assert is_unknown[query.obs["batch"] == "sorted"].mean() < 0.15
    assert is_unknown[query.obs["batch"] == "other"].mean() > 0.9


@pytest.mark.parametrize("moved", [0.8, 1.2])
def test_technologies_that_differ_more_than_types_do_hide_no_type(moved: float) -> None:
    """They move a known type as far from its label as types lie from each other."""
    ref = reference(3, types="abc", moved=moved)
    assert unknown(cells({"d": 120}, "new", seed=9, moved=moved), ref).mean() > 0.9
    for name in "abc":
        assert unknown(cells({name: 120}, "new", seed=9, moved=moved), ref).mean() < 0.15


def one_batch(types: str) -> AnnData:
    return cells(dict.fromkeys(types, 80), "batch0", seed=0)


@pytest.mark.parametrize("types", ["ab", "abc"])
@pytest.mark.parametrize("moved", [0.05, 0.2])
def test_one_batch_as_the_reference_tells_a_type_that_it_lacks_from_those_it_has(
    types: str, moved: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Another technology moves both as far from the labels."""
    unseen, known = ({name: 120} for name in ("d", "a"))
    assert unknown(cells(known, "new", seed=9, moved=moved), one_batch(types)).mean() < 0.2
    assert "looks like none of the labels" not in caplog.text
    assert unknown(cells(unseen, "new", seed=9, moved=moved), one_batch(types)).mean() > 0.9
    assert "A batch of 120 query cells looks like none of the labels" in caplog.text


def test_one_batch_as_the_reference_finds_two_types_that_it_lacks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    query = cells({"c": 90, "d": 60}, "new", seed=9)
    assert unknown(query, one_batch("ab")).mean() > 0.9
    assert "A batch of 150 query cells looks like none of the labels" in caplog.text


def test_one_label_alone_tells_no_batch_of_nothing_known(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is left of it after what all labels share is taken off."""
    unknown(cells({"b": 120}, "new", seed=9), one_batch("a"))
    assert "looks like none of the labels" not in caplog.text


@pytest.mark.parametrize("n_cells", [15, 60])
def test_correlations_of_groups_are_those_of_many_cells(n_cells: int) -> None:
    """Noise would lower them, the more so the fewer the cells are."""
    means = np.stack([PROFILES["a"], PROFILES["b"]])
    rng = np.random.default_rng(0)
    x = PROFILES["near a"] + rng.normal(0, 1.0, (200 * n_cells, N_GENES))
    groups = Groups.of(sparse.csr_matrix(x), np.repeat(np.arange(200), n_cells))
    expected = np.corrcoef(PROFILES["near a"], means)[0, 1:]
    found = groups.correlations(means)
    np.testing.assert_allclose(np.median(found, axis=0), expected, atol=0.02)
    plain = [np.corrcoef(mean, means)[0, 1] for mean in groups.means]
    assert np.median(plain) < expected[0] - 0.03


def test_groups_without_an_offset_are_those_of_cells_without_it() -> None:
    rng = np.random.default_rng(0)
    x, offset = rng.uniform(size=(60, N_GENES)), rng.normal(size=N_GENES)
    codes = np.repeat([0, 2], 30)
    found = Groups.of(sparse.csr_matrix(x), codes).without(offset)
    expected = Groups.of(sparse.csr_matrix(x - offset), codes)
    for field in ("sums", "squares", "counts"):
        np.testing.assert_allclose(getattr(found, field), getattr(expected, field))


def test_groups_of_few_cells_are_none() -> None:
    x = sparse.csr_matrix(np.ones((20, 3)))
    np.testing.assert_array_equal(Groups.of(x, np.repeat([0, 1], [15, 5])).counts, [15])
