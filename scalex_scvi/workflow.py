"""The whole job in one call: a thin sequence of reading, preprocessing, model, tools and plots."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import anndata as ad
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from . import pl, pp
from ._core.columns import as_text, set_groups
from ._core.files import is_published
from ._core.keys import MEASURED_IN_QUERY_KEY, MEASURED_KEY, REFERENCE_UMAP_KEY, UMAP_KEY
from ._core.matrices import is_lazy
from ._core.measured import mark_measured, measured_genes
from ._core.messages import messages_on_console
from ._core.options import options_in
from ._outputs import Outputs
from ._results import (
    add_imputed,
    as_given,
    check_outputs,
    finish,
    forget_registration,
    kept,
    kept_training,
    results_folder,
    warn_of_lost_cells,
)
from .io import (
    BATCH_COLUMN_KEY,
    DataSource,
    Reading,
    RunFolder,
    batch_column,
    load_counts,
    make_writable,
    rename_batches,
)
from .model import SCALEXModel
from .pp import Preparation
from .references import is_reference
from .tl import label_scores, label_transfer, place_on_map
from .train import DEFAULT, Recipe, Schedule

logger = logging.getLogger(__name__)


def SCALEX(
    data_list: DataSource | Sequence[DataSource] | None = None,
    batch_categories: Sequence[str] | None = Reading.batch_categories,
    profile: str = Preparation.profile,
    batch_name: str = Reading.batch_name,
    min_features: int | None = Preparation.min_features,
    min_cells: int | None = Preparation.min_cells,
    target_sum: float | Literal["median"] | None = Preparation.target_sum,
    n_top_features: int | str | Sequence[str] | None = Preparation.n_top_features,
    join: Literal["inner", "outer"] = Reading.join,
    batch_key: str = Reading.batch_key,
    processed: bool = Preparation.processed,
    fraction: float | None = Reading.fraction,
    n_obs: int | None = Reading.n_obs,
    use_layer: str = Reading.use_layer,
    backed: bool = Reading.backed,
    batch_size: int = Recipe.batch_size,
    lr: float = Recipe.lr,
    max_iteration: int | None = Recipe.max_steps,
    seed: int | None = None,
    gpu: int = 0,
    outdir: str | os.PathLike[str] | None = Outputs.outdir,
    projection: str | os.PathLike[str] | None = None,
    repeat: bool = Outputs.repeat,
    impute: bool | str | None = Outputs.impute,
    chunk_size: int = Outputs.chunk_size,
    ignore_umap: bool = Outputs.ignore_umap,
    verbose: bool | None = None,
    assess: bool = Outputs.assess,
    show: bool = Outputs.show,
    eval: bool = False,
    num_workers: int = 4,
    *,
    lr_schedule: Schedule = Recipe.lr_schedule,
    alignment_weight: float = Recipe.alignment_weight,
    start_at_mean: bool = Recipe.start_at_mean,
    residual: bool = Recipe.residual,
    remove_offsets: bool = Recipe.remove_offsets,
    label: str | None = Outputs.label,
    unknown: bool = Outputs.unknown,
    batch_stats: Literal["running", "batch"] = Outputs.batch_stats,
    log_normalized: bool | None = Preparation.log_normalized,
    gene_names: str | None = Reading.gene_names,
    min_gene_share: float = Reading.min_gene_share,
    genome: str | None = Reading.genome,
    progress_bar: bool | None = None,
    resume: bool = Outputs.resume,
) -> AnnData:
    """Integrate single-cell data sets, or project new cells onto an integrated reference.

    The arguments of the published package, all of them, and fourteen more by keyword.

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
        Column of ``obs`` with the batches; ``"donor,protocol"`` combines columns. The result has
        them in ``obs["batch"]``, unless the data have another column of that name: see Returns.
    min_features
        Cells with fewer detected features are removed, with a warning if these are more than a
        tenth; 0 keeps all. Default: 600 in RNA, 100 in ATAC, 0 in ADT, and none in a projection.
    min_cells
        Features detected in fewer cells are removed (3 in RNA and ATAC, 1 in ADT). Not used in a
        projection.
    target_sum
        Total of a cell after normalization, or ``"median"``. Default: 1e4; ADT takes none, and a
        projection uses that of the reference.
    n_top_features
        Number of variable features (2000 in RNA, 30 000 in ATAC, all in ADT), -1 for all, a list,
        or a text file with one a line. A projection uses those of the reference.
    join
        Whether several sources are joined on the features that all have (``"inner"``), or that
        any has (``"outer"``).
    batch_key
        Column of ``obs`` for the names of several sources. Of one source, the column with the
        batches, like ``batch_name``.
    processed
        Whether the values are processed already: nothing is filtered, normalized or selected,
        features are only scaled to [0, 1] within each batch.
    fraction, n_obs
        Share or number of cells to draw at random.
    use_layer
        ``"X"``, or the key of a layer or of ``obsm`` to use instead; ``"raw"``: the expression in
        ``.raw``. Where ``X`` is normalized and ``.raw`` holds counts, as in files of CELLxGENE,
        these are taken by themselves, with a warning.
    backed
        Whether to read from disk only what is used (one ``.h5ad`` file), a query in blocks.
    batch_size
        Cells per minibatch.
    lr
        Learning rate.
    max_iteration
        Number of minibatches, rounded up to whole epochs; ``None``: 1 000 to 3 000, more for
        sparser expression or many types. The published training is
        ``batch_size=64, lr=2e-4, max_iteration=30_000, lr_schedule="constant",
        alignment_weight=0, start_at_mean=False, residual=False,
        remove_offsets=False``: see :meth:`SCALEXModel.train`.
    seed
        Seed of everything random; ``None``: ``scvi.settings.seed``, else 124 as published.
    gpu
        Index of the GPU to use; without a GPU the CPU is used.
    outdir
        Run folder to write: ``checkpoint/``, ``adata.h5ad``, ``umap.png``, ``umap.pdf``,
        ``report.html``, ``log.txt``. ``None``: nothing is written.
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
        ``None``: warnings are printed, and the progress of the training is shown. ``True``: all
        messages, too. ``False``: warnings alone. Messages are in ``log.txt`` in any case.
    assess
        Whether to add scores to ``uns``, ``batch_entropy_mixing_score`` and, where there are
        labels, ``silhouette_score`` among them: see :func:`scalex_scvi.metrics.integration_scores`.
    show
        Whether to show the UMAP.
    eval
        ``True`` uses running statistics whatever ``batch_stats`` says. The published default,
        ``False``, normalizes by random minibatches, so that results differ between calls; that
        does not exist here.
    num_workers
        Has no effect: cells are loaded as whole minibatches by the main process, which is faster
        than by worker processes, and no result depends on it.
    lr_schedule
        ``"cosine"``, or ``"constant"`` (published): training then stops when the loss no longer
        falls.
    alignment_weight
        Weight of the term of the loss that aligns the batches in the latent (see
        :class:`scalex_scvi.train.Recipe`). 0 as published, and where each batch has types that the
        others lack.
    start_at_mean
        Whether the decoder starts at the cells' mean expression; ``False``: published.
    residual
        Whether the decoder has a nonlinear part, and the prior is a mixture, where many cells have
        many types; ``False``: published.
    remove_offsets
        Whether what training leaves of the batches' offsets among neighboring cells is removed
        from the encoder at its end; ``False``: published.
    label
        Column of ``obs`` with cell types to draw and assess (``"celltype"`` if there is one). In a
        projection, also transferred from the reference into ``obs[f"{label}_transfer"]``.
    unknown
        Whether transferred labels may be ``"unknown"``, by a threshold calibrated on held-out
        reference cells: see :func:`scalex_scvi.label_transfer`. Also adds probability, p-value
        and whether it is unknown, by the names that :func:`scalex_scvi.map_query` uses.
    batch_stats
        Statistics of the encoder: ``"running"`` or ``"batch"``, see
        :meth:`SCALEXModel.get_latent_representation`.
    log_normalized
        Whether the values are log-normalized already; they are then selected and scaled only.
        ``None``: counts are expected, and values that look log-normalized raise an error.
    gene_names
        Column of ``var`` with the names of genes, instead of ``var_names``.
    min_gene_share
        Share of the reference's genes that projected cells must have, 0 to 1; cells with fewer are
        refused, since most of their genes would have to be guessed.
    genome
        Genome whose features are used where a file has several, or ``"all"``.
    progress_bar
        Whether to show the progress of the training; ``None``: unless ``verbose`` is ``False``.
    resume
        Whether to continue the training of an interrupted run of the same data and options into
        ``outdir``, whose state is kept there every ten minutes. Where there is none, it starts
        anew. The result is that of an uninterrupted run.

    Returns
    -------
    Cells × selected features with ``obsm["latent"]`` and ``obsm["X_umap"]``, ``obs["batch"]`` and
    ``obs["leiden"]``. Where the data have an ``obs["batch"]`` that differs from the batches, it
    stays as it is, and the batches are in the column named; ``uns["scalex_batch_key"]`` says which
    column they are in. After a projection also ``obs["projection"]``, ``"reference"`` or
    ``"query"``, and the reference's cells unless ``repeat``. If the projected cells lack genes,
    which are zero then, these are False in ``var["scalex_measured_in_query"]`` (with ``repeat``,
    ``"scalex_measured"``).

    Raises
    ------
    FileNotFoundError, KeyError, TypeError, ValueError
        For input that cannot be used, with what to do about it. Nothing is written then.

    References
    ----------
    Xiong et al., Nat Commun 13:6118, 2022.
    """
    given = locals()
    if data_list is None:
        msg = "`data_list` is None: give files, folders or AnnData objects with counts."
        raise TypeError(msg)
    common: dict[str, Any] = {
        "reading": options_in(Reading, given),
        "preparation": options_in(Preparation, given),
        "outputs": options_in(Outputs, given, batch_stats="running" if eval else batch_stats),
        "seed": seed,
    }
    with messages_on_console(True, logging.INFO if verbose else logging.WARNING):
        if projection is not None:
            return project(data_list, projection, **common)
        recipe = options_in(Recipe, given, max_steps=max_iteration)
        shown = verbose is not False if progress_bar is None else progress_bar
        machine = on_gpu(gpu) | {"enable_progress_bar": shown}
        return integrate(data_list, recipe=recipe, train_kwargs=machine, **common)


def integrate(
    data: DataSource | Sequence[DataSource],
    *,
    reading: Reading = Reading(),
    preparation: Preparation = Preparation(),
    recipe: Recipe = DEFAULT,
    outputs: Outputs = Outputs(),
    seed: int | None = None,
    train_kwargs: Mapping[str, Any] | None = None,
) -> AnnData:
    """Integrate batches of counts.

    Parameters
    ----------
    data
        Counts: see :func:`scalex_scvi.io.read`.
    reading
        What to read, and where the batches are.
    preparation
        How the counts are prepared.
    recipe
        How the model is trained.
    outputs
        What is added to the result, and written.
    seed
        Seed of everything random.
    train_kwargs
        Further arguments of :meth:`SCALEXModel.train`: the machine, for example
        (:func:`on_gpu`).

    Returns
    -------
    See :func:`SCALEX`.

    Raises
    ------
    FileNotFoundError, KeyError, TypeError, ValueError
        See :func:`SCALEX`.
    """
    data = as_given(data)
    with results_folder(outputs, data) as folder:
        counts = load_counts(
            data,
            reading,
            seed=seed,
            counts_wanted=_undeclared(preparation),
            profile=preparation.profile,
        )
        if folder is not None:
            outputs = _as_written(counts, outputs)
        preparation = preparation.as_documented()
        adata = prepare(counts, preparation, label=outputs.label)
        check_outputs(adata, outputs)  # now, not after the training
        SCALEXModel.setup_anndata(adata, batch_key=batch_column(adata))
        model = SCALEXModel(adata, seed=seed)
        with kept_training(outputs, train_kwargs or {}) as how:
            model.train(recipe=recipe, seed=seed, **how)
        with kept(model, outputs):
            adata.obsm["latent"] = model.get_latent_representation(batch_stats=outputs.batch_stats)
            add_imputed(adata, model, outputs)
            options = (reading, preparation, recipe)
            finish(adata, model, outputs, folder, seed=seed, before=counts, options=options)
    return adata


def project(
    data: DataSource | Sequence[DataSource],
    reference: str | os.PathLike[str],
    *,
    reading: Reading = Reading(),
    preparation: Preparation = Preparation(),
    outputs: Outputs = Outputs(),
    seed: int | None = None,
) -> AnnData:
    """Project counts of new cells onto a reference, without training.

    Parameters
    ----------
    data
        Counts: see :func:`scalex_scvi.io.read`.
    reference
        Run folder of :func:`integrate`.
    reading
        What to read, and where the batches are: by default in the column that the reference used.
    preparation
        ``min_features`` (by default no cell is removed), ``processed`` and ``log_normalized``; all
        else is as in the reference.
    outputs
        What is added to the result, and written. ``label`` is transferred from the reference.
    seed
        Seed of everything random.

    Returns
    -------
    See :func:`SCALEX`.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If ``outputs.outdir`` is the reference, or this is one by name
        (:mod:`scalex_scvi.references`).
    """
    source = RunFolder(reference)
    if is_reference(source.path):
        msg = (
            f"{str(reference)!r} is a reference by name, without counts, and no run folder. Map "
            "onto it by `scalex_scvi.map_query`, or `scalex-scvi map --reference`."
        )
        raise ValueError(msg)
    outdir = outputs.outdir
    if outdir is not None and RunFolder(outdir).path.resolve() == source.path.resolve():
        msg = f"`outdir` {str(outdir)!r} is the reference, which the results would replace."
        raise ValueError(msg)
    if not source.path.is_dir():
        msg = f"There is no folder {str(reference)!r}. Name the run folder of an integration."
        raise FileNotFoundError(msg)
    data = as_given(data)
    with results_folder(outputs, data) as folder:
        reference_model, ref = _open_reference(source, outputs.batch_stats)
        _check_imputed(reference_model, outputs.impute)
        _check_label(ref, source, outputs.label)
        record = reference_model.preprocessing
        wanted = _undeclared(preparation) and record is not None and not record.log_normalized
        counts = load_query(data, reading, reference_model, seed, counts_wanted=wanted)
        if folder is not None:
            outputs = _as_written(counts, outputs)
        counts = _rich_cells(counts, preparation, reference_model, outputs.label)
        model = SCALEXModel.load_query_data(
            counts,
            reference_model,
            log_normalized=preparation.processed or preparation.log_normalized,
            min_gene_share=reading.min_gene_share,
        )
        query = _in_memory(model.get_prepared())
        query.obsm["latent"] = model.get_latent_representation(batch_stats=outputs.batch_stats)
        if outputs.unknown and outputs.label is None:
            logger.warning("`unknown` has no effect without `label`: no labels are transferred.")
        if outputs.label is not None:
            logger.info("Labels of %d cells, %r of the reference.", query.n_obs, outputs.label)
            _transfer(ref, query, outputs.label, unknown=outputs.unknown)
            for each in (ref, query):
                _label_as_text(each, outputs.label)
        alone = outputs.repeat or ref is None
        if not alone:
            _place_on_own_map(ref, query)
        for each in (query,) if alone else (ref, query):  # apart: a query may lack genes
            add_imputed(each, model, outputs)
        adata = _query_alone(query) if alone else _together(ref, query)
        _keep_colors(adata, ref, query, outputs.label)
        if ref is None and not outputs.repeat:
            logger.warning("The reference folder holds no cells: the query is returned alone.")
        options = (reading, preparation)
        finish(adata, model, outputs, folder, seed=seed, before=counts, options=options)
    return adata


def load_data(
    data_list: DataSource | Sequence[DataSource],
    batch_categories: Sequence[str] | None = Reading.batch_categories,
    profile: str = Preparation.profile,
    join: Literal["inner", "outer"] = Reading.join,
    batch_key: str = Reading.batch_key,
    batch_name: str = Reading.batch_name,
    min_features: int | None = Preparation.min_features,
    min_cells: int | None = Preparation.min_cells,
    target_sum: float | Literal["median"] | None = Preparation.target_sum,
    n_top_features: int | str | Sequence[str] | None = Preparation.n_top_features,
    backed: bool = Reading.backed,
    fraction: float | None = Reading.fraction,
    n_obs: int | None = Reading.n_obs,
    processed: bool = Preparation.processed,
    use_layer: str = Reading.use_layer,
    seed: int | None = None,
    genome: str | None = Reading.genome,
    **preparation: Any,
) -> AnnData:
    """Read data sets, put them together and prepare them for a model.

    Its name in the published documentation is ``scalex_scvi.io.load_data``.

    Parameters
    ----------
    data_list, seed
        See :func:`scalex_scvi.io.load_counts`.
    batch_categories, join, batch_key, batch_name, backed, fraction, n_obs, use_layer, genome
        See :class:`scalex_scvi.io.Reading`.
    profile, min_features, min_cells, target_sum, n_top_features, processed, **preparation
        See :class:`scalex_scvi.pp.Preparation`.

    Returns
    -------
    Cells × selected features in [0, 1], as :func:`scalex_scvi.pp.preprocess` returns them, with
    batches as :func:`scalex_scvi.io.load_counts` stores them. Minibatches are made by scvi-tools'
    loaders.

    Raises
    ------
    FileNotFoundError, KeyError, TypeError, ValueError
        As :func:`scalex_scvi.io.load_counts` and :func:`scalex_scvi.pp.preprocess`.
    """
    given = locals()
    options = options_in(Preparation, given, **preparation)
    counts = load_counts(
        data_list,
        options_in(Reading, given),
        seed=seed,
        counts_wanted=_undeclared(options),
        profile=options.profile,
    )
    return prepare(counts, options)


def prepare(counts: AnnData, preparation: Preparation, *, label: str | None = None) -> AnnData:
    """Prepare counts for a model, and warn where a filter takes many cells.

    Parameters
    ----------
    counts
        From :func:`scalex_scvi.io.load_counts`. Not changed.
    preparation
        How they are prepared.
    label
        Column of ``obs`` with cell types, to count the removed cells by.

    Returns
    -------
    See :func:`scalex_scvi.pp.preprocess`.
    """
    adata = pp.prepare(counts, preparation.as_documented(), batch_key=batch_column(counts))
    warn_of_lost_cells(counts, adata, label)
    return adata


def _undeclared(preparation: Preparation) -> bool:
    """Whether nothing is declared about the values, so that counts are expected."""
    return preparation.log_normalized is None and not preparation.processed


def on_gpu(gpu: int) -> dict[str, Any]:
    """Return the arguments of :meth:`SCALEXModel.train` for one GPU, or the CPU without one."""
    if not torch.cuda.is_available():
        return {"accelerator": "cpu"}
    return {"accelerator": "gpu", "devices": [gpu]}


def _as_written(counts: AnnData, outputs: Outputs) -> Outputs:
    """Convert what cannot be written, now and not after the training; follow a renamed label."""
    renamed = make_writable(counts)
    return replace(outputs, label=renamed.get(outputs.label, outputs.label))


def load_query(
    data: DataSource | Sequence[DataSource],
    reading: Reading,
    reference_model: SCALEXModel,
    seed: int | None,
    *,
    counts_wanted: bool,
) -> AnnData:
    """Read new cells, with their batches in the column that the reference has them in.

    A large file stays on disk, see :func:`scalex_scvi.io.load_counts`.

    Parameters
    ----------
    data, reading, seed, counts_wanted
        See :func:`scalex_scvi.io.load_counts`.
    reference_model
        Model of the reference.

    Returns
    -------
    See :func:`scalex_scvi.io.load_counts`.
    """
    column = reference_model.get_setup_arg("batch_key") or Reading.batch_name
    if (reading.batch_name, reading.batch_key) == (Reading.batch_name, Reading.batch_key):
        reading = replace(reading, batch_name=column, batch_key=column)
    record = reference_model.preprocessing
    counts = load_counts(
        data,
        reading,
        seed=seed,
        reference=reference_model.batch_names,
        counts_wanted=counts_wanted,
        in_blocks=True,
        profile=None if record is None else record.profile,
    )
    rename_batches(counts, column)
    return counts


def _in_memory(prepared: AnnData) -> AnnData:
    """Read the model's genes of a file that stays on disk: of most files, a small part."""
    if is_lazy(prepared.X):
        prepared.X = sparse.csr_matrix(prepared.X.compute())
    return prepared


