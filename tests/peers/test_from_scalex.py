"""from_scalex: models that the published package, ``scalex==1.0.4``, trained and wrote."""

from __future__ import annotations

import base64
import logging
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData, read_h5ad
from conftest import simulate_counts

import scalex_scvi as sx

scalex = pytest.importorskip("scalex", reason="needs the extra 'peers'")
vae_module = pytest.importorskip("scalex.net.vae", reason="needs the extra 'peers'")

GENES = [f"gene{i}" for i in range(40)]
RUN = {"min_features": 0, "ignore_umap": True, "num_workers": 0, "eval": True, "show": False}
PUBLISHED_ENCODER = [["fc", 1024, 1, "relu"], ["fc", 10, "", ""]]


@pytest.fixture(scope="module", autouse=True)
def on_this_stack() -> Any:
    """What 1.0.4 needs to run today: a name gone from numpy 2, torch.load as it used to be."""
    load = torch.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "Inf", np.inf, raising=False)
        patch.setattr(
            torch, "load", lambda *args, **kwargs: load(*args, **({"weights_only": False} | kwargs))
        )
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that the published package wrote."""
    folder = tmp_path_factory.mktemp("published") / "run"
    counts = simulate_counts(200, 60)
    scalex.SCALEX(counts, n_top_features=40, max_iteration=30, outdir=str(folder), **RUN)
    logging.getLogger("SCALEX").handlers.clear()
    return folder


def from_scalex(folder: Path, **kwargs: Any) -> sx.SCALEXModel:
    return sx.SCALEXModel.from_scalex(folder, accelerator="cpu", **kwargs)


def published_network(folder: Path) -> Any:
    """The published network with its own weights, in eval mode."""
    config = torch.load(folder / "checkpoint" / "config.pt", weights_only=False)
    vae = vae_module.VAE(config["enc"], config["dec"], n_domain=config["n_domain"])
    vae.load_model(folder / "checkpoint" / "model.pt")
    return vae.eval()


def assert_same_network(model: sx.SCALEXModel, vae: Any, adata: AnnData) -> None:
    x = torch.from_numpy(np.asarray(adata.X.toarray(), dtype=np.float32))
    batch = torch.from_numpy(adata.obs["batch"].cat.codes.to_numpy().astype(np.int64))
    with torch.no_grad():
        _, mean, var = vae.encoder(x)
        expression = vae.decoder(mean, batch)
    ours, our_var = model.get_latent_representation(adata, return_dist=True)
    np.testing.assert_allclose(ours, mean, atol=1e-5)
    np.testing.assert_allclose(our_var, var, atol=1e-5)
    imputed = model.get_imputed_expression(adata, return_numpy=True)
    np.testing.assert_allclose(imputed, expression, atol=1e-5)


@pytest.mark.parametrize("part", ["", "checkpoint"])
def test_same_latent_and_expression_as_the_published_network(run: Path, part: str) -> None:
    model = from_scalex(run / part)
    assert model.is_trained_
    assert model.adata is None
    assert model.batch_names == ["batch0", "batch1", "batch2"]
    written = read_h5ad(run / "adata.h5ad")
    assert list(model.get_var_names()) == list(written.var_names)
    assert_same_network(model, published_network(run), written)


def test_a_query_lands_where_the_published_package_puts_it(run: Path) -> None:
    query = simulate_counts(120, 60, n_batches=2, seed=7)
    query.obs["batch"] = query.obs["batch"].cat.rename_categories(["new0", "new1"])
    theirs = scalex.SCALEX(query.copy(), projection=str(run), repeat=True, **RUN)
    ours = sx.SCALEXModel.load_query_data(query, from_scalex(run))
    np.testing.assert_allclose(ours.get_prepared().X.toarray(), theirs.X.toarray(), atol=1e-6)
    np.testing.assert_allclose(ours.get_latent_representation(), theirs.obsm["latent"], atol=1e-5)


def test_cells_are_mapped_onto_a_run(run: Path) -> None:
    query, alike = (simulate_counts(60, 60, n_batches=1, seed=3) for _ in range(2))
    sx.map_query(query, run)
    expected = sx.SCALEXModel.load_query_data(alike, from_scalex(run)).get_latent_representation()
    np.testing.assert_array_equal(query.obsm["X_scalex"], expected)
    with pytest.raises(ValueError, match=r"SCALEX\(query, projection=run, label=\.\.\.\)"):
        sx.map_query(query, run, labels="celltype")


@pytest.mark.parametrize("part", ["", "checkpoint"])
def test_load_says_what_reads_a_run(run: Path, part: str) -> None:
    query = simulate_counts(60, 60, n_batches=1, seed=3)
    for read in (sx.SCALEXModel.load, lambda path: sx.SCALEXModel.load_query_data(query, path)):
        with pytest.raises(ValueError, match=r"published package.*SCALEXModel\.from_scalex"):
            read(run / part)


def test_a_model_saved_into_a_run_is_loaded(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    model = from_scalex(folder)
    model.save(folder, overwrite=True)  # beside theirs
    cells = read_h5ad(run / "adata.h5ad")
    np.testing.assert_array_equal(
        sx.SCALEXModel.load(folder).get_latent_representation(cells),
        model.get_latent_representation(cells),
    )


def test_reference_cells_are_scaled_as_they_were(run: Path) -> None:
    model, written = from_scalex(run), read_h5ad(run / "adata.h5ad")
    some = sx.SCALEXModel.load_query_data(simulate_counts(200, 60)[:50].copy(), model)
    np.testing.assert_allclose(some.get_prepared().X.toarray(), written.X[:50].toarray(), atol=1e-6)
    maximum = written.raw.to_adata()[:, written.var_names].X.max(axis=0).toarray().ravel()
    scaled = model.get_imputed_expression(written, transform_batch="batch1")
    log = model.get_imputed_expression(written, transform_batch="batch1", units="log_normalized")
    np.testing.assert_allclose(log, scaled * maximum, rtol=1e-5)


def test_scale_within_each_batch(run: Path) -> None:
    written = read_h5ad(run / "adata.h5ad")
    expression = written.raw.to_adata()[:, written.var_names].to_df()
    expected = expression.groupby(written.obs["batch"], observed=True).max().T
    scale = from_scalex(run, scale_by="batch").preprocessing.scale
    np.testing.assert_allclose(scale, expected, rtol=1e-6)


def test_scalex_projects_onto_a_published_folder(run: Path) -> None:
    query = simulate_counts(60, 60, n_batches=1, seed=3)
    query.obs["batch"] = "new"
    before = (run / "adata.h5ad").read_bytes()
    both = sx.SCALEX(query, projection=run, label="celltype", ignore_umap=True)
    model = from_scalex(run)
    expected = model.get_latent_representation(read_h5ad(run / "adata.h5ad"))
    is_query = (both.obs["projection"] == "query").to_numpy()
    np.testing.assert_allclose(both.obsm["latent"][~is_query], expected, atol=1e-6)
    alone = sx.SCALEXModel.load_query_data(query, model).get_latent_representation()
    np.testing.assert_allclose(both.obsm["latent"][is_query], alone, atol=1e-6)
    assert both.obs["celltype_transfer"][is_query].notna().all()
    assert (run / "adata.h5ad").read_bytes() == before


def test_saved_and_loaded_like_any_model(run: Path, tmp_path: Path) -> None:
    model, query = from_scalex(run), simulate_counts(60, 60, n_batches=1, seed=3)
    model.save(tmp_path / "m")
    latents = [
        sx.SCALEXModel.load_query_data(query, reference).get_latent_representation()
        for reference in (model, tmp_path / "m")
    ]
    np.testing.assert_array_equal(*latents)
    assert sx.SCALEXModel.load(tmp_path / "m", adata=False).batch_names == model.batch_names


def write(
    folder: Path,
    encoder: list[list[Any]] = PUBLISHED_ENCODER,
    hidden_decoder: tuple[list[Any], ...] = (),
    n_batch: int = 3,
    genes: Any = None,
) -> Path:
    """A checkpoint as the published code writes it, with random weights and statistics."""
    decoder = [*hidden_decoder, ["fc", len(GENES), n_batch, "sigmoid"]]
    torch.manual_seed(0)
    vae = vae_module.VAE(encoder, decoder, n_domain=n_batch)
    x, batch = torch.rand(64, len(GENES)), torch.arange(64) % n_batch
    with torch.no_grad():
        vae.train()(x, batch)
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(parents=True)
    torch.save(vae.state_dict(), checkpoint / "model.pt")
    config = {
        "n_top_features": pd.Index(GENES) if genes is None else genes,
        "enc": encoder,
        "dec": decoder,
        "n_domain": n_batch,
    }
    torch.save(config, checkpoint / "config.pt")
    return folder


def scaled_cells(n_batch: int = 3) -> AnnData:
    batch = pd.Categorical([str(i % n_batch) for i in range(30)])
    adata = AnnData(
        X=np.random.default_rng(0).random((30, len(GENES)), dtype=np.float32),
        obs=pd.DataFrame({"batch": batch}, index=[f"cell{i}" for i in range(30)]),
        var=pd.DataFrame(index=GENES),
    )
    adata.X = sx.pp.batch_scale(adata, "batch").X
    return adata


ARCHITECTURES = {
    "published": {},
    "other widths": {"encoder": [["fc", 512, 1, "relu"], ["fc", 20, "", ""]]},
    "two hidden layers, dropout": {
        "encoder": [["fc", 64, 1, "tanh", 0.1], ["fc", 64, 1, "tanh", 0.1], ["fc", 5, "", ""]]
    },
    "hidden decoder layer": {
        "encoder": [["fc", 32, 1, "leaky_relu"], ["fc", 5, "", ""]],
        "hidden_decoder": (["fc", 32, 1, "leaky_relu"],),
    },
    "one batch": {"n_batch": 1},
}


@pytest.mark.parametrize("kwargs", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_architectures(tmp_path: Path, kwargs: dict[str, Any]) -> None:
    n_batch = kwargs.get("n_batch", 3)
    folder = write(tmp_path, **kwargs)
    model = from_scalex(folder)
    assert model.batch_names == [str(i) for i in range(n_batch)]  # there is no adata.h5ad
    assert_same_network(model, published_network(folder), scaled_cells(n_batch))
    with pytest.raises(ValueError, match="does not know how its input was scaled"):
        model.get_imputed_expression(scaled_cells(n_batch), units="log_normalized")


UNSUPPORTED = {
    "different widths": (
        {"encoder": [["fc", 64, 1, "relu"], ["fc", 32, 1, "relu"], ["fc", 5, "", ""]]},
        r"a hidden layer is \['fc', 32, 1, 'relu', 0\]",
    ),
    "no normalization": (
        {"encoder": [["fc", 64, "", "relu"], ["fc", 5, "", ""]]},
        r"a hidden layer is \['fc', 64, '', 'relu', 0\]",
    ),
    "activation of the latent": (
        {"encoder": [["fc", 64, 1, "relu"], ["fc", 5, "", "relu"]]},
        r"the latent layer is \['fc', 5, '', 'relu', 0\]",
    ),
    "hidden decoder layer of its own width": (
        {"hidden_decoder": (["fc", 32, 1, "relu"],)},
        r"a hidden decoder layer is \['fc', 32, 1, 'relu', 0\]",
    ),
    "genes that are not the output": (
        {"genes": pd.Index(GENES[:30])},
        r"the output layer is \['fc', 40, 3, 'sigmoid', 0\], where only \['fc', 30, 3",
    ),
}


@pytest.mark.parametrize(("kwargs", "message"), UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_networks_that_this_package_cannot_hold(
    tmp_path: Path, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        from_scalex(write(tmp_path, **kwargs))


def replace_pickle(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change the pickle inside a file of torch."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, change(content) if name.endswith("data.pkl") else content)


# The pickle of a configuration with three genes, as pandas 3.0 with pyarrow writes it.
WITH_ARROW = b"""
eNpVUstu1DAUTWeGaWtKacv7XVoeKY/QdqC8VpWQEIqYhdl4E1mexJNEyiQ5TqKSxQhYZL6ZJY4nFao317733HPPsf27N4dl
s03LslJeZjmfSlFWShZY8XORBqJw/ExJJ04D+VMWzkQUkvBUnvFvbYag18FId+7PMbDZQPMFohS4dM4ilBJ1QU6Vys5+lCpO
w9M2QzA8+IPVOdZstq6beC64gWLdz2vRop0knhCuJZVayLJIQOwL5bLOJZ9miosk1lpwmW1oskSoUPLCTMNGgysUm27ftVzL
w1V7fIEhr/mkmk6lItjyud7HSRmnnJNJXcpu6LbP/SyQfkFk2m4Idtiu9X/1ujjo4rCLuMaGRo5mPML1BW5Q3Gxwi+J2gzsU
d6OtaDvaMaDwMDwOR7gXadh9igcNHlI8arBL8Vh62BuX2G/whOKpgfOgtY5n56+wvNovbZLgOVvVkM4l7K+//i71LHBA8WLZ
7ws/kng5x6tqYp4tFTOJ1+NqAYfiDevrlHaLQw9Htodjm7Uupz5G362Bu2JalEwqvNXq3tnRyCXMeD6JTqQ07frG8N7DBw8f
2/rA7RldRRzOsjjAJynYmvl/QTYTcYrPbq9y/gHNR8FB
"""


def test_genes_stored_by_other_versions(tmp_path: Path) -> None:
    as_objects = pd.Index(np.array(GENES, dtype=object), dtype=object)
    folder = write(tmp_path, genes=as_objects)  # pandas 1 and 2
    config = folder / "checkpoint" / "config.pt"
    assert list(from_scalex(folder).get_var_names()) == GENES
    replace_pickle(config, lambda data: data.replace(b"numpy._core", b"numpy.core"))  # numpy 1
    assert list(from_scalex(folder).get_var_names()) == GENES
    replace_pickle(config, lambda _: zlib.decompress(base64.b64decode(WITH_ARROW)))
    with pytest.raises(ValueError, match=r"\['fc', 4, 2, 'sigmoid', 0\], where only \['fc', 3, 2"):
        from_scalex(folder)
    genes = sx.model._published_config.read_config(config).genes
    assert genes == ["g0", "g2", "g3"]


class Malicious:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.mark}'",)


@pytest.mark.parametrize("name", ["config.pt", "model.pt"])
def test_code_in_a_file_is_refused_and_not_executed(tmp_path: Path, name: str) -> None:
    folder, mark = write(tmp_path / "run"), tmp_path / "executed"
    path = folder / "checkpoint" / name
    content = dict(torch.load(path, weights_only=False))
    torch.save(content | {"extra": Malicious(mark)}, path)
    with pytest.raises(ValueError, match=r"is refused: it names 'posix\.system'"):
        from_scalex(folder)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the mark would have been left
    assert mark.exists()


def test_other_objects_are_refused(tmp_path: Path) -> None:
    genes = pd.Series(GENES)
    with pytest.raises(ValueError, match=r"is refused: it names 'pandas\."):
        from_scalex(write(tmp_path, genes=genes))


def _no_model(checkpoint: Path) -> None:
    (checkpoint / "model.pt").unlink()


def _truncated(checkpoint: Path) -> None:
    (checkpoint / "config.pt").write_bytes((checkpoint / "config.pt").read_bytes()[:200])


def _no_domains(checkpoint: Path) -> None:
    config = torch.load(checkpoint / "config.pt", weights_only=False)
    del config["n_domain"]
    torch.save(config, checkpoint / "config.pt")


def _other_weights(checkpoint: Path) -> None:
    write(checkpoint / "other", encoder=[["fc", 64, 1, "relu"], ["fc", 10, "", ""]])
    shutil.copy(checkpoint / "other" / "checkpoint" / "model.pt", checkpoint / "model.pt")


def _fewer_batches(checkpoint: Path) -> None:
    write(checkpoint / "other", n_batch=2)
    shutil.copy(checkpoint / "other" / "checkpoint" / "model.pt", checkpoint / "model.pt")


BAD = {
    "no model": (_no_model, FileNotFoundError, "holds no 'checkpoint/config.pt'"),
    "truncated": (_truncated, ValueError, "cannot be read, or is damaged"),
    "incomplete": (_no_domains, ValueError, "'n_domain'"),
    "weights of another network": (_other_weights, ValueError, "do not fit its configuration"),
    "weights of fewer batches": (_fewer_batches, ValueError, "bns.2.weight"),
}


@pytest.mark.parametrize(("spoil", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_folders(
    tmp_path: Path, spoil: Callable[[Path], None], error: type[Exception], message: str
) -> None:
    folder = write(tmp_path)
    spoil(folder / "checkpoint")
    with pytest.raises(error, match=message):
        from_scalex(folder)


def test_results_of_other_batches_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path)
    scaled_cells(2).write_h5ad(folder / "adata.h5ad")
    with caplog.at_level(logging.WARNING, "scalex_scvi"):
        assert from_scalex(folder).batch_names == ["0", "1", "2"]
    assert "does not hold the 3 batches of the model" in caplog.text
