"""References: saved without counts, fetched whole, checked, as good as the model with counts."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import logging
import os
import re
import runpy
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from anndata import AnnData
from conftest import QUIET, simulate_counts

import scalex_scvi as sx
from scalex_scvi import cli
from scalex_scvi.references import _format

on_the_network = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("huggingface_hub", "pooch")),
    reason="needs the extra hub: huggingface_hub and pooch",
)
FILES = {"README.md", "adata.h5ad", "labels.npz", "model.pt", "reference.json"}


@pytest.fixture
def folder(pancreas_folder: Path, tmp_path: Path) -> Path:
    """A copy, to be spoiled."""
    return Path(shutil.copytree(pancreas_folder, tmp_path / "pancreas"))


def rewrite(folder: Path, **changes: Any) -> None:
    """Change ``reference.json`` as somebody would who knows how it is made."""
    about = json.loads((folder / "reference.json").read_text()) | changes
    about["checksum"] = _format._checksum(about)
    (folder / "reference.json").write_text(json.dumps(about))


# -- What is saved


def test_cells_are_mapped_as_by_the_model_with_counts(
    pancreas_model: sx.SCALEXModel, pancreas_folder: Path, query: AnnData
) -> None:
    query.layers["counts"] = query.X.copy()
    by_counts, by_name = query.copy(), query.copy()
    sx.map_query(by_counts, pancreas_model, labels="celltype")
    mapped = sx.map_query(by_name, pancreas_folder)
    np.testing.assert_array_equal(by_name.obsm["X_scalex"], by_counts.obsm["X_scalex"])
    np.testing.assert_allclose(by_name.obsm["X_umap"], by_counts.obsm["X_umap"], atol=1e-6)
    for column in ("celltype_transfer", "celltype_unknown"):
        assert list(by_name.obs[column]) == list(by_counts.obs[column])
    np.testing.assert_allclose(
        by_name.obs["celltype_probability"], by_counts.obs["celltype_probability"], atol=1e-5
    )
    assert mapped.adata is by_name
    refused = by_name.obs["celltype_unknown"]
    assert refused[by_name.obs["celltype"] == "ductal"].mean() > 0.8
    assert refused[by_name.obs["celltype"].isin(["alpha", "beta"])].mean() < 0.2


@pytest.mark.parametrize("n_cells", [1, 30])
def test_few_cells_are_labeled_as_by_the_model_with_counts(
    pancreas_model: sx.SCALEXModel, pancreas_folder: Path, query: AnnData, n_cells: int
) -> None:
    few = query[:n_cells].copy()
    few.layers["counts"] = few.X.copy()
    by_counts, by_name = few.copy(), few.copy()
    sx.map_query(by_counts, pancreas_model, labels="celltype")
    sx.map_query(by_name, sx.references.load(pancreas_folder), labels=["celltype"])
    for column in ("celltype_transfer", "celltype_unknown"):
        assert list(by_name.obs[column]) == list(by_counts.obs[column])


def everything_in(folder: Path) -> str:
    """All text of all files, compressed or not."""
    found = [path.read_bytes().decode("latin-1") for path in folder.iterdir()]
    with zipfile.ZipFile(folder / "labels.npz") as file:
        found += [file.read(name).decode("latin-1") for name in file.namelist()]
        # Text in an array has four bytes a letter.
        found += [text.replace("\0", "") for text in found[-len(file.namelist()) :]]
    cells = ad.read_h5ad(folder / "adata.h5ad")
    found += [cells.obs.to_csv(), cells.var.to_csv(), str(cells.uns), str(list(cells.obsm))]
    return "\n".join(found)


def test_nothing_of_the_user_travels_that_was_not_asked_for(pancreas_folder: Path) -> None:
    assert {path.name for path in pancreas_folder.iterdir()} == FILES
    text = everything_in(pancreas_folder)
    for own in ("BARCODE-", "DONOR-", "donor", "PHASE-", "NOTE-OF-THE-USER", "X_other", "counts\0"):
        assert own not in text, own
    assert "acinar" in text
    cells = ad.read_h5ad(pancreas_folder / "adata.h5ad")
    assert cells.X.nnz == 0
    assert not cells.layers
    assert cells.raw is None
    own = [column for column in cells.obs if not column.startswith("_scvi")]
    assert own == ["batch", "celltype", "observed_lib_size"]
    assert cells.obs["observed_lib_size"].nunique() == 1  # no totals
    assert {"X_umap", "scalex_latent_qzm", "scalex_latent_qzv"} == set(cells.obsm)


def test_a_column_travels_that_was_asked_for(
    pancreas_model: sx.SCALEXModel, tmp_path: Path
) -> None:
    place = sx.references.save(pancreas_model, tmp_path / "p", obs="phase", license="mit")
    assert "PHASE-" in everything_in(place)
    reference = sx.references.load(place)
    assert reference.labels == []
    assert list(reference.model.adata.obs["phase"]) == list(pancreas_model.adata.obs["phase"])


def test_values_that_no_file_can_hold_travel_as_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = trained_on(simulate_counts(60, 20, 2))
    dates, kinds = pd.to_datetime(["2020-01-02"] * 60), [1, "a"] * 30
    model.adata.obs["date"], model.adata.obs["kind"] = dates, kinds
    place = sx.references.save(
        model, tmp_path / "p", "celltype", obs=["date", "kind"], license="mit"
    )
    obs = sx.references.load(place).model.adata.obs
    assert set(obs["date"]) == {"2020-01-02"}
    assert list(obs["kind"]) == ["1", "a"] * 30
    assert list(model.adata.obs["date"]) == list(dates)
    assert "obs['date']" in caplog.text


def test_nothing_of_the_model_changes(pancreas_model: sx.SCALEXModel, tmp_path: Path) -> None:
    before = pancreas_model.adata.copy()
    registry = str(pancreas_model.registry_)
    sx.references.save(pancreas_model, tmp_path / "p", "celltype", license="mit")
    adata = pancreas_model.adata
    assert list(adata.obs) == list(before.obs)
    assert list(adata.obsm) == list(before.obsm)
    assert (adata.layers["counts"] != before.layers["counts"]).nnz == 0
    assert str(pancreas_model.registry_) == registry
    assert pancreas_model.minified_data_type is None


def test_the_card_says_what_it_is(pancreas_folder: Path) -> None:
    card = sx.references.load(pancreas_folder).card
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "cc-by-4.0"
    assert "organism:human" in head["tags"]
    for said in ("pancreas", "338", "| alpha | 133 |", "| CEL-seq | 64 |", "Baron et al., 2016"):
        assert said in card
    assert "Not in it: counts" in card
    assert "sx.map_query(query" in card


def test_the_card_says_that_labels_were_learned_from_a_sample(
    pancreas_model: sx.SCALEXModel,
    pancreas_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("scalex_scvi.tl._reference_cells.MOST_CELLS", 200)
    folder = sx.references.save(pancreas_model, tmp_path / "p", "celltype", license="mit")
    reference = sx.references.load(folder)
    assert "Labels were learned from a sample of 200 of the 338 cells" in reference.card
    assert "| alpha | 133 |" in reference.card  # all that there are
    assert reference.about["training"]["label_cells"] == 200
    of_all = sx.references.load(pancreas_folder)
    assert "sample" not in of_all.card
    assert of_all.about["training"]["label_cells"] == 338


def test_a_card_of_awkward_names(tmp_path: Path) -> None:
    model = trained_on(simulate_counts(60, 20, 2))
    names = {"type0": "a|b", "type1": "<script>x</script>", "type2": 'c: "d"'}
    model.adata.obs["kind"] = model.adata.obs["celltype"].astype(str).map(names)
    about = {"organism": 'x"\n- y: z', "description": "two\nlines"}
    place = sx.references.save(model, tmp_path / "p", "kind", license='m: "t"', about=about)
    card = (place / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["license"] == 'm: "t"'
    assert "<script" not in card
    assert "| a\\|b |" in card
    assert set(sx.references.load(place).about["labels"]["kind"]) == set(names.values())


def trained_on(adata: AnnData, **setup: Any) -> sx.SCALEXModel:
    sx.SCALEXModel.setup_anndata(adata, **({"batch_key": "batch"} | setup))
    model = sx.SCALEXModel(adata, n_hidden=16, n_latent=4)
    model.train(max_steps=5, **QUIET)
    adata.obsm["X_umap"] = model.get_latent_representation()[:, :2]
    return model


def test_batches_that_a_query_does_not_have(
    pancreas_folder: Path, query: AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    reference = sx.references.load(pancreas_folder)
    del query.obs["batch"]
    prepared = sx.pp.prepare_query(query, reference.model.preprocessing)
    prepared.obsm["latent"] = reference.model.get_latent_representation()[: query.n_obs]
    by_label = reference.label_models["celltype"]
    with pytest.raises(KeyError, match="`batch_key` 'batch' is not a column of query.obs"):
        by_label.scores(prepared, batch_key="batch")
    expected = by_label.scores(prepared, batch_key=None)
    with caplog.at_level(logging.INFO, "scalex_scvi"):
        found = reference.label_scores(prepared, "celltype", use_rep="latent")
    assert "has no obs['batch']: all its cells are one batch" in caplog.text
    pd.testing.assert_frame_equal(found.to_frame(), expected.to_frame())


def test_a_reference_without_batches_and_with_two_columns_of_labels(tmp_path: Path) -> None:
    adata = simulate_counts(120, 30, 2)
    adata.obs["number"] = adata.obs["celltype"].cat.codes  # numbers become text
    adata.obs["partly"] = adata.obs["celltype"].astype(object)
    adata.obs.loc[adata.obs_names[:30], "partly"] = None
    model = trained_on(adata, batch_key=None)
    place = sx.references.save(model, tmp_path / "p", ["number", "partly"], license="mit")
    query = simulate_counts(40, 30, 1, seed=3)
    sx.map_query(query, place, max_refused=0.1)
    assert set(query.obs["number_transfer"]) <= {"0", "1", "2"}
    assert sum(sx.references.load(place).about["labels"]["partly"].values()) == 90
    both = simulate_counts(40, 30, 1, seed=3)
    sx.map_query(both, model, labels="partly", max_refused=0.1)
    assert list(both.obs["partly_transfer"]) == list(query.obs["partly_transfer"])


def test_a_map_is_made_where_there_is_none(tmp_path: Path) -> None:
    model = trained_on(simulate_counts(60, 20, 2))
    del model.adata.obsm["X_umap"]
    reference = sx.references.load(sx.references.save(model, tmp_path / "p", license="mit"))
    assert reference.model.adata.obsm["X_umap"].shape == (60, 2)
    assert "X_umap" not in model.adata.obsm


def test_the_script_that_builds_references(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "packaging" / "references" / "build.py"
    build = runpy.run_path(str(script))
    place = build["main"](["embedded", "--out", str(tmp_path), "--max-steps", "5"])
    reference = sx.references.load(place)
    assert reference.labels == ["celltype"]
    assert reference.about["n_cells"] == 500
    assert "Segerstolpe" in reference.card
    adata = simulate_counts(60, 20, 2)
    adata.obs["tech"] = adata.obs["batch"]
    adata.obs["celltype"] = ["rare"] * 4 + ["rest"] * 56
    adata.layers["counts"] = adata.X.copy()
    adata.write_h5ad(tmp_path / "own.h5ad")
    argv = ["pancreas", "--out", str(tmp_path), "--max-steps", "5", "--data"]
    place = build["main"]([*argv, str(tmp_path / "own.h5ad")])
    assert sx.references.load(place).about["labels"] == {"celltype": {"rest": 56}}


REFUSED: dict[str, tuple[Callable[[sx.SCALEXModel], None], dict[str, Any], type, str]] = {
    "no such column": (lambda m: None, {"labels": "kind"}, KeyError, "'kind' is not a column"),
    "no license": (lambda m: None, {"license": " "}, ValueError, "must name a license"),
    "name": (lambda m: None, {"name": "../x"}, ValueError, "`name` '../x' must be"),
    "about": (lambda m: None, {"about": {"color": "red"}}, ValueError, r"\['color'\]; allowed"),
    "slash": (
        lambda m: m.adata.obs.__setitem__("cell/type", m.adata.obs["celltype"]),
        {"labels": "cell/type"},
        ValueError,
        "'cell/type' cannot be the name of a column in a file",
    ),
    "map of three dimensions": (
        lambda m: m.adata.obsm.__setitem__("X_umap", np.zeros((60, 3))),
        {},
        ValueError,
        "'X_umap'], of 3 dimensions, is no map of a reference",
    ),
    "map with a gap": (
        lambda m: m.adata.obsm.__setitem__("X_umap", np.full((60, 2), np.nan)),
        {},
        ValueError,
        "and a place for each cell",
    ),
    "label of few cells": (
        lambda m: m.adata.obs.__setitem__("celltype", ["rare"] * 4 + ["rest"] * 56),
        {},
        ValueError,
        "fewer than 5 cells: {'rare': 4}",
    ),
    "not trained": (
        lambda m: setattr(m, "is_trained_", False),
        {},
        ValueError,
        "never trained",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_saved(tmp_path: Path, case: tuple) -> None:
    spoil, arguments, error, message = case
    model = trained_on(simulate_counts(60, 20, 2))
    spoil(model)
    with pytest.raises(error, match=message):
        sx.references.save(
            model, tmp_path / "p", **({"labels": "celltype", "license": "mit"} | arguments)
        )
    assert not list(tmp_path.iterdir())


def test_a_model_without_counts_is_not_saved(pancreas_folder: Path, tmp_path: Path) -> None:
    reference = sx.references.load(pancreas_folder)
    with pytest.raises(ValueError, match="with its cells and their counts"):
        sx.references.save(reference.model, tmp_path / "p", license="mit")
    values = simulate_counts(60, 20, 2)
    values.X = values.X.toarray() / values.X.max()
    with pytest.raises(ValueError, match="not set up with counts"):
        sx.references.save(trained_on(values, processed=True), tmp_path / "p", license="mit")


def test_only_a_reference_is_replaced(tmp_path: Path) -> None:
    model = trained_on(simulate_counts(60, 20, 2))
    place = tmp_path / "p"
    sx.references.save(model, place, license="mit")
    with pytest.raises(ValueError, match="exists"):
        sx.references.save(model, place, license="mit")
    sx.references.save(model, place, license="cc0-1.0", overwrite=True)
    assert sx.references.load(place).about["license"] == "cc0-1.0"
    (place / "own.txt").write_text("the user's")
    with pytest.raises(ValueError, match="a reference and nothing else"):
        sx.references.save(model, place, license="mit", overwrite=True)
    assert (place / "own.txt").read_text() == "the user's"


def test_a_save_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    model = trained_on(simulate_counts(60, 20, 2))
    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space left"):
        sx.references.save(model, tmp_path / "p", license="mit")
    assert not list(tmp_path.iterdir())


# -- What is not loaded


@pytest.mark.parametrize("name", sorted(FILES - {"README.md"}))
def test_damage_is_found(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        sx.references.load(folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"there is no '{name}'"):
        sx.references.load(folder)


def test_files_of_another_reference_are_found(folder: Path, tmp_path: Path) -> None:
    model = trained_on(simulate_counts(60, 20, 2))
    other = sx.references.save(model, tmp_path / "other", license="mit")
    shutil.copy(other / "adata.h5ad", folder / "adata.h5ad")
    with pytest.raises(ValueError, match="'adata.h5ad' is not what was saved"):
        sx.references.load(folder)


def test_an_edited_card_is_no_damage(folder: Path) -> None:
    (folder / "README.md").write_text("# Mine")
    assert sx.references.load(folder).card == "# Mine"


SHA = "0" * 64
FOREIGN: dict[str, tuple[dict[str, Any], str]] = {
    "a file outside": ({"files": {"../model.pt": {"sha256": SHA}}}, "'../model.pt'"),
    "an absolute path": ({"files": {"/etc/passwd": {"sha256": SHA}}}, "'/etc/passwd'"),
    "a long name of a file": ({"files": {"x" * 5000: {"sha256": SHA}}}, "'x{60}'"),
    "no checksum": ({"files": {name: {} for name in _format.CHECKED}}, "no SHA-256"),
    "a name that leads out": ({"name": "../../x"}, "`name`"),
    "a long name": ({"name": "x" * 5000}, "`name`"),
    "another kind": ({"kind": "model"}, "something else"),
    "a later format": ({"format": 2}, "Update it: pip install -U scalex-scvi"),
    "a wrong type": ({"n_cells": "many"}, "'n_cells'"),
    "other labels": ({"labels": {"kind": {"a": 1}}}, "'kind'"),
}


@pytest.mark.parametrize(("changes", "message"), FOREIGN.values(), ids=FOREIGN.keys())
def test_what_means_no_good_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    rewrite(folder, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        sx.references.load(folder)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_reference_is_refused(folder: Path, content: bytes) -> None:
    (folder / "reference.json").write_bytes(content)
    with pytest.raises(ValueError, match="is no reference"):
        sx.references.load(folder)


def test_code_in_a_file_is_not_executed(folder: Path, tmp_path: Path) -> None:
    """A pickle in the labels, whose checksum is right."""

    class Evil:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(tmp_path / "executed"),))

    np.savez(folder / "labels.npz", **{"0/labels": np.array([Evil()], dtype=object)})
    files = json.loads((folder / "reference.json").read_text())["files"]
    files["labels.npz"]["sha256"] = _format.sha256_of(folder / "labels.npz")
    rewrite(folder, files=files)
    with pytest.raises(ValueError, match="cannot be read: Object arrays cannot be loaded"):
        sx.references.load(folder)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("0/landmarks/means", lambda values: values * np.nan),
        ("0/landmarks/means", lambda values: values[:-1]),
        ("0/latent/weights", lambda values: values.astype(str)),
        ("0/held_out/3/known", None),
    ],
)
def test_wrong_statistics_are_refused(
    folder: Path, name: str, spoil: Callable[[np.ndarray], np.ndarray] | None
) -> None:
    with np.load(folder / "labels.npz") as file:
        arrays = {key: file[key] for key in file.files}
    if spoil is None:
        del arrays[name]
    else:
        arrays[name] = spoil(arrays[name])
    np.savez(folder / "labels.npz", **arrays)
    files = json.loads((folder / "reference.json").read_text())["files"]
    files["labels.npz"]["sha256"] = _format.sha256_of(folder / "labels.npz")
    rewrite(folder, files=files)
    with pytest.raises(ValueError, match="label model"):
        sx.references.load(folder)


def test_the_reference_that_was_meant(folder: Path) -> None:
    found = hashlib.sha256((folder / "reference.json").read_bytes()).hexdigest()
    assert sx.references.load(folder, sha256=found.upper()).name == "pancreas"
    rewrite(folder, license="mit")
    with pytest.raises(ValueError, match="is not the expected reference"):
        sx.references.load(folder, sha256=found)


def test_a_run_folder_is_no_reference(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="is a run folder, for `scalex-scvi project`"):
        sx.references.load(tmp_path / "run")


@pytest.mark.parametrize("where", ["nowhere", "no/where", "hf:/a/b"])
def test_what_is_not_there(where: str) -> None:
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        sx.references.load(where)


def test_a_loaded_reference_is_taken_for_its_model(pancreas_folder: Path, query: AnnData) -> None:
    reference = sx.references.load(pancreas_folder)
    by_model = sx.SCALEXModel.load_query_data(query.copy(), reference.model)
    mapped = sx.SCALEXModel.load_query_data(query, reference)
    assert mapped.adata is query
    np.testing.assert_array_equal(
        mapped.get_latent_representation(), by_model.get_latent_representation()
    )
    names = sx.SCALEXModel.prepare_query_anndata(query, reference, return_reference_var_names=True)
    assert list(names) == list(reference.model.get_var_names())
    with pytest.raises(TypeError, match=r"a 'int'; allowed are .* `scalex_scvi.references.load`"):
        sx.SCALEXModel.load_query_data(query, 3)


def test_what_names_no_reference_or_is_no_model_is_told(
    pancreas_folder: Path, query: AnnData, tmp_path: Path
) -> None:
    model = sx.references.load(pancreas_folder).model
    with pytest.raises(TypeError, match="`where` is a 'SCALEXModel'; a reference is named by"):
        sx.references.load(model)
    with pytest.raises(TypeError, match="`folder` is a 'SCALEXModel'.*references.save"):
        sx.references.push(model, "owner/name")
    with pytest.raises(TypeError, match=r"`model` is a 'AnnData'.*scalex_scvi.integrate"):
        sx.references.save(query, tmp_path / "new", ["celltype"], license="mit")
    assert not list(tmp_path.iterdir())


def test_mistakes_of_mapping(pancreas_folder: Path, query: AnnData) -> None:
    with pytest.raises(KeyError, match="'kind' is not one of 'pancreas', which has"):
        sx.map_query(query, pancreas_folder, labels="kind")
    assert not query.obsm
    minified = sx.references.load(pancreas_folder).model
    with pytest.raises(ValueError, match="minified: it has no expression to transfer"):
        sx.map_query(query, minified, labels="celltype")
    with pytest.raises(ValueError, match="they have no expression to prepare"):
        minified.get_prepared()  # zeros would be taken for cells without counts
    with pytest.raises(ValueError, match="is a reference by name, without counts"):
        sx.SCALEX(query, projection=pancreas_folder, show=False)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, query: AnnData) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr("scalex_scvi.references._extra.import_module", absent)
    for where in ("hf://owner/name", "https://server/folder"):
        with pytest.raises(ImportError, match=r"pip install 'scalex-scvi\[hub\]'"):
            sx.map_query(query, where)


# -- By the name of one that was saved here


@pytest.fixture(scope="module")
def small_reference() -> tuple[sx.SCALEXModel, AnnData]:
    """A model, and cells to map onto it."""
    return trained_on(simulate_counts(60, 20, 2)), simulate_counts(20, 20, 1, seed=1)


def test_a_saved_reference_is_found_by_its_name(
    small_reference: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, query = small_reference
    place = sx.references.save(
        model, tmp_path / "refs é" / "p", "celltype", license="mit", name="blood"
    )
    monkeypatch.chdir(tmp_path)
    found = sx.references.available()
    assert found[["name", "source", "folder", "cells"]].values.tolist() == [
        ["blood", str(place), str(place), 60]
    ]
    assert sx.references.load("blood").folder == place
    assert sx.references.load("blood", update=True).folder == place  # there is nothing to fetch
    by_name, by_path = query.copy(), query.copy()
    sx.map_query(by_name, "blood")
    sx.map_query(by_path, place)
    assert list(by_name.obs["celltype_transfer"]) == list(by_path.obs["celltype_transfer"])
    query.write_h5ad(tmp_path / "new.h5ad")
    argv = ["map", "new.h5ad", "--reference", "blood", "--update", "-q", "-o", "out"]
    assert cli.main(argv) == 0
    mapped = ad.read_h5ad(tmp_path / "out" / "adata.h5ad").obsm["X_scalex"]
    np.testing.assert_array_equal(mapped, by_path.obsm["X_scalex"])
    place.rename(tmp_path / "moved")
    assert sx.references.available().empty
    with pytest.raises(FileNotFoundError, match="no reference of this name was fetched, or saved"):
        sx.references.load("blood")


def test_a_relative_folder_is_found_from_elsewhere(
    small_reference: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    sx.references.save(small_reference[0], "refs/p", license="mit")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert sx.references.load("p").folder == (tmp_path / "refs" / "p").resolve()


def test_saved_anew_under_another_name(small_reference: tuple, tmp_path: Path) -> None:
    model, place = small_reference[0], tmp_path / "p"
    sx.references.save(model, place, license="mit", name="first")
    sx.references.save(model, place, license="mit", name="second", overwrite=True)
    assert list(sx.references.available()["name"]) == ["second"]


def test_two_saved_ones_of_a_name(small_reference: tuple, tmp_path: Path) -> None:
    places = [
        sx.references.save(small_reference[0], tmp_path / folder / "p", license="mit")
        for folder in "ab"
    ]
    with pytest.raises(ValueError, match="Give one of these instead") as error:
        sx.references.load("p")
    assert all(repr(str(place)) in str(error.value) for place in places)
    with pytest.raises(FileNotFoundError, match=r"saved here, before: \['p'\]\."):
        sx.references.load("q")
    assert sx.references.load(places[1]).folder == places[1]
    (places[0] / "reference.json").write_text("{}")
    assert sx.references.load("p").folder == places[1]


@pytest.mark.parametrize("case", ["unwritable", "no home", "unknown"])
def test_a_reference_is_saved_where_no_note_can_be(
    small_reference: tuple,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    case: str,
) -> None:
    (tmp_path / "file").write_text("")
    where = {"unwritable": str(tmp_path / "file"), "no home": "~nobody-of-this-name/x"}
    monkeypatch.setenv("SCALEX_SCVI_CACHE", where.get(case, ""))
    if case == "unknown":  # without pooch
        monkeypatch.setattr("scalex_scvi.references._cache.find_spec", lambda name: None)
    caplog.set_level("DEBUG", logger="scalex_scvi")
    place = sx.references.save(small_reference[0], tmp_path / "p", license="mit")
    assert sx.references.load(place).name == "p"
    assert "its name" in caplog.text or "no note of" in caplog.text


def test_what_model_save_wrote_is_no_reference(
    small_reference: tuple, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    small_reference[0].save(tmp_path / "model", save_anndata=True)
    with pytest.raises(FileNotFoundError, match=r"`model.save` wrote: .*references.save\(model"):
        sx.references.load(tmp_path / "model")
    small_reference[1].write_h5ad(tmp_path / "new.h5ad")
    argv = ["map", str(tmp_path / "new.h5ad"), "-q", "-o", str(tmp_path / "out"), "--reference"]
    assert cli.main([*argv, str(tmp_path / "model")]) == 2
    assert "references.save(model" in capsys.readouterr().err.splitlines()[-1]


# -- Through the network


@on_the_network
def test_pushed_and_pulled(pancreas_folder: Path, query: AnnData, server: Any, cache: Path) -> None:
    address = sx.references.push(pancreas_folder, "owner/pancreas", private=True)
    assert address == "hf://owner/pancreas"
    assert [set(commit) for commit in server.commits] == [FILES]
    assert "Bearer hf_test" in server.tokens
    server.repositories["owner/pancreas"] |= {"../evil": b"x", "y" * 4000: b"x", "run.py": b"x"}
    reference = sx.references.load(address)
    for name in FILES - {"README.md"}:
        assert (reference.folder / name).read_bytes() == (pancreas_folder / name).read_bytes()
    here = (pancreas_folder / "README.md").read_text(encoding="utf-8")
    there = reference.card.splitlines()
    said = [(a, b) for a, b in zip(here.splitlines(), there, strict=True) if a != b]
    assert [a.replace("path/to/", "hf://owner/").partition("  #")[0] for a, _ in said] == [
        b for _, b in said
    ]
    assert len(said) == 2  # in Python, and in the shell
    kept = {path.name for path in cache.rglob("*") if path.is_file()}
    assert kept == FILES | {"source.txt"}
    direct = query.copy()
    sx.map_query(query, address)
    sx.map_query(direct, pancreas_folder)
    np.testing.assert_array_equal(query.obsm["X_scalex"], direct.obsm["X_scalex"])
    # Without a network, by its address or its name.
    server.stop()
    server.asked.clear()
    assert sx.references.load(address).name == sx.references.load("pancreas").name == "pancreas"
    assert list(sx.references.available()["source"]) == [address]
    with pytest.raises(ConnectionError, match=r"'hf://owner/pancreas' could not be reached"):
        sx.references.load(address, update=True)
    assert sx.references.load("pancreas").labels == ["celltype"]  # still there
    assert not server.asked


@on_the_network
def test_from_an_address(folder: Path, server: Any, cache: Path) -> None:
    url = server.serve_folder(folder, "/data/pancreas")
    pinned = _format.sha256_of(folder / "reference.json")
    reference = sx.references.load(url + "/", sha256=pinned)
    assert reference.labels == ["celltype"]
    assert server.asked == [
        f"GET /data/pancreas/{name}" for name in ("reference.json", "README.md", *_format.CHECKED)
    ]
    rewrite(folder, license="mit")
    server.serve_folder(folder, "/data/pancreas")
    assert sx.references.load(url).about["license"] == "cc-by-4.0"  # as it was fetched
    assert sx.references.load("pancreas", update=True).about["license"] == "mit"
    assert len(sx.references.available()) == 1
    with pytest.raises(ValueError, match="not the expected reference"):
        sx.references.load(url, sha256=pinned)


@on_the_network
def test_nothing_is_kept_of_what_is_not_whole(folder: Path, server: Any, cache: Path) -> None:
    url = server.serve_folder(folder, "/p")
    server.files["/p/model.pt"] = server.files["/p/model.pt"][:-1]
    with pytest.raises(ValueError, match="damaged"):
        sx.references.load(url)
    del server.files["/p/model.pt"]
    with pytest.raises(FileNotFoundError, match="the server answers 404 to 'model.pt'"):
        sx.references.load(url)
    server.busy = True
    with pytest.raises(ConnectionError, match="could not be reached"):
        sx.references.load(url)
    assert not [path for path in cache.rglob("*") if path.is_file()]
    assert sx.references.available().empty


@on_the_network
def test_what_leads_out_of_the_cache_is_not_fetched(
    folder: Path, server: Any, cache: Path, tmp_path: Path
) -> None:
    for changes in ({"name": "../../../escaped"}, {"files": {"../x": {"sha256": SHA}}}):
        rewrite(folder, **changes)
        url = server.serve_folder(folder, "/p")
        server.asked.clear()
        with pytest.raises(ValueError, match="must be 1 to 64 letters|cannot be used"):
            sx.references.load(url)
        assert server.asked == ["GET /p/reference.json"]
    assert not list(tmp_path.rglob("*escaped*"))


@on_the_network
def test_two_of_a_name(folder: Path, server: Any, caplog: pytest.LogCaptureFixture) -> None:
    first, second = (server.serve_folder(folder, path) for path in ("/a", "/b"))
    sx.references.load(first)
    sx.references.load(second)
    with pytest.raises(ValueError, match="the name of 2 references"):
        sx.references.load("pancreas")
    damaged = Path(sx.references.available()["folder"].iloc[0]) / "reference.json"
    damaged.write_text("{}")
    assert len(sx.references.available()) == 1
    assert "is left out" in caplog.text


ADDRESSES = {
    "hf://owner": "is no address on the hub",
    "hf://owner/../x": "is no address on the hub",
    "hf://owner/name@../x": "is no address on the hub",
    f"hf://owner/{'n' * 500}": "is no address on the hub",
    "https://user:password@server/x": "without '\\?', '#' and passwords",
    "https://server/x?token=1": "without '\\?', '#' and passwords",
    "https://": "is no address of a reference",
}


@on_the_network
@pytest.mark.parametrize(("where", "message"), ADDRESSES.items(), ids=range(len(ADDRESSES)))
def test_addresses_that_cannot_be(where: str, message: str, server: Any) -> None:
    with pytest.raises(ValueError, match=message):
        sx.references.load(where)
    assert not server.asked


@on_the_network
def test_what_is_not_on_the_hub(pancreas_folder: Path, server: Any) -> None:
    with pytest.raises(FileNotFoundError, match="none that you may see"):
        sx.references.load("hf://owner/nothing")
    server.repositories["owner/model"] = {"config.json": b"{}"}
    with pytest.raises(FileNotFoundError, match="There is no reference at"):
        sx.references.load("hf://owner/model@main")
    server.takes_license = False
    with pytest.raises(ValueError, match='does not take.* "license" must be one of'):
        sx.references.push(pancreas_folder, "owner/pancreas")
    with pytest.raises(ValueError, match="must be 'OWNER/NAME'"):
        sx.references.push(pancreas_folder, "pancreas")
    with pytest.raises(FileNotFoundError, match="no 'reference.json' in it"):
        sx.references.push(pancreas_folder.parent, "owner/pancreas")


# -- The command line


@pytest.fixture
def new_cells(query: AnnData, tmp_path: Path) -> str:
    del query.obs["batch"]  # then they are one batch
    query.write_h5ad(tmp_path / "new.h5ad")
    return str(tmp_path / "new.h5ad")


def test_map(
    pancreas_folder: Path, new_cells: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "mapped"
    argv = ["map", new_cells, "--reference", str(pancreas_folder), "--report", "-o", str(out)]
    logging.disable(logging.NOTSET)
    assert cli.main([*argv, "-q"]) == 0
    wanted = {"adata.h5ad", "mapped_labels.csv", "umap.png", "umap.pdf", "report.html"}
    assert wanted <= {path.name for path in out.iterdir()}
    came, found = ad.read_h5ad(new_cells), ad.read_h5ad(out / "adata.h5ad")
    assert (found.X != came.X).nnz == 0
    assert list(found.var_names) == list(came.var_names)
    expected = came.copy()
    expected.obs["batch"] = "query"
    sx.map_query(expected, pancreas_folder)
    np.testing.assert_array_equal(found.obsm["X_scalex"], expected.obsm["X_scalex"])
    assert list(found.obs["celltype_transfer"]) == list(expected.obs["celltype_transfer"])
    assert not [column for column in found.obs if column.startswith("_scvi")]
    lines = (out / "mapped_labels.csv").read_text().splitlines()
    assert (
        lines[0] == "cell,celltype_transfer,celltype_probability,celltype_p_value,celltype_unknown"
    )
    assert len(lines) == 101
    cells = sx.references.load(pancreas_folder).model.adata
    names = cells.obs["celltype"].cat.categories
    of_reference = dict(zip(names, cells.uns["celltype_colors"], strict=True))
    names = found.obs["celltype_transfer"].cat.categories
    of_query = dict(zip(names, found.uns["celltype_transfer_colors"], strict=True))
    assert of_query.items() <= of_reference.items()
    report = (out / "report.html").read_text()
    for said in ("Projection of query", "100", "unknown", "reference", "cc-by-4.0", "ductal"):
        assert said in report
    assert "<td>CEL-seq</td>" not in report  # its genes were not counted: it has no counts


def test_a_label_unknown_is_told_from_cells_that_fit_no_label(
    counts: AnnData, tmp_path: Path
) -> None:
    counts.obs["celltype"] = counts.obs["celltype"].cat.rename_categories({"type0": "unknown"})
    model = sx.integrate(counts, "batch", max_epochs=8, **QUIET)
    folder = sx.references.save(model, tmp_path / "ref", "celltype", license="mit")
    counts[:90].copy().write_h5ad(tmp_path / "new.h5ad")
    out = tmp_path / "out"
    argv = ["map", str(tmp_path / "new.h5ad"), "-r", str(folder), "--report", "-q", "-o", str(out)]
    assert cli.main(argv) == 0
    found = ad.read_h5ad(out / "adata.h5ad").obs
    is_label = (found["celltype_transfer"] == "unknown") & ~found["celltype_unknown"]
    assert is_label.sum() > 10
    report = (out / "report.html").read_text()
    data = json.loads(re.search(r'application/json"[^>]*>(.*?)</script>', report, re.DOTALL)[1])
    column = data["columns"]["transfer"]
    codes = np.frombuffer(base64.b64decode(column["codes"]), dtype="<u2")[-90:]
    names = np.array(column["names"])[codes]
    np.testing.assert_array_equal(names == "unknown", found["celltype_unknown"])
    np.testing.assert_array_equal(names == "unknown (label)", is_label)


FAILURES = {
    "no reference": (["--reference", "nowhere"], 2, "There is no folder 'nowhere'"),
    "no labels": (["--labels", "kind"], 2, "--labels 'kind' is not one of 'pancreas'"),
    "another": (["--sha256", "0"], 2, "is not the expected reference"),
    "share": (["--max-refused", "2"], 2, "--max-refused is a share"),
}


@pytest.mark.parametrize(("more", "code", "line"), FAILURES.values(), ids=FAILURES.keys())
def test_map_fails_in_one_line(
    pancreas_folder: Path,
    new_cells: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    more: list[str],
    code: int,
    line: str,
) -> None:
    out = tmp_path / "out"
    argv = ["map", new_cells, "--reference", str(pancreas_folder), "-q", "-o", str(out)]
    assert cli.main([*argv, *more]) == code
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("scalex-scvi map: ")
    assert line in said[-1]
    assert not (out / "adata.h5ad").exists()


@on_the_network
def test_map_without_a_network(
    new_cells: str, tmp_path: Path, server: Any, capsys: pytest.CaptureFixture
) -> None:
    server.stop()
    argv = ["map", new_cells, "-q", "-o", str(tmp_path / "out"), "--reference"]
    for where in ("hf://owner/pancreas", f"{server.url}/pancreas"):
        assert cli.main([*argv, where]) == 1
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert f"'{where}' could not be reached" in said[0]
