"""The whole job in one call: a thin sequence of reading, preprocessing, model, tools and plots."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import anndata as ad
import pandas as pd
import scanpy as sc
from anndata import AnnData

from . import datasets, metrics, pl, pp
from ._rng import resolve_seed
from .io import RunFolder, read
from .io._read import DataSource
from .model import SCALEXModel
from .tl import label_transfer

logger = logging.getLogger(__name__)


def integrate(
    data: DataSource | Sequence[DataSource],
    outdir: str | os.PathLike[str],
    *,
    batch_key: str = "batch",
    batch_categories: Sequence[str] | None = None,
    label: str | None = None,
    batch_stats: str = "running",
    seed: int | None = None,
    preprocessing: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
) -> AnnData:
    """Integrate batches of counts and write a run folder.

    Parameters
    ----------
    data
        Counts: see :func:`scalex_scvi.io.read`.
    outdir
        Run folder: ``checkpoint/``, ``adata.h5ad``, ``umap.png``, ``umap.pdf``, ``log.txt``.
    batch_key
        Column of ``obs`` with the batches.
    batch_categories
        Names of the batches when there are several sources.
    label
        Column of ``obs`` to draw beside batch and cluster.
    batch_stats
        See :meth:`SCALEXModel.get_latent_representation`.
    seed
        Seed of everything random.
    preprocessing
        Arguments of :func:`scalex_scvi.pp.rna`.
    training
        Arguments of :meth:`SCALEXModel.train`.

    Returns
    -------
    Prepared cells with ``obsm["latent"]``, ``obsm["X_umap"]`` and ``obs["leiden"]``.
    """
    folder = RunFolder(outdir)
    with folder.logged():
        counts = read(data, batch_key=batch_key, batch_categories=batch_categories)
        adata = pp.rna(counts, batch_key=batch_key, **(preprocessing or {}))
        SCALEXModel.setup_anndata(adata, batch_key=batch_key)
        model = SCALEXModel(adata, seed=seed)
        model.train(seed=seed, **(training or {}))
        adata.obsm["latent"] = model.get_latent_representation(batch_stats=batch_stats)
        embed(adata, seed=seed)
        model.save(folder.checkpoint, overwrite=True)
        folder.write_adata(_without_registration(adata))
        colors = [c for c in (batch_key, label, "leiden") if c is not None]
        folder.write_figure(pl.umap(adata, colors), "umap")
        logger.info("Results are in %s.", folder.path)
    return adata


def project(
    data: DataSource | Sequence[DataSource],
    reference: str | os.PathLike[str],
    outdir: str | os.PathLike[str],
    *,
    batch_categories: Sequence[str] | None = None,
    label: str | None = None,
    min_features: int = 0,
    log_normalized: bool | None = None,
    batch_stats: str = "running",
    seed: int | None = None,
) -> AnnData:
    """Project counts of new cells onto a reference without training, and write a run folder.

    Parameters
    ----------
    data
        Counts: see :func:`scalex_scvi.io.read`.
    reference
        Run folder of :func:`integrate`.
    outdir
        Run folder for the results.
    batch_categories
        Names of the batches when there are several sources.
    label
        Column of the reference's ``obs`` to transfer, into ``obs[f"{label}_transfer"]``.
    min_features
        Cells with fewer detected genes are removed, and reported; by default none.
    log_normalized
        See :func:`scalex_scvi.pp.prepare_query`.
    batch_stats
        See :meth:`SCALEXModel.get_latent_representation`.
    seed
        Seed of everything random.

    Returns
    -------
    Reference and query together, with ``obs["projection"]``, ``obsm["latent"]``,
    ``obsm["X_umap"]`` and ``obs["leiden"]``.
    """
    source, folder = RunFolder(reference), RunFolder(outdir)
    with folder.logged():
        model = SCALEXModel.load(source.checkpoint, adata=False)
        batch_key = model.registry["setup_args"]["batch_key"]
        counts = read(data, batch_key=batch_key, batch_categories=batch_categories)
        counts = pp.filter_cells(counts, min_features)
        query_model = SCALEXModel.load_query_data(counts, model, log_normalized=log_normalized)
        query = query_model.adata
        query.obsm["latent"] = query_model.get_latent_representation(batch_stats=batch_stats)
        ref = source.read_adata()
        if label is not None:
            if ref is None:
                msg = f"There is no {str(source.adata)!r} to transfer {label!r} from."
                raise FileNotFoundError(msg)
            query.obs[f"{label}_transfer"] = label_transfer(ref, query, label=label)
        adata = _together(ref, query) if ref is not None else _query_alone(query)
        embed(adata, seed=seed)
        query_model.save(folder.checkpoint, overwrite=True)
        folder.write_adata(adata)
        colors = [str(c) for c in (batch_key, label, f"{label}_transfer") if c in query.obs]
        folder.write_figure(pl.projection(adata, colors), "umap")
        logger.info("Results are in %s.", folder.path)
    return adata


def demo(
    outdir: str | os.PathLike[str],
    data: DataSource | None = None,
    *,
    batch_key: str = "batch",
    label: str = "celltype",
    held_out: str | None = None,
    seed: int | None = None,
    preprocessing: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
) -> pd.DataFrame:
    """Run the main job: integrate all batches but one, project that one, transfer labels, score.

    Parameters
    ----------
    outdir
        Folder for two run folders, ``reference/`` and ``projection/``, and ``scores.csv``.
    data
        Labelled counts; default: :func:`scalex_scvi.datasets.pbmc_technologies`.
    batch_key, label
        Columns of ``obs``.
    held_out
        Batch to project; default: the last one.
    seed
        Seed of everything random.
    preprocessing, training
        See :func:`integrate`.

    Returns
    -------
    Scores and their meaning, one row each.

    Raises
    ------
    KeyError, ValueError
        If a column is absent, or there are fewer than two batches.
    """
    counts = datasets.pbmc_technologies() if data is None else read(data, batch_key=batch_key)
    for column in (batch_key, label):
        if column not in counts.obs:
            msg = f"{column!r} is not a column of obs: {list(counts.obs.columns)!r}."
            raise KeyError(msg)
    batches = [str(name) for name in counts.obs[batch_key].astype("category").cat.categories]
    held_out = batches[-1] if held_out is None else held_out
    if held_out not in batches or len(batches) < 2:
        msg = f"`held_out` {held_out!r} must be one of two or more batches: {batches!r}."
        raise ValueError(msg)
    is_query = (counts.obs[batch_key].astype(str) == held_out).to_numpy()
    folder = RunFolder(outdir)
    ref = integrate(
        counts[~is_query].copy(),
        folder.path / "reference",
        batch_key=batch_key,
        label=label,
        seed=seed,
        preprocessing=preprocessing,
        training=training,
    )
    together = project(
        counts[is_query].copy(),
        folder.path / "reference",
        folder.path / "projection",
        label=label,
        seed=seed,
    )
    scores = metrics.demo_scores(ref, together, batch_key=batch_key, label=label)
    folder.write_text(scores.to_csv(index=False), "scores.csv")
    return scores


def embed(adata: AnnData, *, seed: int | None = None) -> None:
    """Add neighbours, UMAP and Leiden clusters of ``obsm["latent"]`` to ``adata``."""
    random_state = resolve_seed(seed)
    n_neighbors = min(15, adata.n_obs - 1)
    sc.pp.neighbors(adata, use_rep="latent", n_neighbors=n_neighbors, random_state=random_state)
    sc.tl.umap(adata, random_state=random_state)
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False, random_state=random_state)


def _together(ref: AnnData, query: AnnData) -> AnnData:
    shared = set(ref.obs_names) & set(query.obs_names)
    if shared:
        logger.warning(
            "%d cell names are in both: '-reference' or '-query' is added to all.", len(shared)
        )
    del ref.raw  # of all the reference's genes, which the prepared query does not have
    together = ad.concat(
        {"reference": ref, "query": query},
        label="projection",
        join="outer",  # of the columns of obs; the genes are the same
        index_unique="-" if shared else None,
    )
    return _without_registration(together)


def _query_alone(query: AnnData) -> AnnData:
    logger.warning("The reference folder holds no cells: the query is returned alone.")
    alone = _without_registration(query)
    alone.obs["projection"] = pd.Categorical(["query"] * alone.n_obs)
    return alone


def _without_registration(adata: AnnData) -> AnnData:
    """Leave scvi-tools' registration, which means nothing outside this process, out."""
    kept = adata.copy()
    kept.obs = kept.obs.drop(columns=[c for c in kept.obs if str(c).startswith("_scvi")])
    for key in [key for key in kept.uns if key.startswith("_scvi")]:
        del kept.uns[key]
    return kept
