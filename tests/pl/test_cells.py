"""umap, projection and embedding draw the cells asked for, in the right colors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import scalex_scvi as sx

GRAY = "#dcdcdc"
RED_GREEN_BLUE = ["#ff0000", "#00ff00", "#0000ff"]


@pytest.fixture
def embedded(counts: AnnData) -> AnnData:
    counts.obsm["X_umap"] = np.random.default_rng(0).normal(size=(counts.n_obs, 2))
    counts.obs["projection"] = pd.Categorical(["reference"] * 100 + ["query"] * 50)
    return counts


def large() -> AnnData:
    """30 types, 20 batches."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "celltype": pd.Categorical([f"type {i % 30:02d}" for i in range(6000)]),
            "batch": pd.Categorical([f"donor {i:02d}" for i in rng.permutation(6000) % 20]),
        }
    )
    obs.index = obs.index.astype(str)
    return AnnData(obs=obs, obsm={"X_umap": rng.normal(size=(6000, 2))})


def drawn(axis: Axes) -> dict[str, set[tuple[float, float]]]:
    """Color of points → where they are."""
    points: dict[str, set[tuple[float, float]]] = {}
    for collection in axis.collections:
        offsets = np.asarray(collection.get_offsets())
        colors = np.broadcast_to(collection.get_facecolor(), (len(offsets), 4))
        for point, color in zip(offsets, colors, strict=True):
            points.setdefault(to_hex(color), set()).add(tuple(point))
    return points


def legend_colors(legend: object) -> dict[str, str]:
    texts, handles = legend.get_texts(), legend.legend_handles
    return {t.get_text(): to_hex(h.get_color()) for t, h in zip(texts, handles, strict=True)}


def places(adata: AnnData, chosen: pd.Series) -> set[tuple[float, float]]:
    return {tuple(point) for point in adata.obsm["X_umap"][chosen.to_numpy()]}


@pytest.mark.parametrize("plot", [sx.pl.umap, sx.pl.projection])
def test_one_panel_a_column(embedded: AnnData, plot: Callable) -> None:
    figure = plot(embedded, ["batch", "celltype"], show=False)
    assert [axis.get_xlabel() for axis in figure.axes] == ["UMAP 1"] * 2


@pytest.mark.parametrize("plot", [sx.pl.embedding, sx.pl.umap], ids=["embedding", "umap"])
def test_no_cells_are_not_drawn(embedded: AnnData, plot: Callable) -> None:
    with pytest.raises(ValueError, match="`adata` has no cells"):
        plot(embedded[:0].copy(), "batch")


def test_umap_takes_colors_from_uns(embedded: AnnData) -> None:
    embedded.uns["celltype_colors"] = RED_GREEN_BLUE
    (axis,) = sx.pl.umap(embedded, "celltype", show=False).axes
    types = embedded.obs["celltype"]
    for name, color in zip(types.cat.categories, RED_GREEN_BLUE, strict=True):
        assert drawn(axis)[color] == places(embedded, types == name)
        assert legend_colors(axis.get_legend())[name] == color


@pytest.mark.parametrize("stored", [["#ff0000"], ["red", "no color", "blue"]], ids=str)
def test_unusable_colors_in_uns_are_passed_over(embedded: AnnData, stored: list[str]) -> None:
    embedded.uns["celltype_colors"] = stored
    (axis,) = sx.pl.umap(embedded, "celltype", show=False).axes
    assert len(set(legend_colors(axis.get_legend()).values())) == 3
    assert "#ff0000" not in drawn(axis)


def test_cells_without_a_category_are_gray_and_named(embedded: AnnData) -> None:
    types = embedded.obs["celltype"]
    embedded.obs["known"] = types.where(types != "type0")
    (axis,) = sx.pl.umap(embedded, "known", show=False).axes
    assert drawn(axis)[GRAY] == places(embedded, types == "type0")
    assert legend_colors(axis.get_legend())["NA"] == GRAY


