"""Laws that hold for any data: drawn by hypothesis, the same draws in every run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from conftest import QUIET, simulate_counts
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy import sparse
from torch import nn

import scalex_scvi as sx
from scalex_scvi.nn import DomainSpecificBatchNorm1d

SEEDS = st.integers(0, 2**31 - 1)
"""Of the values: hypothesis draws the shapes, which is where laws break."""


def examples(n: int) -> Callable:
    """A few draws, without a limit on their time: the machine may be busy."""
    return settings(
        max_examples=n,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # a failure is told at once; shrinking would train many models
    )


@cache
def reference() -> tuple[AnnData, sx.SCALEXModel]:
    """Counts and a model of them, which no law changes."""
    counts = simulate_counts(120, n_genes=40)
    adata = counts.copy()
    sx.SCALEXModel.setup_anndata(adata, batch_key="batch")
    model = sx.SCALEXModel(adata, n_hidden=16, n_latent=4, seed=0)
    model.train(max_steps=12, seed=0, **QUIET)
    return counts, model


def dense(adata: AnnData) -> np.ndarray:
    return adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)


def latent(query: AnnData) -> np.ndarray:
    placed = sx.SCALEXModel.load_query_data(query.copy(), reference()[1])
    return placed.get_latent_representation()


@examples(25)
@given(
    n_features=st.integers(1, 6),
    domains=st.lists(st.integers(0, 4), min_size=2, max_size=30),
    n_steps=st.integers(1, 3),
    train=st.booleans(),
    seed=SEEDS,
)
def test_dsbn_is_a_list_of_batch_norms(
    n_features: int, domains: list[int], n_steps: int, train: bool, seed: int
) -> None:
    """Outputs, running statistics and gradients; a domain of one row uses what it knew."""
    torch.manual_seed(seed)
    ours = DomainSpecificBatchNorm1d(n_features, 5)
    theirs = [nn.BatchNorm1d(n_features) for _ in range(5)]
    with torch.no_grad():
        for i, norm in enumerate(theirs):
            norm.weight.copy_(ours.weight[i].normal_())
            norm.bias.copy_(ours.bias[i].normal_())
            norm.running_mean.copy_(ours.running_mean[i].normal_())
            norm.running_var.copy_(ours.running_var[i].uniform_(0.5, 2))
    domain = torch.tensor(domains)
    for _ in range(n_steps):
        x = torch.randn(len(domains), n_features, requires_grad=True)
        y = x.detach().clone().requires_grad_()
        expected = torch.empty_like(y)
        for i, norm in enumerate(theirs):
            rows = domain == i
            norm.train(train and int(rows.sum()) > 1)
            if rows.any():
                expected = expected.masked_scatter(rows[:, None], norm(y[rows]))
        found = ours.train(train)(x, domain)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
        weights = torch.randn_like(found)
        (found * weights).sum().backward()
        (expected * weights).sum().backward()
        torch.testing.assert_close(x.grad, y.grad, atol=2e-4, rtol=1e-3)
    for i, norm in enumerate(theirs):
        torch.testing.assert_close(ours.running_mean[i], norm.running_mean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ours.running_var[i], norm.running_var, atol=1e-5, rtol=1e-4)


@examples(12)
@given(
    n_cells=st.integers(4, 30),
    n_genes=st.integers(2, 25),
    n_batches=st.integers(1, 2),
    scale_by=st.sampled_from(["batch", "global"]),
    seed=SEEDS,
)
def test_the_transform_keeps_cells_order_and_zeros(
    n_cells: int, n_genes: int, n_batches: int, scale_by: str, seed: int
) -> None:
    """Values are in [0, 1], and with the scale they give the normalized counts back."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.lognormal(0, 1, n_genes), (n_cells, n_genes)).astype(np.float32)
    counts[0, 0] = counts[1, 0] = 1  # no batch without a count
    batch = np.arange(n_cells) % n_batches
    adata = AnnData(
        sparse.csr_matrix(counts),
        obs=pd.DataFrame({"batch": batch.astype(str)}, index=[f"c{i}" for i in range(n_cells)]),
        var=pd.DataFrame(index=[f"g{i}" for i in range(n_genes)]),
    )
    made = sx.pp.rna(
        adata,
        batch_key="batch",
        min_features=0,
        min_cells=0,
        n_top_features=-1,
        dropped_prefixes=(),
        scale_by=scale_by,
    )
    assert list(made.obs_names) == list(adata.obs_names)
    assert list(made.var_names) == list(adata.var_names)
    values = dense(made)
    np.testing.assert_array_equal(values == 0, counts == 0)
    assert values.min() >= 0
    assert values.max() <= 1
    scale = sx.pp.Preprocessing.from_adata(made).scale[batch.astype(str)].to_numpy().T
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.testing.assert_allclose(np.expm1(values * scale) * total / 1e4, counts, rtol=1e-3, atol=1e-4)


