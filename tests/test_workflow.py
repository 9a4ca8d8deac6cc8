"""The whole job by its two functions, `integrate` and `project`, and the run folder they write."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from conftest import QUIET, simulate_counts

import scalex_scvi as sx
from scalex_scvi import _results, workflow
from scalex_scvi._outputs import Outputs
from scalex_scvi.pp import Preparation

pytestmark = pytest.mark.usefixtures("narrow")


def integrate(
    data: AnnData, outdir: Path | None = None, seed: int | None = None, **outputs: Any
) -> AnnData:
    """Integrate all cells, in a few epochs."""
    return workflow.integrate(
        data,
        preparation=Preparation(min_features=0),
        outputs=Outputs(outdir=outdir, **outputs),
        seed=seed,
        train_kwargs={"max_epochs": 4} | QUIET,
    )


def project(query: AnnData, reference: Path, outdir: Path | None = None, **outputs: Any) -> AnnData:
    return workflow.project(query, reference, outputs=Outputs(outdir=outdir, **outputs))


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workflow") / "ref"
    integrate(simulate_counts(), folder, label="celltype")
    return folder


@pytest.fixture
def reference(made_once: Path, tmp_path: Path) -> Path:
    """Run folder of a test's own."""
    return Path(shutil.copytree(made_once, tmp_path / "ref"))


@pytest.fixture
def query() -> AnnData:
    adata = simulate_counts(80, n_batches=1, seed=5)
    adata.obs["batch"] = pd.Categorical(["new"] * 80)
    return adata


def test_a_run_folder_and_a_saved_model_are_told_apart(reference: Path, tmp_path: Path) -> None:
    query = simulate_counts(60, seed=1)
    with pytest.raises(FileNotFoundError, match=r"is a run folder: give '.*checkpoint'"):
        sx.SCALEXModel.load_query_data(query, reference)
    saved = tmp_path / "saved"
    shutil.copytree(reference / "checkpoint", saved)
    with pytest.raises(FileNotFoundError, match=r"is a saved model and no run folder: .*map_query"):
        sx.SCALEX(query, projection=saved, show=False)


def test_integrate_leaves_a_run_folder(reference: Path) -> None:
    names = {"adata.h5ad", "checkpoint", "umap.png", "umap.pdf", "report.html", "log.txt"}
    names.add("scalex_run.json")
    assert {path.name for path in reference.iterdir()} == names
    adata = ad.read_h5ad(reference / "adata.h5ad")
    assert {"latent", "X_umap"} <= set(adata.obsm)
    assert isinstance(adata.obs["leiden"].dtype, pd.CategoricalDtype)
    assert not [key for key in [*adata.obs, *adata.uns] if key.startswith("_scvi")]
    assert "Processed data: 150 cells × 60 genes" in (reference / "log.txt").read_text()
    loaded = sx.SCALEXModel.load(reference / "checkpoint", adata)
    np.testing.assert_array_equal(loaded.get_latent_representation(), adata.obsm["latent"])


def test_project_returns_reference_and_query(
    reference: Path, query: AnnData, tmp_path: Path
) -> None:
    adata = project(query, reference, tmp_path / "out", label="celltype")
    assert adata.obs["projection"].value_counts().to_dict() == {"reference": 150, "query": 80}
    is_query = (adata.obs["projection"] == "query").to_numpy()
    assert adata.obs["celltype_transfer"][is_query].notna().all()
    assert adata.obs["celltype_transfer"][~is_query].isna().all()
    before = ad.read_h5ad(reference / "adata.h5ad")
    np.testing.assert_array_equal(adata.obsm["latent"][~is_query], before.obsm["latent"])
    written = ad.read_h5ad(tmp_path / "out" / "adata.h5ad")
    np.testing.assert_array_equal(written.obsm["latent"], adata.obsm["latent"])
    # What was written is enough for the same labels again, of latent and expression.
    again = sx.label_transfer(written[~is_query], written[is_query], method="consensus")
    assert list(again) == list(written.obs["celltype_transfer"][is_query])
    assert (tmp_path / "out" / "umap.png").stat().st_size > 10_000