def test_thirty_categories_have_thirty_colors_unlike_the_background() -> None:
    colors = legend_colors(sx.pl.umap(large(), "celltype", show=False).axes[0].get_legend())
    assert len(set(colors.values())) == 30
    assert GRAY not in colors.values()


def test_legends_do_not_overlap_panels() -> None:
    figure = sx.pl.umap(large(), ["batch", "celltype"], show=False)
    figure.draw_without_rendering()
    boxes = [axis.get_window_extent() for axis in figure.axes]
    legends = [axis.get_legend().get_window_extent() for axis in figure.axes]
    assert not any(box.overlaps(legend) for box in boxes for legend in legends)
    assert all(legend.y0 >= 0 and legend.y1 <= figure.bbox.height for legend in legends)
    assert all(legend.x1 <= figure.bbox.width for legend in legends)


@pytest.mark.parametrize("draw", [sx.pl.umap, sx.pl.projection, sx.pl.before_after])
def test_a_long_name_in_one_legend_does_not_stretch_the_maps(
    embedded: AnnData, draw: Callable[..., Figure]
) -> None:
    long = "effector memory CD8-positive, alpha-beta T cell, terminally differentiated"
    embedded.obs["celltype"] = embedded.obs["celltype"].cat.rename_categories({"type0": long})
    embedded.obsm["X_umap_uncorrected"] = embedded.obsm["X_umap"]
    figure = draw(embedded, ["batch", "celltype"], show=False)
    figure.draw_without_rendering()
    for axis in figure.axes:
        box = axis.get_window_extent()
        assert 0.7 < box.width / box.height < 1.4


def test_projection_draws_the_query_over_a_reference_in_pale_colors(embedded: AnnData) -> None:
    embedded.uns["celltype_colors"] = RED_GREEN_BLUE
    (axis,) = sx.pl.projection(embedded, "celltype", show=False).axes
    points, types = drawn(axis), embedded.obs["celltype"]
    is_query = embedded.obs["projection"] == "query"
    pale = ["#ff9999", "#99ff99", "#9999ff"]
    for name, color, faint in zip(types.cat.categories, RED_GREEN_BLUE, pale, strict=True):
        assert points[color] == places(embedded, is_query & (types == name))
        assert points[faint] == places(embedded, ~is_query & (types == name))
    assert set(legend_colors(axis.get_legend()).values()) == set(RED_GREEN_BLUE)


def test_projection_draws_a_reference_without_labels_in_gray(embedded: AnnData) -> None:
    is_query = embedded.obs["projection"] == "query"
    types = embedded.obs["celltype"].cat.add_categories("unknown")
    embedded.obs["transferred"] = types.mask(types == "type0", "unknown").where(is_query)
    (axis,) = sx.pl.projection(embedded, "transferred", show=False).axes
    points = drawn(axis)
    assert points[GRAY] == places(embedded, ~is_query)
    assert points["#808080"] == places(embedded, is_query & (types == "type0"))
    legend = legend_colors(axis.get_legend())
    assert set(legend) == {"type1", "type2", "unknown"}
    assert legend["unknown"] == "#808080"


def test_transferred_labels_lie_over_those_they_were_transferred_from(embedded: AnnData) -> None:
    embedded.uns["celltype_colors"] = embedded.uns["celltype_transfer_colors"] = RED_GREEN_BLUE
    is_query, types = embedded.obs["projection"] == "query", embedded.obs["celltype"]
    embedded.obs["celltype_transfer"] = types.where(is_query)
    (axis,) = sx.pl.projection(embedded, "celltype_transfer", show=False).axes
    points = drawn(axis)
    assert points["#ff9999"] == places(embedded, ~is_query & (types == "type0"))
    areas = [area for c in axis.collections for area in c.get_sizes()]
    assert max(areas) >= 2.9 * min(areas)