@examples(4)
@given(order=st.permutations(range(40)), n_extra=st.integers(0, 5), seed=SEEDS)
def test_any_order_of_genes_is_the_same_query(order: list[int], n_extra: int, seed: int) -> None:
    """Bit for bit: genes are found by their names, and others add zeros to the totals here."""
    counts, _ = reference()
    query = counts[:30].copy()
    extra = AnnData(
        sparse.csr_matrix((30, n_extra), dtype=np.float32),
        obs=query.obs[[]],
        var=pd.DataFrame(index=[f"other{i}" for i in range(n_extra)]),
    )
    turned = query[:, order].copy()
    if n_extra:
        turned = ad.concat([turned, extra], axis="var", merge="first")
        shuffled = np.random.default_rng(seed).permutation(turned.n_vars)
        turned = turned[:, shuffled].copy()
    np.testing.assert_allclose(latent(turned), latent(query), atol=1e-6)


@examples(4)
@given(missing=st.sets(st.integers(0, 39), max_size=15), seed=SEEDS)
def test_absent_genes_are_as_marked_zeros(missing: set[int], seed: int) -> None:
    counts, _ = reference()
    query = counts[:30].copy()
    kept = np.random.default_rng(seed).permutation(sorted(set(range(40)) - missing))
    values = dense(query)
    values[:, sorted(missing)] = 0
    blank = query.copy()
    blank.X = sparse.csr_matrix(values)
    blank.var["scalex_measured"] = ~np.isin(np.arange(40), sorted(missing))
    np.testing.assert_allclose(latent(query[:, kept].copy()), latent(blank), atol=1e-5)


@examples(4)
@given(cuts=st.sets(st.integers(1, 39), max_size=6), order=SEEDS)
def test_splitting_a_query_changes_no_latent(cuts: set[int], order: int) -> None:
    """Of cells of known batches: each cell is placed by itself, to rounding."""
    counts, _ = reference()
    query = counts[np.random.default_rng(order).permutation(120)[:40]].copy()
    bounds = [0, *sorted(cuts), 40]
    parts = [latent(query[a:b]) for a, b in pairwise(bounds)]
    np.testing.assert_allclose(np.concatenate(parts), latent(query), atol=1e-6)


@examples(3)
@given(
    n_hidden=st.integers(2, 12),
    n_latent=st.integers(1, 4),
    n_genes=st.integers(5, 30),
    with_data=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_saving_and_loading_is_the_identity(
    n_hidden: int, n_latent: int, n_genes: int, with_data: bool, seed: int
) -> None:
    adata = simulate_counts(40, n_genes=n_genes, n_batches=2, seed=seed)
    sx.SCALEXModel.setup_anndata(adata, batch_key="batch")
    model = sx.SCALEXModel(adata, n_hidden=n_hidden, n_latent=n_latent, seed=seed)
    model.train(max_steps=1, seed=seed, **QUIET)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        model.save(path, save_anndata=with_data)
        again = sx.SCALEXModel.load(path, adata=None if with_data else adata.copy())
    before, after = model.module.state_dict(), again.module.state_dict()
    assert list(before) == list(after)
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert again.preprocessing == model.preprocessing
    pd.testing.assert_frame_equal(again.preprocessing.scale, model.preprocessing.scale)
    found, expected = again.get_latent_representation(), model.get_latent_representation()
    np.testing.assert_array_equal(found, expected)