def _rich_cells(
    counts: AnnData, preparation: Preparation, reference_model: SCALEXModel, label: str | None
) -> AnnData:
    """Cells of a query with enough features, by default all of them."""
    record = reference_model.preprocessing
    profile = Preparation.profile if record is None else record.profile
    kept = pp.filter_cells(counts, preparation.min_features or 0, profile=profile)
    warn_of_lost_cells(counts, kept, label)
    return kept


def _open_reference(source: RunFolder, batch_stats: str) -> tuple[SCALEXModel, AnnData | None]:
    """Model and cells of a run folder, also of one that the published package wrote."""
    ref = source.read_adata()
    if not is_published(source.checkpoint):
        return SCALEXModel.load(source.checkpoint, adata=False), ref
    model = SCALEXModel.from_scalex(source.path)
    if ref is not None:
        # The published latent is not what the published checkpoint gives, see from_scalex.
        ref.obsm["latent"] = model.get_latent_representation(ref, batch_stats=batch_stats)
        forget_registration(ref)
        logger.info("%s is of the published package: its latent is computed anew.", source.path)
    return model, ref


def _check_imputed(reference: SCALEXModel, impute: bool | str | None) -> None:
    """Raise before the query is read if its expression cannot be decoded by the batch named."""
    trained = [name for name in reference.batch_names if name not in reference.untrained_batches_]
    if isinstance(impute, str) and impute not in trained:
        msg = (
            f"`impute` {impute!r} is not a batch of the reference: {trained!r}. The decoder of a "
            "query's batches is not trained in a projection: `SCALEXModel.load_query_data`, "
            "`train()` and `impute()` do that."
        )
        raise ValueError(msg)


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