def test_names_have_one_color_in_all_pictures_of_two_runs(
    reference: Path, query: AnnData, tmp_path: Path
) -> None:
    """Those that the user chose, and of labels that the reference lacks new ones."""
    ref = ad.read_h5ad(reference / "adata.h5ad")
    chosen = {"type0": "#110000", "type1": "#220000", "type2": "#330000"}
    assert [*ref.obs["celltype"].cat.categories] == [*chosen]
    ref.uns["celltype_colors"] = [*chosen.values()]
    ref.write_h5ad(reference / "adata.h5ad")
    query = query[query.obs["celltype"] != "type0"].copy()
    query.obs["celltype"] = query.obs["celltype"].cat.rename_categories({"type1": "a new one"})
    project(query, reference, tmp_path / "out", label="celltype")
    written = ad.read_h5ad(tmp_path / "out" / "adata.h5ad")
    assert {*written.obs["celltype"].cat.categories} == {"a new one", *chosen}
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    in_report = json.loads(text.split('id="cells-data">')[1].split("</script>")[0])["columns"]
    places = {"celltype": "labels", "celltype_transfer": "transfer", "batch": "batch"}
    for key, place in (places | {"leiden": "clusters"}).items():
        names = written.obs[key].cat.categories
        found = dict(zip(names, written.uns[f"{key}_colors"], strict=True))
        if key.startswith("celltype"):
            assert {name: found[name] for name in chosen if name in found}.items() <= chosen.items()
        if key == "batch":
            of_ref = dict(zip(ref.obs[key].cat.categories, ref.uns["batch_colors"], strict=True))
            assert {name: found[name] for name in of_ref} == of_ref
        assert len(set(found.values())) == len(found)
        drawn = dict(zip(in_report[place]["names"], in_report[place]["colors"], strict=True))
        assert found.items() <= drawn.items()


def test_transferred_labels_may_be_unknown(reference: Path, query: AnnData) -> None:
    plain = project(query, reference, label="celltype", repeat=True, ignore_umap=True)
    query.X = query.X[:, ::-1]  # nothing like the reference
    odd = project(query, reference, label="celltype", unknown=True, repeat=True, ignore_umap=True)
    assert "unknown" not in set(plain.obs["celltype_transfer"])
    # Part of what is odd about a batch as a whole is its offset, which does not count.
    assert (odd.obs["celltype_transfer"] == "unknown").mean() > 0.3
    is_unknown = odd.obs["celltype_transfer"] == "unknown"
    assert (odd.obs["celltype_unknown"] == is_unknown).all()
    assert ((odd.obs["celltype_p_value"] <= 0.05) == is_unknown).all()
    assert odd.obs["celltype_probability"].between(0, 1).all()


def test_a_projection_can_be_projected_onto(
    reference: Path, query: AnnData, tmp_path: Path
) -> None:
    project(query, reference, tmp_path / "first")
    again = project(query, tmp_path / "first", tmp_path / "second", repeat=True)
    first = ad.read_h5ad(tmp_path / "first" / "adata.h5ad")
    latent = first.obsm["latent"][(first.obs["projection"] == "query").to_numpy()]
    np.testing.assert_array_equal(again.obsm["latent"], latent)


