"""A name has one color in all pictures, whatever its place among the categories."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from conftest import simulate_counts

import scalex_scvi as sx
from scalex_scvi._core.columns import as_text, set_groups


def cells(celltype: list[str], colors: list[str] | None = None) -> AnnData:
    names = [f"cell{i}" for i in range(len(celltype))]
    adata = AnnData(obs=pd.DataFrame({"celltype": pd.Categorical(celltype)}, index=names))
    if colors is not None:
        adata.uns["celltype_colors"] = colors
    return adata


def colors(adata: AnnData, key: str = "celltype") -> dict[str, str]:
    names = adata.obs[key].cat.categories
    return dict(zip(names, adata.uns[f"{key}_colors"], strict=True))


def test_colors_of_the_user_are_kept() -> None:
    adata = cells(["a", "b"], ["red", "#00FF00"])
    sx.pl.store_colors(adata, "celltype")
    assert colors(adata) == {"a": "#ff0000", "b": "#00ff00"}


def test_a_query_with_some_labels_of_the_reference_keeps_their_colors() -> None:
    ref = cells(list("abcd"))
    sx.pl.store_colors(ref, "celltype")
    assert len(set(colors(ref).values())) == 4
    query = cells(["d", "b", "aa"])  # "aa" comes first
    sx.pl.store_colors(query, "celltype", like=[ref])
    assert {name: colors(query)[name] for name in "bd"} == {n: colors(ref)[n] for n in "bd"}
    assert colors(query)["aa"] not in colors(ref).values()


def test_what_the_cells_have_goes_before_what_others_have() -> None:
    first, second = cells(["a", "b"], ["#111111", "#222222"]), cells(["b", "c"], ["red", "#111111"])
    adata = cells(["a", "b", "c"])
    sx.pl.store_colors(adata, ["celltype"], like=[first, second])
    assert colors(adata) | {"c": ""} == {"a": "#111111", "b": "#222222", "c": ""}
    assert colors(adata)["c"] != "#111111"  # of another name


@pytest.mark.parametrize("column", ["celltype_transfer", "celltype_voted"])
@pytest.mark.parametrize("has_labels", [True, False])
def test_transferred_labels_have_the_colors_of_labels(column: str, has_labels: bool) -> None:
    ref = cells(list("abc"), ["#110000", "#220000", "#330000"])
    query = cells(list("xcx"))
    query.obs[column] = pd.Categorical(["c", "unknown", "b"])
    if not has_labels:
        del query.obs["celltype"]
    sx.pl.store_colors(query, column, like=[ref])
    assert colors(query, column) == {"b": "#220000", "c": "#330000", "unknown": "#808080"}


def test_unknown_is_gray_whatever_is_stored() -> None:
    adata = cells(["a", "unknown"], ["red", "blue"])
    adata.obsm["X_umap"] = np.eye(2)
    legend = sx.pl.umap(adata, "celltype", show=False).axes[0].get_legend()
    assert [handle.get_color() for handle in legend.legend_handles] == ["#ff0000", "#808080"]


@pytest.mark.parametrize("seed", range(3))
def test_a_picture_of_part_of_the_panels_has_the_same_colors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    adata = cells(list(rng.choice(list("abcdef"), 40)))
    adata.obs["celltype_transfer"] = pd.Categorical(rng.choice(["b", "e", "unknown"], 40))
    adata.obsm["X_umap"] = rng.normal(size=(40, 2))
    found = []
    for wanted in (["celltype_transfer"], ["celltype", "celltype_transfer"]):
        legend = sx.pl.umap(adata, wanted, show=False).axes[-1].get_legend()
        found.append([handle.get_color() for handle in legend.legend_handles])
    assert found[0] == found[1]


def test_colors_follow_the_names_when_categories_change() -> None:
    adata = cells(["b", "c", "c"])
    adata.obs["celltype"] = adata.obs["celltype"].cat.set_categories(["c", "a", "b"])
    adata.uns["celltype_colors"] = ["#cc0000", "#aa0000", "#bb0000"]
    set_groups(adata, "celltype", as_text(adata.obs["celltype"]))  # without the unused one
    assert colors(adata) == {"c": "#cc0000", "b": "#bb0000"}
    set_groups(adata, "celltype", as_text(["b", "b", "new"]))
    assert "celltype_colors" not in adata.uns


@pytest.mark.parametrize(("column", "numbered"), [("leiden", True), ("celltype", False)])
def test_clusters_have_their_numbers_at_the_median_of_their_cells(
    column: str, numbered: bool
) -> None:
    rng = np.random.default_rng(0)
    adata = cells(list(rng.choice(["0", "1", "12"], 60)))
    adata.obs["leiden"] = adata.obs["celltype"]
    adata.obs["projection"] = pd.Categorical(["reference", "query"] * 30)
    points = rng.normal(size=(60, 2))
    points[:3] = np.nan
    adata.obsm["X_umap"] = adata.obsm["X_umap_uncorrected"] = points
    expected = {
        name: np.nanmedian(points[adata.obs["leiden"] == name], axis=0)
        for name in (["0", "1", "12"] if numbered else [])
    }
    for plot in (sx.pl.umap, sx.pl.projection, sx.pl.before_after):
        for axis in plot(adata, column, show=False).axes:
            found = {text.get_text(): text.get_position() for text in axis.texts}
            assert found.keys() == expected.keys()
            for name, place in found.items():
                np.testing.assert_allclose(place, expected[name])


def source(colors: dict[str, str] | None, seed: int = 0) -> AnnData:
    """Counts with ten cells of each name, and the names' colors."""
    names = list(colors or {"alpha": "", "beta": ""})
    adata = simulate_counts(10 * len(names), 20, 1, seed)
    del adata.obs["batch"]
    adata.obs["celltype"] = pd.Categorical(names * 10, categories=names)
    if colors:
        adata.uns["celltype_colors"] = list(colors.values())
    return adata