def test_the_legend_names_what_the_reference_alone_has_in_its_pale_color(embedded: AnnData) -> None:
    embedded.uns["celltype_colors"] = RED_GREEN_BLUE
    is_query, types = embedded.obs["projection"] == "query", embedded.obs["celltype"]
    given = types.astype(str).where(types != "type1", "type0").where(is_query)
    embedded.obs["celltype_transfer"] = given.astype("category")
    (axis,) = sx.pl.projection(embedded, "celltype_transfer", show=False).axes
    legend = legend_colors(axis.get_legend())
    assert legend == {"type0": "#ff0000", "type2": "#0000ff", "type1": "#99ff99"}
    assert list(legend) == ["type0", "type2", "type1"]


def test_before_and_after_draw_the_cells_of_both_maps(embedded: AnnData) -> None:
    embedded.uns["celltype_colors"] = RED_GREEN_BLUE
    before = embedded.obsm["X_umap"][:, ::-1].copy()
    before[:30] = np.nan
    embedded.obsm["X_umap_uncorrected"] = before
    figure = sx.pl.before_after(embedded, ["batch", "celltype"], show=False)
    assert [axis.get_title() for axis in figure.axes] == [
        f"{when} integration: {name}"
        for when in ("before", "after")
        for name in ("batch", "celltype")
    ]
    on_both = pd.Series(np.arange(150) >= 30, index=embedded.obs_names)
    assert drawn(figure.axes[3])["#ff0000"] == places(
        embedded, on_both & (embedded.obs["celltype"] == "type0")
    )
    above = {(y, x) for x, y in drawn(figure.axes[1])["#ff0000"]}
    assert above == drawn(figure.axes[3])["#ff0000"]


def test_one_name_has_one_color_in_all_panels(embedded: AnnData) -> None:
    embedded.obs["celltype_transfer"] = embedded.obs["celltype"].cat.rename_categories(
        {"type0": "type9"}
    )
    figure = sx.pl.projection(embedded, ["celltype", "celltype_transfer"], show=False)
    first, second = (legend_colors(axis.get_legend()) for axis in figure.axes)
    assert {name for name in first if first[name] == second.get(name)} == {"type1", "type2"}
    assert len(set(second.values())) == 4  # type0 is in the reference alone


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (["reference"] * 150, "No cell is 'query'"),
        (["ref"] * 100 + ["query"] * 50, "must be 'reference' or 'query'"),
        ([None] * 100 + ["query"] * 50, "must be 'reference' or 'query'"),
    ],
)
def test_projection_needs_a_query(embedded: AnnData, values: list, match: str) -> None:
    embedded.obs["projection"] = pd.Categorical(values)
    with pytest.raises(ValueError, match=match):
        sx.pl.projection(embedded, "celltype", show=False)


def test_embedding_has_one_panel_a_group_with_the_others_in_gray(embedded: AnnData) -> None:
    embedded.uns["celltype_colors"] = RED_GREEN_BLUE
    figure = sx.pl.embedding(embedded, show=False)
    batch, types = embedded.obs["batch"], embedded.obs["celltype"]
    assert [axis.get_title() for axis in figure.axes] == list(batch.cat.categories)
    for axis, group in zip(figure.axes, batch.cat.categories, strict=True):
        points = drawn(axis)
        assert points[GRAY] == places(embedded, batch != group)
        for name, color in zip(types.cat.categories, RED_GREEN_BLUE, strict=True):
            assert points[color] == places(embedded, (batch == group) & (types == name))
    assert len(figure.legends) == 1


def test_embedding_of_chosen_groups_and_a_second_condition(embedded: AnnData) -> None:
    figure = sx.pl.embedding(
        embedded, groups=["batch2", "batch0"], cond2="projection", v2="query", sep="/", show=False
    )
    assert [axis.get_title() for axis in figure.axes] == ["query/batch2", "query/batch0"]
    chosen = (embedded.obs["projection"] == "query") & (embedded.obs["batch"] == "batch2")
    assert drawn(figure.axes[0])[GRAY] == places(embedded, ~chosen)


def test_embedding_colors_those_of_the_map_only(embedded: AnnData) -> None:
    figure = sx.pl.embedding(embedded, color_map={"type1": "#ff0000"}, groups="batch0", show=False)
    types, batch = embedded.obs["celltype"], embedded.obs["batch"]
    points = drawn(figure.axes[0])
    assert points["#ff0000"] == places(embedded, (types == "type1") & (batch == "batch0"))
    assert points["#808080"] == places(embedded, (types != "type1") & (batch == "batch0"))


