"""`SCALEX()`, the one call, with the parameters of the published documentation."""

from __future__ import annotations

import inspect
import logging
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
from anndata import AnnData
from conftest import QUIET, simulate_counts

import scalex_scvi as sx

pytestmark = pytest.mark.usefixtures("narrow")

# The published documentation, section 4.1.1.
DOCUMENTED = {
    "data_list": None,
    "batch_categories": None,
    "profile": "RNA",
    "batch_name": "batch",
    "min_features": 600,
    "min_cells": 3,
    "target_sum": None,
    "n_top_features": None,
    "join": "inner",
    "batch_key": "batch",
    "processed": False,
    "fraction": None,
    "n_obs": None,
    "use_layer": "X",
    "backed": False,
    "batch_size": 64,
    "lr": 0.0002,
    "max_iteration": 30000,
    "seed": 124,
    "gpu": 0,
    "outdir": None,
    "projection": None,
    "repeat": False,
    "impute": None,
    "chunk_size": 20000,
    "ignore_umap": False,
    "verbose": False,
    "assess": False,
    "show": True,
    "eval": False,
    "num_workers": 4,
}

# `None` there means the same number, but lets each profile have its own; the recipe of training is
# shorter (docs/quality.md), and the documented one an argument away. `verbose=None` is `False`, but
# for the progress of the training.
OWN_DEFAULTS = {
    "min_features",
    "min_cells",
    "seed",
    "batch_size",
    "lr",
    "max_iteration",
    "verbose",
}

FAST = {
    "min_features": 0,
    "max_iteration": 8,
    "lr": 2e-3,
    "ignore_umap": True,
    "progress_bar": False,
}


def batches(n: int = 2) -> list[AnnData]:
    """Counts without a batch column."""
    adatas = [simulate_counts(70, n_batches=1, seed=i) for i in range(n)]
    for i, adata in enumerate(adatas):
        del adata.obs["batch"]
        adata.obs_names = [f"cell{j}-{i}" for j in range(adata.n_obs)]
    return adatas