JOINED = {
    "they agree": (
        [{"beta": "#00ff00", "alpha": "#ff0000"}, {"alpha": "#ff0000", "gamma": "#0000ff"}],
        {"alpha": "#ff0000", "beta": "#00ff00", "gamma": "#0000ff"},
        False,
    ),
    "one has none": ([None, {"alpha": "#ff0000"}], {"alpha": "#ff0000"}, False),
    "one name, two colors": (
        [{"alpha": "#ff0000"}, {"alpha": "#0000ff", "beta": "#00ff00"}],
        {"alpha": "#ff0000", "beta": "#00ff00"},
        True,
    ),
    "one color, two names": (
        [{"alpha": "#ff0000"}, {"beta": "#ff0000"}],
        {"alpha": "#ff0000"},
        True,
    ),
}


@pytest.mark.parametrize(("given", "kept", "warns"), JOINED.values(), ids=JOINED.keys())
@pytest.mark.parametrize("join", ["inner", "outer"])
def test_colors_of_several_sources_are_kept(
    caplog: pytest.LogCaptureFixture, given: list, kept: dict[str, str], warns: bool, join: str
) -> None:
    sources = [source(colors, seed) for seed, colors in enumerate(given)]
    adata = sx.io.concat(sources, ["a", "b"], join=join)
    names = adata.obs["celltype"].cat.categories
    found = dict(zip(names, adata.uns["celltype_colors"], strict=True))
    assert {name: found[name] for name in kept} == kept
    assert len(set(found.values())) == len(names)
    assert ("other colors for the same names of obs" in caplog.text) == warns


def test_colors_of_several_sources_are_those_of_the_run() -> None:
    sources = [source({"alpha": "#ff0000", "beta": "#00ff00"}), source({"alpha": "#ff0000"}, 1)]
    options = {"min_features": 0, "max_iteration": 2, "ignore_umap": True, "progress_bar": False}
    adata = sx.SCALEX(sources, ["a", "b"], **options)
    assert list(adata.uns["celltype_colors"]) == ["#ff0000", "#00ff00"]


def test_sources_without_colors_give_none() -> None:
    adata = sx.io.concat([source(None), source(None, 1)], ["a", "b"])
    assert not any(key.endswith("_colors") for key in adata.uns)