def test_project_with_repeated_cell_names(
    reference: Path, query: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adata = project(query, reference, tmp_path / "out")
    assert adata.obs_names.is_unique
    assert "80 cell names are in both" in caplog.text


def test_project_without_the_reference_s_cells(
    reference: Path, query: AnnData, tmp_path: Path
) -> None:
    (reference / "adata.h5ad").unlink()
    assert project(query, reference, tmp_path / "out").n_obs == 80
    with pytest.raises(FileNotFoundError, match="to transfer 'celltype' from"):
        project(query, reference, tmp_path / "out2", label="celltype")


def test_same_seed_same_result(counts: AnnData) -> None:
    first, second = (integrate(counts.copy()) for _ in range(2))
    for key in ("latent", "X_umap"):
        np.testing.assert_array_equal(first.obsm[key], second.obsm[key])
    assert list(first.obs["leiden"]) == list(second.obs["leiden"])


@pytest.mark.parametrize(
    ("outputs", "message"),
    [({"label": "type"}, "`label` 'type'"), ({"impute": "batch7"}, "`impute` 'batch7'")],
    ids=["label", "impute"],
)
def test_mistakes_are_found_before_the_training(
    counts: AnnData, monkeypatch: pytest.MonkeyPatch, outputs: dict, message: str
) -> None:
    def trained(*args: object, **kwargs: object) -> None:
        raise AssertionError("trained first")

    monkeypatch.setattr(sx.SCALEXModel, "train", trained)
    with pytest.raises((KeyError, ValueError), match=message):
        integrate(counts, **outputs)


def test_an_interrupted_run_leaves_the_previous_results(
    counts: AnnData, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_the_run = ("log.txt", "scalex_run.json")  # the second names all files, the kept model too
    kept = {
        p: p.read_bytes() for p in reference.rglob("*") if p.is_file() and p.name not in of_the_run
    }

    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    # The last step: model and cells of the new run are written by then.
    monkeypatch.setattr(_results, "_draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        integrate(counts, reference, seed=1)
    for path, content in kept.items():
        assert path.read_bytes() == content, path
    assert {path.name for path in reference.iterdir()} == {
        "adata.h5ad",
        "checkpoint",
        "umap.png",
        "umap.pdf",
        "report.html",
        "log.txt",
        "scalex_run.json",
        "trained_model",
        "training.ckpt",
    }
    assert "The run ended early" in (reference / "log.txt").read_text()
    assert not logging.getLogger("scalex_scvi").handlers


def test_a_report_that_fails_does_not_lose_the_run(
    counts: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no report")

    monkeypatch.setattr(_results.pl, "report", broken)
    integrate(counts, tmp_path / "ref")
    assert (tmp_path / "ref" / "adata.h5ad").is_file()
    assert "The report could not be written" in caplog.text


def test_a_run_without_picture_leaves_none_of_an_earlier_run(
    counts: AnnData, reference: Path
) -> None:
    integrate(counts, reference, ignore_umap=True)
    names = {"adata.h5ad", "checkpoint", "log.txt", "scalex_run.json", "report.html"}
    assert {path.name for path in reference.iterdir()} == names
    text = (reference / "report.html").read_text(encoding="utf-8")
    assert "<b>150</b>cells" in text
    assert "<canvas" not in text
    # Of all four kinds of options, the ones that were given.
    for name in ("min_features", "ignore_umap"):
        assert f"<td>{name}</td>" in text.split("All other options")[0]
    for name in ("join", "n_top_features", "lr", "chunk_size"):
        assert f"<td>{name}</td>" in text.split("All other options")[1]


def test_a_projection_does_not_replace_its_reference(reference: Path, query: AnnData) -> None:
    before = (reference / "adata.h5ad").read_bytes()
    with pytest.raises(ValueError, match="is the reference"):
        project(query, reference, reference.parent / "." / "ref")
    assert (reference / "adata.h5ad").read_bytes() == before


def test_a_second_run_replaces_the_first(counts: AnnData, reference: Path) -> None:
    assert "earlier run" not in (reference / "log.txt").read_text()
    adata = integrate(counts, reference, seed=1)
    assert "holds the results of an earlier run until" in (reference / "log.txt").read_text()
    written = ad.read_h5ad(reference / "adata.h5ad")
    np.testing.assert_array_equal(written.obsm["latent"], adata.obsm["latent"])
    loaded = sx.SCALEXModel.load(reference / "checkpoint", written)
    np.testing.assert_array_equal(loaded.get_latent_representation(), adata.obsm["latent"])
