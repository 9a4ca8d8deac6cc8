"""A user's object is after each call what it was, but for what the call says that it adds.

scvi-tools' registration adds columns of `obs` and keys of `uns` that begin with `_scvi`. Everything
else stays: values, types, formats, order, and the bytes of files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from conftest import QUIET, simulate_counts
from scipy import sparse

import scalex_scvi as sx
from scalex_scvi import SCALEXModel

FEW = {"max_epochs": 2} | QUIET
OF_SCVI = "_scvi"


def full_adata(matrix: Callable[[Any], Any], n_cells: int = 90, seed: int = 0) -> AnnData:
    """Counts with everything that an AnnData can hold."""
    rng = np.random.default_rng(seed)
    adata = simulate_counts(n_cells, 40, seed=seed)
    counts = adata.X.toarray()
    adata.layers["counts"] = matrix(counts.copy())
    adata.layers["spliced"] = sparse.csc_matrix(counts.astype(np.int32))
    adata.layers["dense"] = np.asfortranarray(counts * 0.5)
    adata.X = matrix(counts)
    extra = pd.DataFrame({"of_raw": np.arange(40)}, index=adata.var_names)
    adata.raw = AnnData(sparse.csr_matrix(np.log1p(counts)), obs=adata.obs.copy(), var=extra)
    # Categories without cells, in an order that is not that of the alphabet.
    adata.obs["batch"] = adata.obs["batch"].cat.set_categories(
        ["unused", "batch2", "batch0", "batch1"], ordered=False
    )
    adata.obs["celltype"] = adata.obs["celltype"].cat.add_categories(["another"])
    adata.obs["stage"] = pd.Categorical(
        rng.choice(["late", "early"], n_cells), categories=["early", "late", "never"], ordered=True
    )
    adata.obs["score"] = rng.normal(size=n_cells).astype(np.float32)
    adata.obs["n"] = rng.integers(9, size=n_cells)
    adata.obs["flag"] = rng.random(n_cells) > 0.5
    adata.obs["text"] = [f"t{i}" for i in range(n_cells)]
    adata.obs["gaps"] = np.where(adata.obs["flag"], adata.obs["score"], np.nan)
    adata.obs.index.name = "barcode"
    adata.var["highly_variable"] = rng.random(40) > 0.4
    adata.var["chromosome"] = pd.Categorical(["1", "X"] * 20, categories=["X", "Y", "1"])
    adata.var.index.name = "symbol"
    adata.obsm["X_pca"] = rng.normal(size=(n_cells, 4))
    adata.obsm["frame"] = pd.DataFrame({"a": rng.random(n_cells)}, index=adata.obs_names)
    adata.obsm["sparse"] = sparse.random(n_cells, 6, 0.3, "csr", random_state=0)
    adata.varm["PCs"] = rng.normal(size=(40, 4))
    adata.obsp["distances"] = sparse.random(n_cells, n_cells, 0.1, "csr", random_state=0)
    adata.varp["links"] = sparse.random(40, 40, 0.1, "csr", random_state=0)
    adata.uns["neighbors"] = {"params": {"n_neighbors": 15, "metric": "cosine"}, "key": "x"}
    adata.uns["batch_colors"] = np.array(["#111111", "#222222", "#333333"], dtype=object)
    adata.uns["log1p"] = {"base": 2.0}
    adata.uns["table"] = pd.DataFrame({"a": [1, 2]}, index=["x", "y"])
    order = rng.permutation(n_cells)
    return adata[order].copy()


def frozen(value: Any) -> Any:
    """A copy of a value which nothing done to the object can reach."""
    if isinstance(value, Mapping):
        return {key: frozen(inner) for key, inner in value.items()}
    if isinstance(value, pd.DataFrame | pd.Series):
        return value.copy(deep=True)
    if isinstance(value, pd.Index):
        return value.copy(deep=True)
    if hasattr(value, "to_memory"):  # of a file
        return type(value), frozen(value.to_memory())
    if hasattr(value, "chunks") and not isinstance(value, np.ndarray):  # of a file, dense; dask
        return type(value), np.array(value[:]) if not hasattr(value, "compute") else value
    if isinstance(value, np.ndarray) or sparse.issparse(value):
        return value.copy(order="K") if isinstance(value, np.ndarray) else value.copy()
    return value


def layers_of(adata: AnnData) -> dict[str, Any]:
    """Layers by name; the newest anndata lists X among them, as `None`."""
    return {key: value for key, value in adata.layers.items() if key is not None}


def all_of(adata: AnnData) -> dict[str, Any]:
    """Everything of an object, as copies."""
    parts: dict[str, Any] = {
        "X": frozen(adata.X),
        "obs": frozen(adata.obs),
        "var": frozen(adata.var),
        "uns": frozen(dict(adata.uns)),
        "shape": adata.shape,
        "is view": adata.is_view,
        "backed": adata.isbacked,
        "file": str(adata.filename),
    }
    parts["layers"] = frozen(layers_of(adata))
    for name in ("obsm", "varm", "obsp", "varp"):
        parts[name] = frozen(dict(getattr(adata, name)))
    if adata.raw is not None:
        parts["raw"] = {"X": frozen(adata.raw.X), "var": frozen(adata.raw.var)}
        parts["raw"]["varm"] = frozen(dict(adata.raw.varm))
    return parts


def assert_equal(found: Any, expected: Any, place: str) -> None:
    assert type(found) is type(expected), place
    if isinstance(expected, dict):
        assert list(found) == list(expected), place
        for key, value in expected.items():
            assert_equal(found[key], value, f"{place}[{key!r}]")
    elif isinstance(expected, tuple):
        assert len(found) == len(expected), place
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other, place)
    elif isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(
            found, expected, check_exact=True, check_names=True, check_categorical=True, obj=place
        )
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype, place
        assert found.flags["F_CONTIGUOUS"] == expected.flags["F_CONTIGUOUS"], place
        np.testing.assert_array_equal(found, expected, err_msg=place)
    elif sparse.issparse(expected):
        assert (found.format, found.dtype) == (expected.format, expected.dtype), place
        assert found.has_sorted_indices == expected.has_sorted_indices, place
        for part in ("indptr", "indices", "data"):  # stored zeros and their order, too
            one, other = getattr(found, part), getattr(expected, part)
            assert one.dtype == other.dtype, f"{place}.{part}"
            np.testing.assert_array_equal(one, other, err_msg=f"{place}.{part}")
    else:
        same = found is expected or found == expected
        assert bool(same), (place, found, expected)


class Watch:
    """Remembers an object, and says whether it is still the same."""

    def __init__(self, adata: AnnData) -> None:
        self.adata = adata
        self.before = all_of(adata)
        self.held = {
            "X": None if adata.isbacked else adata.X,
            **{f"layers/{key}": value for key, value in layers_of(adata).items()},
            **{f"obsm/{key}": value for key, value in adata.obsm.items()},
        }
        self.path = None if adata.filename is None else Path(adata.filename)
        self.digest = self._digest()

    def _digest(self) -> str | None:
        return self.path and hashlib.sha256(self.path.read_bytes()).hexdigest()

    def check(self, after: str, adds: Mapping[str, set[str]] | None = None) -> None:
        """Compare everything; ``adds`` names what the call adds besides registration."""
        adds = adds or {}
        now = all_of(self.adata)
        for part in ("obs", "uns", "obsm", "layers", "varm", "obsp", "varp", "var"):
            new = {str(key) for key in now[part]} - {str(key) for key in self.before[part]}
            allowed = adds.get(part, set())
            strange = {
                key
                for key in new - allowed
                if not (part in ("obs", "uns") and key.startswith(OF_SCVI))
            }
            assert not strange, f"after {after}, {part} has {strange!r}"
            assert allowed <= new, f"after {after}, {part} lacks {allowed - new!r}"
            value = now[part]
            if isinstance(value, pd.DataFrame):
                now[part] = value.drop(columns=list(new))
            else:
                now[part] = {key: inner for key, inner in value.items() if key not in new}
        assert_equal(now, self.before, f"after {after}: ")
        for place, value in self.held.items():
            kind, _, key = place.partition("/")
            current = getattr(self.adata, kind)
            if kind == "X":
                current = value if self.adata.isbacked else current
            else:
                current = current[key]
            same = current is value or value is None or isinstance(value, np.ndarray | pd.DataFrame)
            assert same, f"after {after}, {place} is another object"
        assert self._digest() == self.digest, f"after {after}, the file changed"


def as_given(kind: str, folder: Path, n_cells: int = 90, seed: int = 0) -> AnnData:
    matrix = np.asarray if "dense" in kind else sparse.csr_matrix
    if "csc" in kind:
        matrix = sparse.csc_matrix
    if "unsorted" in kind:
        matrix = unsorted
    if "float64" in kind:
        matrix = lambda x: sparse.csr_matrix(x.astype(np.float64))  # noqa: E731
    adata = full_adata(matrix, n_cells, seed)
    if "backed" not in kind:
        return adata
    path = folder / f"cells{seed}.h5ad"
    adata.write_h5ad(path)
    return ad.read_h5ad(path, backed="r+" if "writable" in kind else "r")


def unsorted(counts: np.ndarray) -> sparse.csr_matrix:
    """CSR with the columns of each row in descending order, and stored zeros."""
    n_cells, n_genes = counts.shape
    columns = np.arange(n_genes, dtype=np.int32)[::-1]
    return sparse.csr_matrix(
        (
            counts[:, columns].reshape(-1).astype(np.float32),
            np.tile(columns, n_cells),
            np.arange(0, n_cells * n_genes + 1, n_genes, dtype=np.int32),
        ),
        shape=counts.shape,
    )


KINDS = [
    "csr",
    "csc",
    "dense",
    "csr unsorted",
    "csr float64",
    "backed csr",
    "backed dense",
    "backed csr writable",
]


@pytest.mark.parametrize("layer", [None, "counts"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_user_s_object(kind: str, layer: str | None, tmp_path: Path) -> None:
    adata = as_given(kind, tmp_path)
    watch = Watch(adata)
    SCALEXModel.setup_anndata(adata, batch_key="batch", labels_key="celltype", layer=layer)
    watch.check("setup_anndata")
    model = SCALEXModel(adata, n_hidden=16, n_latent=5)
    watch.check("SCALEXModel")
    model.train(**FEW)
    watch.check("train")
    model.train(1, train_size=0.8, **QUIET)
    watch.check("train with validation")
    latent = model.get_latent_representation()
    model.get_latent_representation(batch_stats="batch")
    model.get_latent_representation(indices=[5, 1])
    watch.check("get_latent_representation")
    model.get_elbo()
    model.get_reconstruction_error()
    model.get_imputed_expression(transform_batch="batch0")
    model.get_prepared()
    watch.check("reading results")
    model.save(tmp_path / "m")
    watch.check("save")
    loaded = SCALEXModel.load(tmp_path / "m", adata=adata)
    np.testing.assert_allclose(loaded.get_latent_representation(), latent, atol=1e-6)
    watch.check("load")

    query = as_given(kind, tmp_path, 50, seed=7)
    query.obs["batch"] = query.obs["batch"].cat.rename_categories({"batch1": "new"})
    of_query = Watch(query)
    model.get_latent_representation(query)
    of_query.check("get_latent_representation of a query")
    watch.check("get_latent_representation of a query")
    for reference in (model, tmp_path / "m"):
        projected = SCALEXModel.load_query_data(query, reference)
        of_query.check("load_query_data")
        projected.get_latent_representation()
        projected.train(**FEW)
        projected.get_imputed_expression(transform_batch="new")
        projected.save(tmp_path / "q", overwrite=True)
        of_query.check("training of a query")
    watch.check("projection")


@pytest.mark.parametrize(
    "kind",
    [
        "csr",
        "dense",
        "backed csr",
        "backed dense",
        "backed csr writable",
    ],
)
def test_saving_the_cells_with_the_model(kind: str, tmp_path: Path) -> None:
    adata = as_given(kind, tmp_path)
    SCALEXModel.setup_anndata(adata, batch_key="batch")
    model = SCALEXModel(adata, n_hidden=16, n_latent=5)
    model.train(**FEW)
    latent = model.get_latent_representation()
    watch = Watch(adata)
    model.save(tmp_path / "m", save_anndata=True)
    watch.check("save")
    if adata.isbacked:
        adata.file.close()  # opens again on the next access
    np.testing.assert_allclose(model.get_latent_representation(), latent, atol=1e-6)
    loaded = SCALEXModel.load(tmp_path / "m")
    np.testing.assert_allclose(loaded.get_latent_representation(), latent, atol=1e-6)
    watch.check("load")


@pytest.mark.parametrize("layer", [None, "counts"])
@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_files_read_in_blocks(kind: str, layer: str | None, tmp_path: Path) -> None:
    pytest.importorskip("dask")
    path = tmp_path / "cells.h5ad"
    as_given(kind, tmp_path).write_h5ad(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    lazy = sx.io.read_lazy(path, layer=layer, cells_in_block=40)
    array, watch = lazy.X, Watch(lazy)
    SCALEXModel.setup_anndata(lazy, batch_key="batch")
    model = SCALEXModel(lazy, n_hidden=16, n_latent=5)
    model.train(**FEW)
    model.get_latent_representation()
    model.get_imputed_expression(indices=[1, 2])
    model.save(tmp_path / "m")
    model.project_store(path, tmp_path / "out.h5ad", layer=layer)
    watch.check("training and projection")
    assert lazy.X is array
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    projected = ad.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_allclose(
        projected.obsm["latent"], model.get_latent_representation(), atol=1e-5
    )
    # What is written has the cells' columns and none of the registration's.
    assert list(projected.obs) == [c for c in lazy.obs if not c.startswith(OF_SCVI)]


@pytest.mark.parametrize("chosen", [15, "highly_variable"])
def test_selection_of_features_leaves_all_genes(chosen: object, tmp_path: Path) -> None:
    adata = as_given("csr", tmp_path)
    watch = Watch(adata)
    SCALEXModel.setup_anndata(adata, batch_key="batch", n_top_features=chosen)
    model = SCALEXModel(adata, n_hidden=16, n_latent=5)
    model.train(**FEW)
    model.get_latent_representation()
    watch.check("training on some genes")


def test_minification_makes_another_object(tmp_path: Path) -> None:
    adata = as_given("csr", tmp_path)
    SCALEXModel.setup_anndata(adata, batch_key="batch")
    model = SCALEXModel(adata, n_hidden=16, n_latent=5)
    model.train(**FEW)
    mean, var = model.get_latent_representation(return_dist=True)
    adata.obsm["X_latent_qzm"], adata.obsm["X_latent_qzv"] = mean, var
    watch = Watch(adata)
    model.minify_adata()
    model.get_latent_representation()
    model.save(tmp_path / "m", save_anndata=True)
    watch.check("minify_adata")


def test_a_refused_setup_leaves_nothing(tmp_path: Path) -> None:
    adata = as_given("csr", tmp_path)
    adata.layers["negative"] = -adata.X
    totals = adata.X.sum(axis=1)
    adata.layers["logarithms"] = sparse.csr_matrix(np.log1p(adata.X.toarray() / totals * 1e4))
    watch = Watch(adata)
    for wrong in (
        {"layer": "negative"},
        {"layer": "logarithms"},
        {"layer": "no such"},
        {"batch_key": "gaps"},
        {"batch_key": "no such"},
        {"labels_key": "no such"},
        {"categorical_covariate_keys": ["stage"]},
        {"profile": "no such"},
    ):
        with pytest.raises((KeyError, TypeError, ValueError)):
            SCALEXModel.setup_anndata(adata, **({"batch_key": "batch"} | wrong))
        watch.check(f"setup with {wrong!r}")
        new = [key for key in [*adata.obs, *adata.uns] if key.startswith(OF_SCVI)]
        assert not new, wrong


def test_a_view_as_query_is_not_touched_in_its_parent(tmp_path: Path) -> None:
    adata = as_given("csr", tmp_path)
    model_data = adata.copy()
    SCALEXModel.setup_anndata(model_data, batch_key="batch")
    model = SCALEXModel(model_data, n_hidden=16, n_latent=5)
    model.train(**FEW)
    watch = Watch(adata)
    model.get_latent_representation(adata[10:40])
    watch.check("latent of a view")
    assert not [key for key in [*adata.obs, *adata.uns] if key.startswith(OF_SCVI)]


@pytest.mark.parametrize("profile", ["rna", "preprocess"])
def test_preparation_returns_another_object(tmp_path: Path, profile: str) -> None:
    adata = as_given("csr", tmp_path)
    watch = Watch(adata)
    prepared = getattr(sx.pp, profile)(adata, batch_key="batch")
    prepared.X.data[:] = 0
    prepared.obs["score"] = 0
    watch.check(f"pp.{profile}")


def test_every_result_is_the_caller_s_own(tmp_path: Path) -> None:
    """What is returned shares no memory with the user's object or the model."""
    adata = as_given("dense", tmp_path)
    SCALEXModel.setup_anndata(adata, batch_key="batch")
    model = SCALEXModel(adata, n_hidden=16, n_latent=5)
    model.train(**FEW)
    watch = Watch(adata)
    latent = model.get_latent_representation()
    kept = latent.copy()
    prepared = model.get_prepared()
    latent[:] = 0
    prepared.X.data[:] = 0
    prepared.obs["score"] = 0
    prepared.obsm["X_pca"][:] = 0
    prepared.uns["log1p"]["base"] = 3.0
    np.testing.assert_array_equal(model.get_latent_representation(), kept)
    watch.check("writing into results")
