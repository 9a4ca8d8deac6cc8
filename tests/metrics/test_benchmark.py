"""The table of scib-metrics against plain computations of its scores."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.image import imread
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist
from sklearn.metrics import silhouette_score

import scalex_scvi as sx

AGGREGATES = ["Batch correction", "Bio conservation", "Total"]
# Those that need little compilation.
QUICK = {"metrics": ["silhouette_label", "graph_connectivity"]}

needs_scib = pytest.mark.skipif(
    find_spec("scib_metrics") is None,
    reason="needs the extra 'benchmark'",
)


def example(n_cells: int = 120) -> AnnData:
    """Three types, two batches; ``apart`` has a batch effect and ``mixed`` has none."""
    rng = np.random.default_rng(0)
    types, batches = np.arange(n_cells) % 3, np.arange(n_cells) // 3 % 2
    mixed = rng.normal(size=(n_cells, 4)) + 4 * np.eye(4)[types]
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical([f"batch{i}" for i in batches]),
            "celltype": [f"type{i}" for i in types],
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    apart = mixed + 9 * batches[:, None]
    return AnnData(obs=obs, obsm={"apart": apart, "mixed": mixed})


def plain_connectivity(points: np.ndarray, labels: np.ndarray) -> float:
    """Mean share of each label's largest component in the graph of 15 neighbors, self included."""
    distance = cdist(points, points)
    graph = np.zeros_like(distance)
    np.put_along_axis(graph, np.argsort(distance, axis=1)[:, :15], 1, axis=1)
    shares = []
    for label in np.unique(labels):
        own = labels == label
        _, components = connected_components(csr_matrix(graph[own][:, own]), connection="strong")
        shares.append(np.bincount(components).max() / own.sum())
    return float(np.mean(shares))


def plain_explained(points: np.ndarray, batches: np.ndarray) -> float:
    """Share of the variance that is between batches."""
    centered = points - points.mean(0)
    means = np.stack([centered[batches == b].mean(0) for b in batches])
    return float((means**2).sum() / (centered**2).sum())


@needs_scib
def test_scores_equal_plain_computations() -> None:
    adata = example()
    table = sx.metrics.benchmark(
        adata,
        ["mixed", "apart"],
        pre_integrated="apart",
        metrics=["silhouette_label", "graph_connectivity", "pcr_comparison"],
    )
    metrics = ["Silhouette label", "Graph connectivity", "PCR comparison"]
    assert list(table.index) == ["mixed", "apart"]
    assert list(table.columns) == [*metrics, *AGGREGATES]
    assert set(table.dtypes) == {np.dtype(float)}
    labels, batches = adata.obs["celltype"].to_numpy(), adata.obs["batch"].to_numpy()
    before = plain_explained(adata.obsm["apart"], batches)
    for key, row in table.iterrows():
        points = adata.obsm[key]
        expected = [
            (silhouette_score(points, labels) + 1) / 2,
            plain_connectivity(points, labels),
            (before - plain_explained(points, batches)) / before,
        ]
        assert row[metrics].to_list() == pytest.approx(expected, abs=1e-4)
        assert row["Bio conservation"] == row["Silhouette label"]
        batch = row[metrics[1:]].mean()
        total = 0.4 * batch + 0.6 * row["Bio conservation"]
        assert row[["Batch correction", "Total"]].to_list() == pytest.approx([batch, total])
    assert table.loc["mixed", "Batch correction"] > table.loc["apart", "Batch correction"] + 0.3


@needs_scib
def test_repeats_and_changes_nothing() -> None:
    adata = example()
    before = adata.copy()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    tables = [sx.metrics.benchmark(adata, ["apart", "mixed"], **QUICK) for _ in range(2)]
    pd.testing.assert_frame_equal(*tables, rtol=0, atol=1e-6)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert list(adata.obsm) == list(before.obsm)
    assert not adata.uns and not adata.obsp
    for key in adata.obsm:
        np.testing.assert_array_equal(adata.obsm[key], before.obsm[key])


@needs_scib
def test_one_kind_only_and_other_names_of_columns() -> None:
    adata = example()
    adata.obs = adata.obs.rename(columns={"batch": "donor", "celltype": "type"})
    adata.obs["type"] = adata.obs["type"].str[-1].astype(int)
    table = sx.metrics.benchmark(
        adata,
        "mixed",
        batch_key="donor",
        labels_key="type",
        metrics="silhouette_label",
    )
    assert list(table.columns) == ["Silhouette label", "Bio conservation"]


