"""Where `X` holds no counts and a layer does, this is said before `X` is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import scanpy as sc
from anndata import AnnData
from conftest import QUIET, simulate_counts

import scalex_scvi as sx
from scalex_scvi import cli

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture
def normalized(counts: AnnData) -> AnnData:
    counts.layers["fractions"] = counts.X.multiply(0.3).tocsr()
    counts.layers["counts"] = counts.X.copy()
    sc.pp.normalize_total(counts, target_sum=1e4)
    sc.pp.log1p(counts)
    return counts


@pytest.fixture(scope="module")
def model() -> sx.SCALEXModel:
    return sx.integrate(simulate_counts(), "batch", max_steps=2, **QUIET)


CALLS: dict[str, Callable[[AnnData, sx.SCALEXModel], object]] = {
    "setup_anndata": lambda adata, _: sx.SCALEXModel.setup_anndata(adata, batch_key="batch"),
    "integrate": lambda adata, _: sx.integrate(adata, "batch", max_steps=2, **QUIET),
    "map_query": lambda adata, model: sx.map_query(adata, model),
    "SCALEX": lambda adata, _: sx.SCALEX(adata, min_features=0, show=False),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_layer_is_named(
    normalized: AnnData, model: sx.SCALEXModel, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    with (
        caplog.at_level(logging.WARNING, "scalex_scvi"),
        pytest.raises(ValueError, match="does not look like counts"),
    ):
        CALLS[name](normalized, model)
    argument = "use_layer" if name == "SCALEX" else "layer"
    assert f"To use these pass `{argument}='counts'`." in caplog.text


def test_in_the_shell(normalized: AnnData, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    normalized.write_h5ad(tmp_path / "a.h5ad")
    argv = ["integrate", str(tmp_path / "a.h5ad"), "-o", str(tmp_path / "out")]
    assert cli.main(argv) == 2
    assert "To use these pass --use-layer counts." in capsys.readouterr().err


def test_nothing_is_said_where_nothing_is_in_doubt(
    normalized: AnnData, model: sx.SCALEXModel, caplog: pytest.LogCaptureFixture
) -> None:
    setup = {"batch_key": "batch"}
    with caplog.at_level(logging.WARNING, "scalex_scvi"):
        sx.SCALEXModel.setup_anndata(normalized, layer="counts", **setup)
        sx.SCALEXModel.setup_anndata(normalized, log_normalized=True, **setup)
        of_counts = simulate_counts()
        of_counts.layers["counts"] = of_counts.X.copy()
        sx.SCALEXModel.setup_anndata(of_counts, **setup)
        sx.map_query(normalized, model, layer="counts")
        prepared = sx.pp.rna(of_counts, batch_key="batch", min_features=0)
        prepared.layers["counts"] = of_counts[:, prepared.var_names].X
        sx.SCALEXModel.setup_anndata(prepared, **setup)
    assert "To use these" not in caplog.text
    assert sx.io.layers_of_counts(normalized) == ["counts"]
    assert sx.io.layers_of_counts(of_counts) == []
