"""Correlations of mean representations."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from scipy import sparse

import scalex_scvi as sx


@pytest.fixture
def cells(counts: AnnData) -> AnnData:
    counts.obsm["latent"] = np.random.default_rng(0).normal(size=(counts.n_obs, 6))
    return counts


def expected(adata: AnnData, values: np.ndarray) -> pd.DataFrame:
    """The same by pandas, with (batch, type) rows and columns."""
    frame = pd.DataFrame(values).astype(float)
    keys = [adata.obs[key].astype(str).to_numpy() for key in ("batch", "celltype")]
    return frame.groupby(keys).mean().T.corr()


def values(figure: plt.Figure) -> np.ma.MaskedArray:
    axis = figure.axes[0]
    mesh = next(c for c in axis.collections if hasattr(c, "get_coordinates"))
    n_rows, n_columns, _ = mesh.get_coordinates().shape
    return np.ma.asarray(mesh.get_array()).reshape(n_rows - 1, n_columns - 1)


@pytest.mark.parametrize("use_rep", [None, "latent", "X", "counts"])
@pytest.mark.parametrize("as_matrix", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_meta_is_the_correlation_of_means(cells: AnnData, use_rep: str, as_matrix: type) -> None:
    dense = cells.X.toarray()
    cells.X = as_matrix(dense)
    cells.layers["counts"] = as_matrix(2 * dense)
    figure = sx.pl.meta(cells, use_rep=use_rep, mask=False, show=False)
    source = cells.obsm["latent"] if use_rep in (None, "latent") else dense
    np.testing.assert_allclose(values(figure), expected(cells, source), atol=1e-6)


def test_meta_without_latent_uses_expression(counts: AnnData) -> None:
    figure = sx.pl.meta(counts, mask=False, show=False)
    np.testing.assert_allclose(values(figure), expected(counts, counts.X.toarray()), atol=1e-6)


def test_meta_never_makes_sparse_expression_dense(
    counts: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense_shapes = []
    toarray = sparse.csr_matrix.toarray

    def watched(self: sparse.csr_matrix, *args: object, **kwargs: object) -> np.ndarray:
        dense_shapes.append(self.shape)
        return toarray(self, *args, **kwargs)

    monkeypatch.setattr(sparse.csr_matrix, "toarray", watched)
    sx.pl.meta(counts, show=False)
    assert dense_shapes == [(9, counts.n_vars)]


def test_meta_reads_backed_expression(counts: AnnData, tmp_path: object) -> None:
    import anndata as ad

    counts.write_h5ad(tmp_path / "counts.h5ad")
    backed = ad.read_h5ad(tmp_path / "counts.h5ad", backed="r")
    figure = sx.pl.meta(backed, mask=False, show=False)
    np.testing.assert_allclose(values(figure), expected(counts, counts.X.toarray()), atol=1e-6)
    backed.file.close()


def test_meta_masks_what_is_above_the_diagonal(cells: AnnData) -> None:
    shown = values(sx.pl.meta(cells, show=False))
    above = np.triu(np.ones((9, 9), dtype=bool), k=1)
    np.testing.assert_array_equal(np.ma.getmaskarray(shown), above)


def test_meta_names_types_in_the_color_of_their_batch(cells: AnnData) -> None:
    colors = {"batch0": "#880000", "batch1": "#008800", "batch2": "#000088"}
    for kwargs in ({"colors": colors}, {"colors": list(colors.values())}, {}):
        if not kwargs:
            cells.uns["batch_colors"] = list(colors.values())
        figure = sx.pl.meta(cells, show=False, fontsize=7, **kwargs)
        for labels in (figure.axes[0].get_xticklabels(), figure.axes[0].get_yticklabels()):
            assert [t.get_text() for t in labels] == ["type0", "type1", "type2"] * 3
            assert [to_hex(t.get_color()) for t in labels] == np.repeat(
                [*colors.values()], 3
            ).tolist()
            assert {t.get_fontsize() for t in labels} == {7}
        (legend,) = figure.legends
        assert [t.get_text() for t in legend.get_texts()] == list(colors)
        assert [to_hex(h.get_color()) for h in legend.legend_handles] == list(colors.values())


def test_meta_darkens_pale_letters_only(cells: AnnData) -> None:
    figure = sx.pl.meta(cells, colors=["#ffff00", "#000088", "#ffffff"], show=False)
    colors = [to_hex(t.get_color()) for t in figure.axes[0].get_xticklabels()]
    assert colors[0] not in ("#ffff00", "#000000")
    assert colors[3] == "#000088"
    assert to_hex(figure.legends[0].legend_handles[0].get_color()) == "#ffff00"


def test_meta_of_many_groups_names_the_batches() -> None:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "celltype": [f"t{i % 30:02d}" for i in range(1200)],
            "batch": [f"b{i // 60:02d}" for i in range(1200)],
        },
        index=[str(i) for i in range(1200)],
    )
    adata = AnnData(obs=obs, obsm={"latent": rng.normal(size=(1200, 5))})
    figure = sx.pl.meta(adata, show=False)
    figure.draw_without_rendering()
    labels = figure.axes[0].get_yticklabels()
    assert [t.get_text() for t in labels] == [f"b{i:02d}" for i in range(20)]
    boxes = [t.get_window_extent() for t in labels]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))
    assert values(figure).shape == (600, 600)


def test_meta_draws_in_given_axes_and_annotates(cells: AnnData) -> None:
    figure, axes = plt.subplots(1, 2)
    returned = sx.pl.meta(cells, ax=axes[1], annot=True, vmin=-1, vmax=0.5, cmap="Reds", show=False)
    assert returned is figure
    assert plt.fignum_exists(figure.number)
    assert not axes[0].collections
    assert len(axes[1].texts) == 45
    mesh = axes[1].collections[0]
    assert (mesh.get_clim(), mesh.get_cmap().name) == ((-1, 0.5), "Reds")
    plt.close(figure)


def test_pair_has_the_second_batch_in_rows(cells: AnnData) -> None:
    figure = sx.pl.meta_pair(cells, batches=["batch2", "batch0"], figsize=(5, 4), show=False)
    table = expected(cells, cells.obsm["latent"]).loc["batch0", "batch2"]
    np.testing.assert_allclose(values(figure), table)
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("batch2", "batch0")
    assert tuple(figure.get_size_inches()) == (5, 4)


def test_pair_leaves_missing_types_out_or_blank(cells: AnnData) -> None:
    obs = cells.obs
    cells = cells[((obs["batch"] != "batch1") | (obs["celltype"] != "type1")).to_numpy()].copy()
    pair = {"batches": ["batch0", "batch1"], "show": False}
    figure = sx.pl.meta_pair(cells, **pair)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["type0", "type2"]
    assert values(figure).shape == (2, 3)
    shown = values(sx.pl.meta_pair(cells, keep=True, **pair))
    mask = np.ma.getmaskarray(shown) | np.isnan(shown.filled(np.nan))
    np.testing.assert_array_equal(mask, np.array([[0, 0, 0], [1, 1, 1], [0, 0, 0]], dtype=bool))


def test_pair_colors_names_and_can_do_without_a_bar(cells: AnnData) -> None:
    pair = {"batches": ["batch0", "batch1"], "show": False}
    plain = sx.pl.meta_pair(cells, **pair)
    colored = sx.pl.meta_pair(cells, color_map={"type1": "#880000"}, cbar=False, **pair)
    assert (len(plain.axes), len(colored.axes)) == (2, 1)
    assert {to_hex(t.get_color()) for t in plain.axes[0].get_xticklabels()} == {"#000000"}
    assert to_hex(colored.axes[0].get_yticklabels()[1].get_color()) == "#880000"
    cells.uns["celltype_colors"] = ["#000088"] * 3
    stored = sx.pl.meta_pair(cells, **pair)
    assert {to_hex(t.get_color()) for t in stored.axes[0].get_xticklabels()} == {"#000088"}


@pytest.mark.parametrize(
    "batches", [None, ["batch0"], ["batch0", "batch9"], ["batch0", "batch0"], "batch0"], ids=str
)
def test_pair_needs_two_batches(cells: AnnData, batches: object) -> None:
    with pytest.raises(ValueError, match="two of the 3 .*'batch0', 'batch1', 'batch2'"):
        sx.pl.meta_pair(cells, batches=batches, show=False)


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"use_rep": "X_pca"}, KeyError, "'X_pca' is neither in adata.obsm"),
        ({"color": "donor"}, KeyError, "`color` 'donor' is not a column"),
        ({"batch": "donor"}, KeyError, "`batch` 'donor' is not a column"),
        ({"colors": ["red"]}, ValueError, "3 colors are needed for 'batch'"),
        ({"use_rep": "narrow"}, ValueError, "1 dimension"),
        ({"color": "partly"}, ValueError, "missing for 1 of 150 cells"),
        ({"use_rep": "gap"}, ValueError, "`use_rep` 'gap' holds values that are NaN"),
    ],
)
def test_mistakes(cells: AnnData, kwargs: dict, error: type[Exception], match: str) -> None:
    cells.obsm["narrow"] = np.ones((cells.n_obs, 1))
    cells.obsm["gap"] = np.where(np.arange(2 * cells.n_obs).reshape(-1, 2) == 7, np.nan, 1.0)
    cells.obs["partly"] = pd.Categorical([None, *cells.obs["celltype"][1:]])
    with pytest.raises(error, match=match):
        sx.pl.meta(cells, show=False, **kwargs)
