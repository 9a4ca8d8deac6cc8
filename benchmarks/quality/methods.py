"""The methods: counts in, embeddings of all cells out, each by its own defaults."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scanpy as sc
from anndata import AnnData

import scalex_scvi as sx

QUIET = {"enable_progress_bar": False, "logger": False}


def uncorrected(counts: AnnData, prepared: AnnData, batch: str, label: str, seed: int) -> dict:
    return {"uncorrected": sx.metrics.uncorrected_pca(prepared, n_components=50)}


def scalex_scvi(counts: AnnData, prepared: AnnData, batch: str, label: str, seed: int) -> dict:
    """Train ours by the published recipe."""
    return _ours(prepared, batch, seed, "scalex_scvi")


def scalex_scvi_fast(counts: AnnData, prepared: AnnData, batch: str, label: str, seed: int) -> dict:
    """Train ours with ten times the published learning rate, a tenth of the iterations."""
    return _ours(prepared, batch, seed, "scalex_scvi_fast", lr=2e-3, max_steps=3000)


def _ours(prepared: AnnData, batch: str, seed: int, name: str, **training: float) -> dict:
    sx.SCALEXModel.setup_anndata(prepared, batch_key=batch)
    model = sx.SCALEXModel(prepared, seed=seed)
    model.train(seed=seed, enable_progress_bar=False, **training)
    return {
        f"{name} (running)": model.get_latent_representation(),
        f"{name} (batch)": model.get_latent_representation(batch_stats="batch"),
    }


def scalex(counts: AnnData, prepared: AnnData, batch: str, label: str, seed: int) -> dict:
    """Run the published package with its defaults, but no workers: they only cost time here."""
    np.inf = np.inf  # gone from numpy 2, and used by scalex 1.0.4
    from scalex import SCALEX

    adata = SCALEX(
        [counts.copy()],
        batch_name=batch,
        min_features=0,
        seed=seed,
        ignore_umap=True,
        show=False,
        num_workers=0,
        outdir=_temporary_folder(),  # without one, early stopping fails
    )
    return {"scalex 1.0.4": adata[counts.obs_names].obsm["latent"]}


def _temporary_folder() -> str:
    import tempfile

    return tempfile.mkdtemp()


def harmony(counts: AnnData, prepared: AnnData, batch: str, label: str, seed: int) -> dict:
    import harmonypy

    pca = sx.metrics.uncorrected_pca(prepared, n_components=50)
    corrected = harmonypy.run_harmony(pca, prepared.obs, batch, random_state=seed).Z_corr
    return {"harmony": corrected if corrected.shape == pca.shape else corrected.T}


def scanorama(counts: AnnData, prepared: AnnData, batch: str, label: str, seed: int) -> dict:
    import scanorama

    batches = prepared.obs[batch].astype(str)
    log = prepared.raw[:, prepared.var_names].X
    rows = [np.flatnonzero(batches == name) for name in batches.unique()]
    parts, _ = scanorama.integrate(
        [log[r].toarray() for r in rows],
        [prepared.var_names.to_numpy()] * len(rows),
        seed=seed,
        verbose=0,
    )
    embedding = np.empty((prepared.n_obs, parts[0].shape[1]))
    for r, part in zip(rows, parts, strict=True):
        embedding[r] = part
    return {"scanorama": embedding}


def scvi(counts: AnnData, prepared: AnnData, batch: str, label: str, seed: int) -> dict:
    import scvi as scvi_tools

    return {"scvi": _scvi(scvi_tools, counts, prepared, batch, seed)[1]}


def scanvi(counts: AnnData, prepared: AnnData, batch: str, label: str, seed: int) -> dict:
    """Train on the labels that it is scored by: an upper line."""
    import scvi as scvi_tools

    model, _ = _scvi(scvi_tools, counts, prepared, batch, seed)
    labelled = scvi_tools.model.SCANVI.from_scvi_model(
        model, unlabeled_category="none", labels_key=label
    )
    labelled.train(accelerator="cpu", **QUIET)
    return {"scanvi (sees labels)": labelled.get_latent_representation()}


def _scvi(scvi_tools, counts: AnnData, prepared: AnnData, batch: str, seed: int) -> tuple:
    scvi_tools.settings.seed = seed
    adata = counts[:, prepared.var_names].copy()
    if not np.all(adata.X.data % 1 == 0):
        adata.X.data = np.rint(adata.X.data)  # scVI's likelihood is of counts
    scvi_tools.model.SCVI.setup_anndata(adata, batch_key=batch)
    model = scvi_tools.model.SCVI(adata)
    model.train(accelerator="cpu", **QUIET)
    return model, model.get_latent_representation()


def combat(counts: AnnData, prepared: AnnData, batch: str, label: str, seed: int) -> dict:
    adata = AnnData(prepared.raw[:, prepared.var_names].X.toarray(), obs=prepared.obs.copy())
    sc.pp.combat(adata, key=batch)
    sc.pp.scale(adata, max_value=10)
    return {"combat": sc.pp.pca(adata.X, n_comps=min(50, min(adata.shape) - 1), random_state=0)}


METHODS: dict[str, Callable[[AnnData, AnnData, str, str, int], dict[str, np.ndarray]]] = {
    "uncorrected": uncorrected,
    "scalex_scvi": scalex_scvi,
    "scalex_scvi_fast": scalex_scvi_fast,
    "scalex": scalex,
    "scvi": scvi,
    "scanvi": scanvi,
    "harmony": harmony,
    "scanorama": scanorama,
    "combat": combat,
}