@pytest.mark.parametrize(
    ("loc", "n_shared", "n_own", "names"),
    [
        ("right margin", 1, 0, 0),
        ("on data", 0, 0, 3),
        ("upper left", 0, 3, 0),
        ("none", 0, 0, 0),
        (None, 0, 0, 0),
    ],
)
def test_places_of_the_legend(
    embedded: AnnData, loc: str | None, n_shared: int, n_own: int, names: int
) -> None:
    figure = sx.pl.embedding(embedded, legend_loc=loc, legend_fontsize=6, show=False)
    assert len(figure.legends) == n_shared
    assert sum(axis.get_legend() is not None for axis in figure.axes) == n_own
    texts = figure.axes[0].texts
    assert len(texts) == names
    assert all((t.get_fontsize(), t.get_fontweight()) == (6, "bold") for t in texts)


def test_embedding_of_twenty_batches_is_a_grid_with_one_legend() -> None:
    figure = sx.pl.embedding(large(), show=False)
    figure.draw_without_rendering()
    panels = [axis for axis in figure.axes if axis.get_title()]
    assert len(panels) == 20
    assert len({round(axis.get_position().x0, 2) for axis in panels}) == 5
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 30
    boxes = [axis.get_window_extent() for axis in panels]
    assert not any(box.overlaps(legend.get_window_extent()) for box in boxes)
    assert figure.bbox.height > legend.get_window_extent().height


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"color": "donor"}, KeyError, "`color` 'donor' is not a column"),
        ({"color": ["batch", "donor"]}, TypeError, "`color` is .* one column"),
        ({"groupby": "donor"}, KeyError, "`groupby` 'donor' is not a column"),
        ({"basis": "X_tsne"}, KeyError, r"'X_tsne' is not in adata.obsm: .*tl\.embed\."),
        ({"groups": ["batch9"]}, ValueError, "`groups` must be in .*'batch0'"),
        ({"cond2": "projection"}, ValueError, "go together"),
        ({"cond2": "projection", "v2": "both"}, ValueError, "`v2` must be in"),
        ({"legend_loc": "left margin"}, ValueError, "`legend_loc` must be None or one of"),
        ({"color_map": ["red"]}, ValueError, "3 colors are needed for 'celltype'"),
        ({"color": "score"}, ValueError, r"'score' holds .* groups: `adata.obs\['score'\] ="),
    ],
)
def test_mistakes_in_embedding(
    embedded: AnnData, kwargs: dict, error: type[Exception], match: str
) -> None:
    embedded.obs["score"] = 0.5
    with pytest.raises(error, match=match):
        sx.pl.embedding(embedded, show=False, **kwargs)


def test_a_query_alone_is_told_how_it_is_drawn(embedded: AnnData) -> None:
    del embedded.obs["projection"]
    embedded.obs["_scvi_batch"] = 0  # of a registration, and nobody's choice
    with pytest.raises(KeyError, match="puts both together. `scalex_scvi.pl.umap` draws") as error:
        sx.pl.projection(embedded, "celltype", show=False)
    assert "_scvi_batch" not in str(error.value)


def test_missing_columns_and_bases(embedded: AnnData) -> None:
    with pytest.raises(KeyError, match="'donor' is not a column"):
        sx.pl.umap(embedded, "donor", show=False)
    with pytest.raises(
        ValueError, match="`color` must name one column of adata.obs or more, got N"
    ):
        sx.pl.umap(embedded, None, show=False)
    with pytest.raises(KeyError, match="'X_tsne' is not in adata.obsm"):
        sx.pl.umap(embedded, "batch", basis="X_tsne", show=False)


def test_many_points_are_rasterized() -> None:
    (axis,) = sx.pl.umap(large(), "celltype", show=False).axes
    assert all(c.get_rasterized() for c in axis.collections if len(c.get_offsets()) > 5000)
