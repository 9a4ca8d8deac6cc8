"""The whole job in one call: a thin sequence of reading, preprocessing, model, tools and plots."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any, Literal

import anndata as ad
import pandas as pd
import torch
from anndata import AnnData

from . import pp
from ._core.messages import messages_on_console
from ._outputs import BATCH, Outputs, forget_registration
from .io import RunFolder, load_counts, load_data
from .io._read import DataSource
from .model import SCALEXModel
from .tl import label_scores, label_transfer
from .train import Schedule

logger = logging.getLogger(__name__)


def SCALEX(
    data_list: DataSource | Sequence[DataSource] | None = None,
    batch_categories: Sequence[str] | None = None,
    profile: str = "RNA",
    batch_name: str = "batch",
    min_features: int | None = None,
    min_cells: int | None = None,
    target_sum: float | None = None,
    n_top_features: int | str | Sequence[str] | None = None,
    join: Literal["inner", "outer"] = "inner",
    batch_key: str = "batch",
    processed: bool = False,
    fraction: float | None = None,
    n_obs: int | None = None,
    use_layer: str = "X",
    backed: bool = False,
    batch_size: int = 64,
    lr: float = 2e-3,
    max_iteration: int | None = None,
    seed: int | None = None,
    gpu: int = 0,
    outdir: str | os.PathLike[str] | None = None,
    projection: str | os.PathLike[str] | None = None,
    repeat: bool = False,
    impute: bool | str | None = None,
    chunk_size: int = 20_000,
    ignore_umap: bool = False,
    verbose: bool = False,
    assess: bool = False,
    show: bool = True,
    eval: bool = False,
    num_workers: int = 4,
    *,
    lr_schedule: Schedule = "cosine",
    alignment_weight: float = 1.0,
    start_at_mean: bool = True,
    label: str | None = None,
    unknown: bool = False,
    batch_stats: str = "running",
    log_normalized: bool | None = None,
    progress_bar: bool = True,
) -> AnnData:
    """Integrate single-cell data sets, or project new cells onto an integrated reference.

    The arguments of the published package, all of them, and eight more by keyword.

    Parameters
    ----------
    data_list
        Files, folders, globs, AnnData objects with raw counts, or a list of these, each a batch
        of its own: see :func:`scalex_scvi.io.read`. Nothing of it is changed.
    batch_categories
        Names of the batches, one for each of several sources; by default 0 to N-1.
    profile
        ``"RNA"``, ``"ATAC"`` or ``"ADT"``: see :func:`scalex_scvi.pp.preprocess`.
    batch_name
        Column of ``obs`` with the batches; ``"donor,protocol"`` combines columns.
    min_features
        Cells with fewer detected features are removed. Default: 600 in RNA, 100 in ATAC, 0 in
        ADT, and none in a projection.
    min_cells
        Features detected in fewer cells are removed (3). Not used in a projection.
    target_sum
        Total of a cell after normalisation. Default: 1e4 in RNA and ATAC; a projection
        uses that of the reference.
    n_top_features
        Number of variable features (2000 in RNA, 30 000 in ATAC), -1 for all, a list, or a text
        file with one a line. A projection uses those of the reference.
    join
        Whether several sources are joined on the features that all have (``"inner"``), or that
        any has (``"outer"``).
    batch_key
        Column of ``obs`` for the names of several sources.
    processed
        Whether the values are processed already: nothing is filtered, normalised or selected,
        features are only scaled to [0, 1] within each batch.
    fraction, n_obs
        Share or number of cells to draw at random.
    use_layer
        ``"X"``, or the key of a layer or of ``obsm`` to use instead.
    backed
        Whether to read from disk only what is used (one ``.h5ad`` file).
    batch_size
        Cells per minibatch.
    lr
        Learning rate.
    max_iteration
        Number of minibatches, rounded up to whole epochs; ``None``: 2 000 to 6 000, the more the
        sparser the expression. The published training is
        ``lr=2e-4, max_iteration=30_000, lr_schedule="constant", alignment_weight=0,
        start_at_mean=False``: see :meth:`SCALEXModel.train`.
    seed
        Seed of everything random; ``None``: ``scvi.settings.seed``, else 124 as published.
    gpu
        Index of the GPU to use; without a GPU the CPU is used.
    outdir
        Run folder to write: ``checkpoint/``, ``adata.h5ad``, ``umap.png``, ``umap.pdf``,
        ``log.txt``. ``None``: nothing is written.
    projection
        Run folder of an integrated reference to project onto, without training; the published
        package's folders work, too.
    repeat
        Whether a projection returns the projected cells alone, else with the reference.
    impute
        Whether to add ``layers["impute"]``: expression in [0, 1] as if all cells were of the
        first batch (``True``), or of the batch named.
    chunk_size
        Cells that are imputed at a time.
    ignore_umap
        Whether to leave out UMAP and clusters.
    verbose
        Whether to print messages; they are in ``log.txt`` in any case.
    assess
        Whether to add scores to ``uns``, ``batch_entropy_mixing_score`` and, where there are
        labels, ``silhouette_score`` among them: see :func:`scalex_scvi.metrics.integration_scores`.
    show
        Whether to show the UMAP.
    eval
        ``True`` uses running statistics whatever ``batch_stats`` says. The published default,
        ``False``, normalises by random minibatches, so that results differ between calls; that
        does not exist here.
    num_workers
        Has no effect: cells are loaded as whole minibatches by the main process, which is faster
        than by worker processes, and no result depends on it.
    lr_schedule
        ``"cosine"``, or ``"constant"`` (published): training then stops when the loss no longer
        falls.
    alignment_weight
        Weight in the loss of the distance of each batch's cells from those of all, everywhere and
        near each cell; 0: published, and for batches of which each has types of its own.
    start_at_mean
        Whether the decoder starts at the cells' mean expression; ``False``: published.
    label
        Column of ``obs`` with cell types to draw and assess (``"celltype"`` if there is one). In a
        projection, also transferred from the reference into ``obs[f"{label}_transfer"]``.
    unknown
        Whether transferred labels may be ``"unknown"``, by a threshold calibrated on held-out
        reference cells: see :func:`scalex_scvi.label_transfer`. Also adds
        ``obs[f"{label}_uncertainty"]``.
    batch_stats
        Statistics of the encoder: ``"running"`` or ``"batch"``, see
        :meth:`SCALEXModel.get_latent_representation`.
    log_normalized
        Whether the values are log-normalised already, to be selected and scaled only. ``None``
        decides, and raises when it looks like it.
    progress_bar
        Whether to show the progress of the training.

    Returns
    -------
    Cells × selected features with ``obsm["latent"]`` and ``obsm["X_umap"]``, ``obs["batch"]`` and
    ``obs["leiden"]``; after a projection also ``obs["projection"]``, ``"reference"`` or
    ``"query"``, and the reference's cells unless ``repeat``.

    Raises
    ------
    FileNotFoundError, KeyError, TypeError, ValueError
        For input that cannot be used, with what to do about it. Nothing is written then.

    References
    ----------
    Xiong et al., Nat Commun 13:6118, 2022.
    """
    if data_list is None:
        msg = "`data_list` is None: give files, folders or AnnData objects with counts."
        raise TypeError(msg)
    reading = {
        "batch_categories": batch_categories,
        "batch_name": batch_name,
        "join": join,
        "batch_key": batch_key,
        "fraction": fraction,
        "n_obs": n_obs,
        "use_layer": use_layer,
        "backed": backed,
    }
    outputs: dict[str, Any] = {
        "outdir": outdir,
        "label": label,
        "unknown": unknown,
        "batch_stats": "running" if eval else batch_stats,
        "impute": impute,
        "chunk_size": chunk_size,
        "ignore_umap": ignore_umap,
        "assess": assess,
        "show": show,
        "seed": seed,
    }
    with messages_on_console(verbose):
        if projection is not None:
            return project(
                data_list,
                projection,
                repeat=repeat,
                min_features=min_features or 0,
                processed=processed,
                log_normalized=log_normalized,
                reading=reading,
                **outputs,
            )
        preprocessing = {
            "profile": profile,
            "min_features": min_features,
            "min_cells": min_cells,
            "target_sum": target_sum,
            "n_top_features": n_top_features,
            "processed": processed,
            "log_normalized": log_normalized,
        }
        training = {
            "lr": lr,
            "max_steps": max_iteration,
            "batch_size": batch_size,
            "lr_schedule": lr_schedule,
            "alignment_weight": alignment_weight,
            "start_at_mean": start_at_mean,
            "enable_progress_bar": progress_bar,
            **_device(gpu),
        }
        return integrate(
            data_list, reading=reading, preprocessing=preprocessing, training=training, **outputs
        )


def integrate(
    data: DataSource | Sequence[DataSource],
    outdir: str | os.PathLike[str] | None = None,
    *,
    reading: dict[str, Any] | None = None,
    preprocessing: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    **outputs: Any,
) -> AnnData:
    """Integrate batches of counts.

    Parameters
    ----------
    data
        Counts: see :func:`scalex_scvi.io.read`.
    outdir
        Run folder to write, or ``None``.
    reading
        Arguments of :func:`scalex_scvi.io.load_counts`.
    preprocessing
        ``profile``, ``processed`` and arguments of :func:`scalex_scvi.pp.preprocess`.
    training
        Arguments of :meth:`SCALEXModel.train`.
    **outputs
        ``seed``, ``label``, ``unknown``, ``batch_stats``, ``impute``, ``chunk_size``,
        ``ignore_umap``, ``assess`` and ``show``: see :func:`SCALEX`.

    Returns
    -------
    See :func:`SCALEX`.
    """
    out = Outputs(outdir=outdir, **outputs)
    with out.run() as folder:
        adata = load_data(data, seed=out.seed, **(reading or {}), **(preprocessing or {}))
        out.check(adata)  # now, not after the training
        SCALEXModel.setup_anndata(adata, batch_key=BATCH)
        model = SCALEXModel(adata, seed=out.seed)
        model.train(seed=out.seed, **(training or {}))
        adata.obsm["latent"] = model.get_latent_representation(batch_stats=out.batch_stats)
        out.finish(adata, model, folder)
    return adata


def project(
    data: DataSource | Sequence[DataSource],
    reference: str | os.PathLike[str],
    outdir: str | os.PathLike[str] | None = None,
    *,
    repeat: bool = False,
    min_features: int = 0,
    processed: bool = False,
    log_normalized: bool | None = None,
    reading: dict[str, Any] | None = None,
    **outputs: Any,
) -> AnnData:
    """Project counts of new cells onto a reference, without training.

    Parameters
    ----------
    data
        Counts: see :func:`scalex_scvi.io.read`.
    reference
        Run folder of :func:`integrate`.
    outdir
        Run folder to write, or ``None``.
    repeat
        Whether to return the projected cells alone, else with the reference.
    min_features
        Cells with fewer detected genes are removed, and reported; by default none.
    processed, log_normalized
        Whether the values are normalised already; ``log_normalized=None`` decides, and raises
        when it looks like it.
    reading
        Arguments of :func:`scalex_scvi.io.load_counts`.
    **outputs
        See :func:`integrate`. ``label`` is transferred from the reference.

    Returns
    -------
    See :func:`SCALEX`.

    Raises
    ------
    ValueError
        If ``outdir`` is the reference.
    """
    out = Outputs(outdir=outdir, **outputs)
    source = RunFolder(reference)
    if outdir is not None and RunFolder(outdir).path.resolve() == source.path.resolve():
        msg = f"`outdir` {str(outdir)!r} is the reference, which the results would replace."
        raise ValueError(msg)
    with out.run() as folder:
        reference_model, ref = _open_reference(source, out.batch_stats)
        _check_label(ref, source, out.label)
        counts = load_counts(data, is_query=True, seed=out.seed, **(reading or {}))
        record = reference_model.preprocessing
        profile = "RNA" if record is None else record.profile
        counts = pp.filter_cells(counts, min_features, profile=profile)
        model = SCALEXModel.load_query_data(
            counts, reference_model, log_normalized=processed or log_normalized
        )
        query = model.get_prepared()
        query.obsm["latent"] = model.get_latent_representation(batch_stats=out.batch_stats)
        if out.label is not None:
            _transfer(ref, query, out.label, unknown=out.unknown)
        adata = _query_alone(query) if repeat or ref is None else _together(ref, query)
        if ref is None and not repeat:
            logger.warning("The reference folder holds no cells: the query is returned alone.")
        out.finish(adata, model, folder)
    return adata


def _device(gpu: int) -> dict[str, Any]:
    """Arguments of :meth:`SCALEXModel.train` for one GPU, or the CPU."""
    if not torch.cuda.is_available():
        return {"accelerator": "cpu"}
    return {"accelerator": "gpu", "devices": [gpu]}


def _open_reference(source: RunFolder, batch_stats: str) -> tuple[SCALEXModel, AnnData | None]:
    """Model and cells of a run folder, also of one that the published package wrote."""
    ref = source.read_adata()
    if not (source.checkpoint / "config.pt").is_file():
        return SCALEXModel.load(source.checkpoint, adata=False), ref
    model = SCALEXModel.from_scalex(source.path)
    if ref is not None:
        # The published latent is not what the published checkpoint gives, see from_scalex.
        ref.obsm["latent"] = model.get_latent_representation(ref, batch_stats=batch_stats)
        forget_registration(ref)
        logger.info("%s is of the published package: its latent is computed anew.", source.path)
    return model, ref


def _check_label(ref: AnnData | None, source: RunFolder, label: str | None) -> None:
    if label is None:
        return
    if ref is None:
        msg = f"There is no {str(source.adata)!r} to transfer {label!r} from."
        raise FileNotFoundError(msg)
    if label not in ref.obs:
        msg = (
            f"`label` {label!r} is not a column of the reference's obs: {list(ref.obs.columns)!r}."
        )
        raise KeyError(msg)


def _transfer(ref: AnnData | None, query: AnnData, label: str, *, unknown: bool) -> None:
    """Write the transferred labels, and with ``unknown`` their uncertainty, into ``query.obs``."""
    if not unknown:
        query.obs[f"{label}_transfer"] = label_transfer(ref, query, label=label, batch_key=BATCH)
        return
    found = label_scores(ref, query, labels_key=label, batch_key=BATCH)
    query.obs[f"{label}_transfer"] = found.labels_or_unknown()
    query.obs[f"{label}_uncertainty"] = found.uncertainty


def _query_alone(query: AnnData) -> AnnData:
    query.obs["projection"] = pd.Categorical(["query"] * query.n_obs)
    return query


def _together(ref: AnnData, query: AnnData) -> AnnData:
    """Join reference and query; their genes are the same."""
    shared = set(ref.obs_names) & set(query.obs_names)
    if shared:
        logger.warning(
            "%d cell names are in both: '-reference' or '-query' is added to all.", len(shared)
        )
    del ref.raw  # of all the reference's genes, which the prepared query does not have
    joined = ad.concat(
        {"reference": ref, "query": query},
        label="projection",
        join="outer",  # of the columns of obs
        merge="first",
        index_unique="-" if shared else None,
    )
    record, of_query = (pp.Preprocessing.from_adata(adata) for adata in (ref, query))
    if record is not None and of_query is not None:
        record.with_new_batches(of_query.scale, record.batch_key).to_adata(joined)
    return joined