def _transfer(ref: AnnData, query: AnnData, label: str, *, unknown: bool) -> None:
    """Write the transferred labels, and with ``unknown`` how sure they are, into ``query.obs``."""
    column = batch_column(query)
    if not unknown:
        query.obs[f"{label}_transfer"] = label_transfer(ref, query, label=label, batch_key=column)
        return
    found = label_scores(ref, query, labels_key=label, batch_key=column)
    for name, values in found.to_frame().items():
        query.obs[name] = values
    query.obs[f"{label}_transfer"] = found.labels_or_unknown()


def _label_as_text(adata: AnnData | None, label: str) -> None:
    """Name labels as the transferred ones are named, whatever the type of the column."""
    if adata is not None and label in adata.obs:
        set_groups(adata, label, as_text(adata.obs[label]))


def _place_on_own_map(ref: AnnData, query: AnnData) -> None:
    """Keep the reference's own map beside the one that is drawn for both."""
    if UMAP_KEY in ref.obsm:
        own = ref.obsm[REFERENCE_UMAP_KEY] = np.asarray(ref.obsm[UMAP_KEY])
        query.obsm[REFERENCE_UMAP_KEY] = place_on_map(ref.obsm["latent"], own, query.obsm["latent"])


def _keep_colors(adata: AnnData, ref: AnnData | None, query: AnnData, label: str | None) -> None:
    """Give batches and labels the colors that they have in the reference, and then in the query."""
    columns = [batch_column(query), *([] if label is None else [label, f"{label}_transfer"])]
    if ref is not None:
        pl.store_colors(ref, [name for name in columns if name in ref.obs])
    like = [query] if ref is None else [ref, query]
    pl.store_colors(adata, [name for name in columns if name in adata.obs], like=like)


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
    in_query = measured_genes(query.var)
    for each in (ref, query):  # what one came with is not said of the other
        each.var = each.var.drop(columns=MEASURED_KEY, errors="ignore")
    del ref.raw  # of all the reference's genes, which the prepared query does not have
    _leave_out_what_one_lacks(ref, query)
    joined = ad.concat(
        {"reference": ref, "query": query},
        label="projection",
        join="outer",  # of the columns of obs
        merge="first",
        index_unique="-" if shared else None,
    )
    mark_measured(joined.var, in_query, MEASURED_IN_QUERY_KEY)
    joined.uns[BATCH_COLUMN_KEY] = batch_column(query)
    record, of_query = (pp.Preprocessing.from_adata(adata) for adata in (ref, query))
    if record is not None and of_query is not None:
        record.with_new_batches(of_query.scale, record.batch_key).to_adata(joined)
    return joined


def _leave_out_what_one_lacks(ref: AnnData, query: AnnData) -> None:
    """Remove layers and ``obsm`` that would be NaN for the other's cells, or of another map."""
    for kind in ("layers", "obsm"):
        of_ref, of_query = getattr(ref, kind), getattr(query, kind)
        shared = {
            key
            for key in of_ref.keys() & of_query.keys()
            if key is not None and of_ref[key].shape[1:] == of_query[key].shape[1:]
        } - {"X_umap"}
        for keys in (of_ref, of_query):
            for key in [key for key in keys if key is not None and key not in shared]:
                if not key.startswith("X_umap") and (keys is of_ref or key in of_ref):
                    logger.info("%s[%r] is not of both, reference and query: left out.", kind, key)
                del keys[key]
