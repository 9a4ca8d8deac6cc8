"""Run folders that earlier versions wrote are read for ever.

Each archive in ``data/old`` holds ``adata.h5ad`` and ``checkpoint/model.pt`` of a run of the
version of that date: 24 cells × 20 genes (or, as the name says, peaks or proteins) in two batches.
With a new format, add one of each kind; never remove any.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from anndata import AnnData

import scalex_scvi as sx
from scalex_scvi.io import RunFolder

ARCHIVES = sorted((Path(__file__).parent / "data" / "old").glob("*.zip"))


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.stem)
def archive(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def folder(archive: Path, tmp_path: Path) -> RunFolder:
    with zipfile.ZipFile(archive) as found:
        found.extractall(tmp_path)
    return RunFolder(tmp_path)


@pytest.fixture
def profile(archive: Path) -> str:
    kind = archive.stem.rpartition("-")[2]
    return kind.upper() if kind in ("atac", "adt") else "RNA"


def test_there_are_old_files() -> None:
    assert len(ARCHIVES) >= 7
    assert sum(path.stat().st_size for path in ARCHIVES) < 200_000


def test_old_run_folders_are_read(folder: RunFolder, profile: str) -> None:
    """The model gives the latent that its own version gave, with and without its cells."""
    adata = folder.read_adata()
    assert adata is not None
    assert adata.shape == (24, 20)
    record = sx.pp.Preprocessing.from_adata(adata)
    assert record is not None
    assert record.profile == profile
    assert list(record.scale.columns) == ["b0", "b1"]
    with_cells = sx.SCALEXModel.load(folder.checkpoint, adata=adata.copy())
    np.testing.assert_allclose(
        with_cells.get_latent_representation(), adata.obsm["latent"], atol=1e-5
    )
    model = sx.SCALEXModel.load(folder.checkpoint, adata=False)
    assert model.preprocessing is not None
    assert model.preprocessing.genes == tuple(adata.var_names)
    # New cells are projected: counts, of a batch that the model does not know.
    rng = np.random.default_rng(0)
    query = AnnData(rng.poisson(3, size=(10, 20)).astype(np.float32))
    query.var_names = adata.var_names
    query.obs["batch"] = "new"
    placed = sx.SCALEXModel.load_query_data(query, model).get_latent_representation()
    assert placed.shape == (10, 3)
    assert np.isfinite(placed).all()


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (1000, "is in format 1000 of scalex-scvi; this version reads up to format"),
        (None, "is not a model saved by scalex-scvi"),
        ("1", "is not a model saved by scalex-scvi"),
    ],
)
def test_the_format_is_a_number_in_the_file(number: object, message: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(ARCHIVES[0]) as archive:
        archive.extractall(tmp_path)
    path = tmp_path / "checkpoint" / "model.pt"
    content = torch.load(path, weights_only=True)
    assert isinstance(content["scalex_scvi_format"], int)
    torch.save(content | {"scalex_scvi_format": number}, path)
    with pytest.raises(ValueError, match=message):
        sx.SCALEXModel.load(path.parent, adata=False)
