"""Plots draw what is asked and leave nothing behind."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scalex_scvi as sx


@pytest.fixture
def embedded(counts: AnnData) -> AnnData:
    counts.obsm["X_umap"] = np.random.default_rng(0).normal(size=(counts.n_obs, 2))
    counts.obs["projection"] = pd.Categorical(["reference"] * 100 + ["query"] * 50)
    return counts


@pytest.mark.parametrize("plot", [sx.pl.umap, sx.pl.projection])
def test_one_panel_a_column_and_no_state_left(embedded: AnnData, plot: object) -> None:
    figure = plot(embedded, ["batch", "celltype"])
    assert len(figure.axes) == 2
    assert not embedded.uns
    assert [axis.get_xlabel() for axis in figure.axes] == ["UMAP 1"] * 2


def test_projection_draws_the_query_over_a_grey_reference(embedded: AnnData) -> None:
    figure = sx.pl.projection(embedded, "celltype")
    sizes = [len(c.get_offsets()) for c in figure.axes[0].collections if len(c.get_offsets())]
    assert sizes[:2] == [100, 50]


def test_one_name_has_one_colour_in_all_panels(embedded: AnnData) -> None:
    embedded.obs["celltype_transfer"] = embedded.obs["celltype"].cat.rename_categories(
        {"type0": "type9"}
    )
    figure = sx.pl.projection(embedded, ["celltype", "celltype_transfer"])
    colours = [
        {
            text.get_text(): tuple(np.ravel(handle.get_facecolor()))
            for text, handle in zip(
                axis.get_legend().get_texts(), axis.get_legend().legend_handles, strict=True
            )
        }
        for axis in figure.axes
    ]
    shared = set(colours[0]) & set(colours[1])
    assert shared == {"type1", "type2"}
    assert all(colours[0][name] == colours[1][name] for name in shared)


def test_missing_columns_and_bases(embedded: AnnData) -> None:
    with pytest.raises(KeyError, match="'donor' is not a column"):
        sx.pl.umap(embedded, "donor")
    with pytest.raises(KeyError, match="'X_tsne' is not in adata.obsm"):
        sx.pl.umap(embedded, "batch", basis="X_tsne")