@needs_scib
def test_min_max_scaling_stretches_and_is_off() -> None:
    adata = example()
    adata.obsm["almost"] = adata.obsm["mixed"] * [1, 1, 1, 1.001]
    keys = ["almost", "mixed", "apart"]
    plain = sx.metrics.benchmark(adata, keys, **QUICK)
    scaled = sx.metrics.benchmark(adata, keys, min_max_scale=True, **QUICK)
    assert list(scaled.columns) == list(plain.columns) and list(scaled.index) == keys
    for name in ("Silhouette label", "Graph connectivity"):
        values = plain[name]
        expected = (values - values.min()) / ((values.max() - values.min()) or 1)
        assert scaled[name].to_list() == pytest.approx(expected.to_list(), abs=1e-4)
    assert plain["Silhouette label"].min() > 0 and plain["Silhouette label"].max() < 1
    total = 0.4 * scaled["Graph connectivity"] + 0.6 * scaled["Silhouette label"]
    assert scaled["Total"].to_list() == pytest.approx(total.to_list())


@needs_scib
def test_pre_integrated_is_the_uncorrected_pca_by_default(prepared: AnnData) -> None:
    prepared.obsm["uncorrected"] = sx.metrics.uncorrected_pca(prepared)
    options = {"metrics": ["pcr_comparison"]}
    named, default = (
        sx.metrics.benchmark(prepared, ["uncorrected"], pre_integrated=key, **options)
        for key in ("uncorrected", None)
    )
    assert named.loc["uncorrected", "PCR comparison"] == pytest.approx(0, abs=1e-6)
    pd.testing.assert_frame_equal(named, default, rtol=0, atol=1e-6)


@needs_scib
def test_picture(tmp_path: Path) -> None:
    path = tmp_path / "table.png"
    sx.metrics.benchmark(example(), ["apart", "mixed"], save=path, **QUICK)
    height, width, _ = imread(path).shape
    assert width > height > 200
    assert [p.name for p in tmp_path.iterdir()] == ["table.png"]


@needs_scib
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"keys": ["latent"]}, KeyError, "`keys` 'latent' is not in adata.obsm"),
        ({"keys": []}, ValueError, "give one embedding or more, each once"),
        ({"keys": ["mixed", "mixed"]}, ValueError, "give one embedding or more, each once"),
        ({"keys": "broken"}, ValueError, r"adata.obsm\['broken'\] has values that are NaN"),
        ({"batch_key": "donor"}, KeyError, "`batch_key` 'donor' is not a column"),
        ({"labels_key": "type"}, KeyError, "`labels_key` 'type' is not a column"),
        ({"batch_key": "same"}, ValueError, r"adata.obs\['same'\] has one value only"),
        ({"labels_key": "holes"}, ValueError, r"adata.obs\['holes'\] is missing for 60 of 120"),
        ({"metrics": ["asw"]}, ValueError, r"`metrics` has \['asw'\]; .*silhouette_label"),
        ({"metrics": []}, ValueError, r"`metrics` has \[\]; give one or more"),
        ({}, ValueError, "Give its key in adata.obsm as `pre_integrated`"),
        ({"pre_integrated": "X_pca"}, KeyError, "`pre_integrated` 'X_pca' is not in adata.obsm"),
        ({"save": "absent/table.png"}, ValueError, "its folder does not exist"),
        ({"save": "table.doc"}, ValueError, "'table.doc'; it must end in one of"),
        ({"save": "table"}, ValueError, "'table'; it must end in one of"),
    ],
)
def test_refuses(options: dict, error: type, message: str) -> None:
    adata = example()
    adata.obs["same"] = "one"
    adata.obs["holes"] = pd.Categorical(["a", None] * 60)
    adata.obsm["broken"] = np.full((120, 2), np.nan)
    with pytest.raises(error, match=message):
        sx.metrics.benchmark(adata, **({"keys": ["mixed"]} | options))


@needs_scib
def test_too_few_cells() -> None:
    with pytest.raises(ValueError, match="`adata` has 89 cells; scib-metrics needs at least 90"):
        sx.metrics.benchmark(example(89), "mixed", **QUICK)
    assert len(sx.metrics.benchmark(example(90), "mixed", **QUICK)) == 1


def test_without_scib_metrics_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scib_metrics.benchmark", None)
    monkeypatch.setitem(sys.modules, "scib_metrics", None)
    with pytest.raises(ImportError, match=r"'scib_metrics'.*scalex-scvi\[benchmark\]"):
        sx.metrics.benchmark(example(), "mixed")