def test_has_every_documented_parameter_in_order() -> None:
    parameters = inspect.signature(sx.SCALEX).parameters
    positional = [p for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [p.name for p in positional] == list(DOCUMENTED)
    for p in positional:
        if p.name not in OWN_DEFAULTS:
            assert p.default == DOCUMENTED[p.name], p.name


def test_several_inputs_are_batches_numbered_from_zero() -> None:
    adata = sx.SCALEX(batches(3), **FAST)
    assert adata.obs["batch"].value_counts().to_dict() == {"0": 70, "1": 70, "2": 70}
    assert adata.obsm["latent"].shape == (210, 10)


def test_inputs_are_named_by_batch_categories() -> None:
    adata = sx.SCALEX(batches(), ["RNA", "ATAC"], **FAST)
    assert list(adata.obs["batch"].cat.categories) == ["RNA", "ATAC"]


def test_the_user_s_data_stay_as_they_are(counts: AnnData) -> None:
    before = counts.copy()
    sx.SCALEX(counts, assess=True, impute=True, **FAST)
    assert counts.obs.equals(before.obs)
    assert set(counts.uns) == set(before.uns)
    assert set(counts.obsm) == set(before.obsm)
    assert (counts.X != before.X).nnz == 0


def test_results_of_more_cells_than_a_map_is_made_of(
    counts: AnnData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("scalex_scvi._results.embed", partial(sx.tl.embed, max_cells=60))
    options = FAST | {"ignore_umap": False, "outdir": tmp_path / "out", "show": False}
    adata = sx.SCALEX(counts, **options)
    assert "60 cells at random, of 150" in caplog.text
    assert "could not be written" not in caplog.text
    assert np.isfinite(adata.obsm["X_umap"]).all()
    assert adata.obs["leiden"].notna().all()
    assert not adata.obsp
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"umap.png", "report.html", "adata.h5ad"} <= made


def test_returns_what_the_documentation_shows(counts: AnnData, tmp_path: Path) -> None:
    options = FAST | {"ignore_umap": False, "n_top_features": 40}
    adata = sx.SCALEX(counts, outdir=tmp_path / "out", show=False, **options)
    assert {"batch", "celltype", "n_genes", "leiden"} <= set(adata.obs)
    assert {"n_cells", "highly_variable", "means", "dispersions"} <= set(adata.var)
    assert {"latent", "X_umap"} <= set(adata.obsm)
    assert {"neighbors", "umap", "leiden"} <= set(adata.uns)
    assert {"distances", "connectivities"} <= set(adata.obsp)
    assert adata.shape == (150, 40)
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert made == {
        "checkpoint",
        "adata.h5ad",
        "umap.pdf",
        "umap.png",
        "report.html",
        "log.txt",
        "scalex_run.json",
    }


def test_projection_joins_the_reference_unless_repeat(counts: AnnData, tmp_path: Path) -> None:
    sx.SCALEX(counts, outdir=tmp_path / "ref", **FAST)
    query = simulate_counts(50, n_batches=1, seed=3)
    query.obs["batch"] = "new"
    both = sx.SCALEX(query, projection=tmp_path / "ref", **FAST)
    alone = sx.SCALEX(query, projection=tmp_path / "ref", repeat=True, **FAST)
    assert both.obs["projection"].value_counts().to_dict() == {"reference": 150, "query": 50}
    assert set(alone.obs["projection"]) == {"query"}
    is_query = (both.obs["projection"] == "query").to_numpy()
    np.testing.assert_array_equal(both.obsm["latent"][is_query], alone.obsm["latent"])


def test_a_query_that_lacks_genes_says_nothing_of_the_reference(
    counts: AnnData, tmp_path: Path
) -> None:
    sx.SCALEX(counts, outdir=tmp_path / "ref", **FAST)
    query = simulate_counts(50, n_batches=1, seed=3)[:, ::2].copy()
    query.obs["batch"] = "new"
    both = sx.SCALEX(query, projection=tmp_path / "ref", **FAST)
    assert "scalex_measured" not in both.var
    assert list(both.var["scalex_measured_in_query"]) == list(both.var_names.isin(query.var_names))
    known = both[both.obs["projection"] == "reference"].copy()
    model = sx.SCALEXModel.load(tmp_path / "ref" / "checkpoint", adata=False)
    again = model.get_latent_representation(known)
    np.testing.assert_allclose(again, known.obsm["latent"], atol=1e-5)


def test_projected_cells_of_the_reference_come_out_where_they_are(
    counts: AnnData, tmp_path: Path
) -> None:
    ref = sx.SCALEX(counts, outdir=tmp_path / "ref", **FAST)
    again = sx.SCALEX(counts[:40], projection=tmp_path / "ref", repeat=True, **FAST)
    np.testing.assert_allclose(again.obsm["latent"], ref.obsm["latent"][:40], atol=1e-6)


def test_a_query_without_batches_is_one_new_batch(
    counts: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sx.SCALEX(counts, outdir=tmp_path / "ref", **FAST)
    (query,) = batches(1)
    adata = sx.SCALEX(query, projection=tmp_path / "ref", repeat=True, **FAST)
    assert set(adata.obs["batch"]) == {"query"}
    assert "its cells are one batch" in caplog.text


def test_a_column_of_batches_that_is_named_must_be_there(counts: AnnData, tmp_path: Path) -> None:
    sx.SCALEX(counts, outdir=tmp_path / "ref", **FAST)
    with pytest.raises(KeyError, match=r"`batch_name` 'donr': there is no column"):
        sx.SCALEX(counts[:40], projection=tmp_path / "ref", batch_name="donr", **FAST)


def test_a_reference_without_batches_is_refused() -> None:
    with pytest.raises(KeyError, match="there is no column"):
        sx.SCALEX(batches(1), **FAST)


@pytest.mark.parametrize(
    ("impute", "decoder"), [(True, "batch0"), ("batch2", "batch2")], ids=["first", "named"]
)
def test_impute_is_decoded_by_one_batch(
    counts: AnnData, tmp_path: Path, impute: bool | str, decoder: str
) -> None:
    adata = sx.SCALEX(counts, outdir=tmp_path / "out", impute=impute, **FAST)
    model = sx.SCALEXModel.load(tmp_path / "out" / "checkpoint", adata.copy())
    expected = model.get_imputed_expression(transform_batch=decoder, return_numpy=True)
    np.testing.assert_allclose(adata.layers["impute"], expected, atol=1e-6)


def test_a_projection_is_imputed_with_its_reference(
    counts: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = sx.SCALEX(counts, outdir=tmp_path / "ref", impute=True, **FAST)
    query = simulate_counts(50, n_batches=1, seed=3)
    query.obs["batch"] = "new"
    both, alone = (
        sx.SCALEX(query, projection=tmp_path / "ref", impute="batch0", repeat=repeat, **FAST)
        for repeat in (False, True)
    )
    is_query = (both.obs["projection"] == "query").to_numpy()
    imputed = both.layers["impute"]
    np.testing.assert_allclose(imputed[~is_query], ref.layers["impute"], atol=1e-6)
    np.testing.assert_allclose(imputed[is_query], alone.layers["impute"], atol=1e-6)
    monkeypatch.setattr("scalex_scvi.workflow.load_counts", lambda *a, **k: 1 / 0)  # not read
    for batch in ("batch7", "new"):
        with pytest.raises(ValueError, match=f"{batch!r} is not a batch of the reference"):
            sx.SCALEX(query, projection=tmp_path / "ref", impute=batch, **FAST)


def test_a_projection_that_lacks_genes_is_imputed_by_itself(
    counts: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ref = sx.SCALEX(counts, outdir=tmp_path / "ref", impute=True, **FAST)
    query = simulate_counts(50, n_batches=1, seed=3)[:, ::2].copy()
    query.obs["batch"] = "new"
    both, alone = (
        sx.SCALEX(query, projection=tmp_path / "ref", impute="batch0", repeat=repeat, **FAST)
        for repeat in (False, True)
    )
    is_query = (both.obs["projection"] == "query").to_numpy()
    np.testing.assert_allclose(both.layers["impute"][~is_query], ref.layers["impute"], atol=1e-6)
    np.testing.assert_allclose(both.layers["impute"][is_query], alone.layers["impute"], atol=1e-6)
    caplog.clear()
    model = sx.SCALEXModel.load(tmp_path / "ref" / "checkpoint", adata=False)
    model.get_latent_representation(both)  # one cannot tell here whose zeros are whose
    assert "The query's cells among these lack" in caplog.text


def test_assess_adds_scores(counts: AnnData) -> None:
    adata = sx.SCALEX(counts, assess=True, **FAST)
    assert 0 <= adata.uns["batch_entropy_mixing_score"] <= 1
    assert -1 <= adata.uns["silhouette_score"] <= 1


def test_batch_name_combines_columns(counts: AnnData) -> None:
    counts.obs["lane"] = np.where(np.arange(150) < 75, "a", "b")
    adata = sx.SCALEX(counts, batch_name="batch,lane", **FAST)
    assert sorted(adata.obs["batch,lane"].unique()) == sorted(
        f"batch{i}_{lane}" for i in range(3) for lane in "ab"
    )
    assert list(adata.obs["batch"]) == list(counts.obs["batch"])  # the user's own, kept
    assert set(counts.obs["batch"]) == {"batch0", "batch1", "batch2"}


def test_batch_key_keeps_the_batches_of_the_inputs(counts: AnnData) -> None:
    halves = [counts[:70].copy(), counts[70:].copy()]
    adata = sx.SCALEX(halves, ["first", "second"], batch_key="half", **FAST)
    assert set(adata.obs["half"]) == {"first", "second"}
    assert set(adata.obs["batch"]) == {"batch0", "batch1", "batch2"}


@pytest.mark.parametrize("draw", [{"fraction": 0.6}, {"n_obs": 90}], ids=["fraction", "n_obs"])
def test_draws_cells_at_random_but_repeatably(counts: AnnData, draw: dict) -> None:
    first, second = (sx.SCALEX(counts, **draw, **FAST) for _ in range(2))
    assert first.n_obs == 90
    assert list(first.obs_names) == list(second.obs_names)
    assert list(first.obs_names) == [n for n in counts.obs_names if n in set(first.obs_names)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fraction": 1.5}, r"must be in \(0, 1\]"),
        ({"fraction": 0.001}, "`fraction` 0.001 of 150 cells is none"),
        ({"n_obs": 1000}, "at most the number of cells, 150, got 1000"),
        ({"n_obs": 10.5}, "`n_obs` must be a whole number"),
        ({"n_obs": 10, "fraction": 0.5}, "not both"),
        ({"use_layer": "counts"}, "must be 'X', 'raw', a layer"),
        ({"batch_name": "donor"}, "there is no column"),
        ({"profile": "DNA"}, "unknown; allowed are"),
        ({"projection": "nowhere"}, "no folder 'nowhere'"),
        ({"n_top_features": "no_file.txt"}, "no_file.txt"),
        ({"join": "left"}, "'inner'"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else "",
)
def test_mistakes_are_explained(counts: AnnData, wrong: dict, message: str) -> None:
    with pytest.raises((KeyError, ValueError, FileNotFoundError), match=message):
        sx.SCALEX(counts, **(FAST | wrong))


def test_no_data_is_refused() -> None:
    with pytest.raises(TypeError, match="`data_list` is None"):
        sx.SCALEX()


@pytest.mark.parametrize("kind", ["layer", "obsm"])
def test_use_layer(counts: AnnData, kind: str) -> None:
    expected = sx.SCALEX(counts, **FAST)
    moved = counts.copy()
    if kind == "layer":
        moved.layers["counts"] = moved.X.copy()
    else:
        moved.obsm["counts"] = pd.DataFrame(
            moved.X.toarray(), index=moved.obs_names, columns=moved.var_names
        )
    moved.X = moved.X * 0
    adata = sx.SCALEX(moved, use_layer="counts", **FAST)
    assert list(adata.var_names) == list(expected.var_names)
    np.testing.assert_array_equal(adata.obsm["latent"], expected.obsm["latent"])


def test_processed_values_are_only_scaled(counts: AnnData) -> None:
    values = counts.copy()
    values.X = values.X.log1p()
    adata = sx.SCALEX(values, processed=True, **FAST)
    batch = (values.obs["batch"] == "batch1").to_numpy()
    maxima = values.X[batch].max(axis=0).toarray()
    expected = values.X[batch].toarray() / np.where(maxima > 0, maxima, 1)
    np.testing.assert_allclose(adata.X[batch].toarray(), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="does not look like counts"):
        sx.SCALEX(values, **FAST)


def test_a_backed_file_gives_the_same(counts: AnnData, tmp_path: Path) -> None:
    counts.write_h5ad(tmp_path / "counts.h5ad")
    backed, in_memory = (
        sx.SCALEX(tmp_path / "counts.h5ad", backed=backed, **FAST) for backed in (True, False)
    )
    np.testing.assert_array_equal(backed.obsm["latent"], in_memory.obsm["latent"])


def test_eval_means_running_statistics(counts: AnnData) -> None:
    default, running, batch = (
        sx.SCALEX(counts, **FAST, **options).obsm["latent"]
        for options in ({}, {"eval": True, "batch_stats": "batch"}, {"batch_stats": "batch"})
    )
    np.testing.assert_array_equal(default, running)
    assert np.abs(default - batch).max() > 1e-3


@pytest.mark.parametrize("told", ["our logger", "scvi-tools"])
def test_a_higher_level_of_the_user_stays(
    counts: AnnData, capsys: pytest.CaptureFixture, told: str
) -> None:
    model = sx.integrate(counts, "batch", max_epochs=2, **QUIET)
    assert "Processed data" in capsys.readouterr().err
    logger = logging.getLogger("scalex_scvi" if told == "our logger" else "scvi")
    before = logger.level
    try:
        if told == "our logger":
            logger.setLevel(logging.ERROR)
        else:
            scvi.settings.verbosity = logging.ERROR
        sx.map_query(counts.copy(), model)
        assert "".join(capsys.readouterr()) == ""
        assert logger.level == logging.ERROR
    finally:
        logger.setLevel(before)


def test_verbose_prints_the_messages(counts: AnnData, capsys: pytest.CaptureFixture) -> None:
    sx.SCALEX(counts, **FAST)
    assert "Processed data" not in capsys.readouterr().err
    sx.SCALEX(counts, verbose=True, **FAST)
    assert "Processed data" in capsys.readouterr().err


def test_the_progress_is_shown_unless_nothing_is_wanted(
    counts: AnnData, capsys: pytest.CaptureFixture
) -> None:
    fast = {name: value for name, value in FAST.items() if name not in ("verbose", "progress_bar")}
    sx.SCALEX(counts, **fast)
    assert "Epoch" in "".join(capsys.readouterr())
    sx.SCALEX(counts, verbose=False, **fast)
    assert "".join(capsys.readouterr()) == ""


def test_genes_of_any_source_by_outer_join() -> None:
    first, second = batches()
    inner, outer = (
        sx.SCALEX([first[:, :50].copy(), second[:, 10:].copy()], join=join, **FAST)
        for join in ("inner", "outer")
    )
    assert (inner.n_vars, outer.n_vars) == (40, 60)


def test_same_latent_as_the_scvi_tools_way(counts: AnnData, tmp_path: Path) -> None:
    adata = sx.pp.rna(counts, batch_key="batch", min_features=0)
    sx.SCALEXModel.setup_anndata(adata, batch_key="batch")
    model = sx.SCALEXModel(adata)
    model.train(max_steps=8, lr=2e-3, **QUIET)
    one_call = sx.SCALEX(counts, outdir=tmp_path / "out", **FAST)
    np.testing.assert_array_equal(one_call.obsm["latent"], model.get_latent_representation())
    written = ad.read_h5ad(tmp_path / "out" / "adata.h5ad")
    np.testing.assert_array_equal(written.obsm["latent"], one_call.obsm["latent"])


@pytest.mark.parametrize("profile", ["RNA", "ATAC", "ADT"])
def test_every_profile(counts: AnnData, tmp_path: Path, profile: str) -> None:
    adata = sx.SCALEX(counts, profile=profile, outdir=tmp_path / "out", **FAST)
    assert adata.uns["scalex"]["profile"] == profile
    again = sx.SCALEX(counts, projection=tmp_path / "out", repeat=True, **FAST)
    np.testing.assert_allclose(again.obsm["latent"], adata.obsm["latent"], atol=1e-6)


def test_ignore_umap(counts: AnnData, tmp_path: Path) -> None:
    adata = sx.SCALEX(counts, outdir=tmp_path / "out", **FAST)
    assert "X_umap" not in adata.obsm
    assert "leiden" not in adata.obs
    assert not (tmp_path / "out" / "umap.png").exists()


def test_show(counts: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []
    monkeypatch.setattr("matplotlib.pyplot.show", lambda *args, **kwargs: shown.append(1))
    options = FAST | {"ignore_umap": False}
    sx.SCALEX(counts, show=False, **options)
    assert not shown
    sx.SCALEX(counts, show=True, **options)
    assert shown == [1]


def test_num_workers_change_nothing(counts: AnnData) -> None:
    none, four = (sx.SCALEX(counts, num_workers=n, **FAST) for n in (0, 4))
    np.testing.assert_array_equal(none.obsm["latent"], four.obsm["latent"])


def test_documented_defaults_run(counts: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU `gpu=7` means the CPU, as in the documentation's examples."""
    train, used = sx.SCALEXModel.train, {}

    def short(self: sx.SCALEXModel, **kwargs: object) -> None:
        used.update(kwargs | dict(kwargs["recipe"]))
        train(self, **(kwargs | {"max_steps": 4}))

    monkeypatch.setattr(sx.SCALEXModel, "train", short)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    sx.SCALEX(counts, min_features=0, gpu=7, ignore_umap=True, progress_bar=False)
    assert {k: used[k] for k in ("lr", "max_steps", "batch_size", "accelerator")} == {
        "lr": 3e-3,
        "max_steps": None,
        "batch_size": 128,
        "accelerator": "cpu",
    }


def test_a_filter_that_takes_many_cells_says_so(
    counts: AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    x = counts.X.tolil()
    x[:60, 10:] = 0
    counts.X = x.tocsr()
    sx.SCALEX(counts, **(FAST | {"min_features": 20}))
    assert "`min_features` removed 60 of 150 cells. By 'batch': batch" in caplog.text
    assert "By 'celltype': type" in caplog.text
    assert "Pass `min_features=0` to keep all cells." in caplog.text
    caplog.clear()
    sx.SCALEX(counts[55:], **(FAST | {"min_features": 20}))  # 5 of 95
    assert "removed" not in caplog.text
