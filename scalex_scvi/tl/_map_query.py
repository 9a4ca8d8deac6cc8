"""Mapping of a query onto a reference, in place: latent, position on the map, and labels."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scalex_scvi._core.columns import check_no_missing
from scalex_scvi._core.files import is_published
from scalex_scvi._core.gene_names import names_in
from scalex_scvi._core.inputs import check_adata
from scalex_scvi._core.keys import LATENT_KEY, MAPPING_KEY, UMAP_KEY
from scalex_scvi._core.matrices import is_lazy
from scalex_scvi._core.measured import measured_genes
from scalex_scvi._core.messages import messages_on_console
from scalex_scvi.io import RunFolder
from scalex_scvi.model import SCALEXModel
from scalex_scvi.pp import MIN_GENE_SHARE
from scalex_scvi.references import Reference, is_reference, is_remote, load

from ._label_model import label_model
from ._label_scores import LabelScores, label_scores, point_to_lone_labels
from ._nested_labels import in_agreement
from ._pair import Pair
from ._place_on_map import place_on_map
from ._points import points_of
from ._query_parts import QueryParts
from ._reference_cells import check_labels, prepared_reference
from ._unknown import check_max_refused

logger = logging.getLogger(__name__)


def map_query(
    query: AnnData,
    reference: SCALEXModel | Reference | str | os.PathLike[str],
    labels: str | Sequence[str] | None = None,
    *,
    layer: str | None = None,
    log_normalized: bool | None = None,
    max_refused: float = 0.05,
    min_gene_share: float = MIN_GENE_SHARE,
    vote_by: str | None = None,
) -> SCALEXModel:
    """Map new cells onto a trained reference, in place and without training.

    Parameters
    ----------
    query
        Cells × genes, counts, with the reference's ``batch_key`` in ``obs``; genes may be missing,
        additional or in another order. ``X`` may be a dask array (:func:`scalex_scvi.io.read_lazy`)
        that does not fit in memory. Labels are then found for some 20 000 cells in each thread: a
        batch of more cells is divided at random into pieces, each a batch of its own. Temporary
        files (``TMPDIR``) take 8 bytes for each value of the model's genes that is not zero. Added
        are

        - ``obsm["X_scalex"]``: the latent, cells × latent dimensions, float32;
        - for each of ``labels``: ``obs[f"{label}_transfer"]``, the most probable label of the
          reference; ``obs[f"{label}_probability"]``, its probability; ``obs[f"{label}_p_value"]``,
          the share of held-out reference cells that fit the reference as badly as the cell does or
          worse; ``obs[f"{label}_unknown"]``, True for a cell that fits no label: its p-value, or
          that of a coarser column (see ``labels``), is at most ``max_refused``;
        - with ``vote_by``: ``obs[f"{label}_voted"]``, the most frequent label, or ``"unknown"``, of
          the cells of the cell's cluster, and ``obs[f"{label}_vote_share"]``, its share of them;
        - ``obsm["X_umap"]``, if the reference has one: the position on the reference's own map,
          whose cells keep their positions (:func:`~scalex_scvi.tl.place_on_map`);
        - ``uns["scalex_mapping"]``: how many of the reference's genes were found;
        - scvi-tools' registration (keys and columns that begin with ``_scvi``).

        Nothing else changes, and no cell is left out.
    reference
        Trained model, with its cells for labels and map, wherever their counts are (see
        :func:`~scalex_scvi.tl.reference_cells`), the folder of a saved one, or the run folder of
        :func:`scalex_scvi.SCALEX` or (without labels) of the published package. Or a reference by
        name: what :func:`scalex_scvi.references.load` returns or takes, ``"hf://OWNER/NAME"`` for
        example.
    labels
        Column or columns of the reference's ``obs`` to transfer. Reference cells without a label
        (NaN) are left out. ``None``: no labels, or, of a reference by name, all that it has. Where
        each label of a column occurs with a single label of another column, as in ``["lineage",
        "celltype"]``, the two labels of a cell agree (not of a reference by name): the coarse label
        is chosen first, by the sums of the probabilities of its fine labels, and then the most
        probable of these. A cell whose coarse label is unknown is unknown in the fine column, too.
    layer
        Layer of the query with the counts, ``"X"``, or ``"raw"`` for those in ``query.raw``;
        default: that of the reference. :func:`scalex_scvi.io.read_lazy` opens a layer as ``X``.
    log_normalized
        Whether the query's values are log-normalized already. ``None``: counts are expected, and
        values that look log-normalized raise an error. See
        :meth:`scalex_scvi.SCALEXModel.load_query_data`.
    max_refused
        Share of held-out reference cells that may be called unknown (see
        :func:`scalex_scvi.tl.label_scores`).
    min_gene_share
        Share of the reference's genes that the query must have: see
        :func:`scalex_scvi.pp.prepare_query`.
    vote_by
        Column of the query's ``obs`` with clusters, such as Leiden clusters of the query alone. All
        cells of a cluster get its most frequent label, so look at the shares: a low one means that
        the cluster mixes types.

    Returns
    -------
    The query's model, whose ``adata`` is ``query`` (with ``layer="raw"`` a new object).

    Raises
    ------
    KeyError, TypeError, ValueError
        For a reference of another type, a label that the reference does not have, a reference
        without cells where labels are wanted, and as
        :meth:`scalex_scvi.SCALEXModel.load_query_data`. Nothing is added then but scvi-tools'
        registration.
    FileNotFoundError, ConnectionError, ImportError
        If the reference is not there, or cannot be fetched: see
        :func:`scalex_scvi.references.load`.
    RuntimeError
        If the reference is not trained.
    """
    with messages_on_console(True):
        check_adata(query, name="query", is_filled=True)
        check_max_refused(max_refused)
        source = _open(reference)
        wanted = _wanted(source, labels)
        _check_clusters(query, vote_by, wanted)
        model = source if isinstance(source, SCALEXModel) else source.model
        mapped = SCALEXModel.load_query_data(
            query,
            model,
            layer=layer,
            log_normalized=log_normalized,
            min_gene_share=min_gene_share,
        )
        latent_of_reference = cache(model.get_latent_representation)  # labels and map need it
        latent, scores = _latent_and_scores(
            source, mapped, wanted, max_refused, latent_of_reference
        )
        columns = _columns(scores, None if vote_by is None else query.obs[vote_by])
        positions = _positions(model, latent, latent_of_reference)
        query.obsm[LATENT_KEY] = latent
        if positions is not None:
            query.obsm[UMAP_KEY] = positions
        for name, values in columns.items():
            # By position: the index of `obs` may be numbers, as `obs.reset_index(inplace=True)`
            # leaves it, where the columns have the same as text.
            query.obs[name] = values.array
        query.uns[MAPPING_KEY] = _found(model, mapped.adata)
    return mapped


def _open(
    reference: SCALEXModel | Reference | str | os.PathLike[str],
) -> SCALEXModel | Reference:
    if isinstance(reference, SCALEXModel | Reference):
        return reference
    if not isinstance(reference, str | os.PathLike):
        msg = (
            f"`reference` is a {type(reference).__name__!r}; allowed are a trained SCALEXModel, "
            "what `scalex_scvi.references.load` returns, and a folder, name or address of these."
        )
        if isinstance(reference, AnnData):
            msg += " Of cells make a model first: `model = scalex_scvi.integrate(reference, ...)`."
        raise TypeError(msg)
    text = os.fspath(reference)
    folder = Path(text).expanduser()
    if is_remote(text) or is_reference(folder) or not folder.exists():
        return load(text)
    if is_published(folder):
        return SCALEXModel.from_scalex(folder)
    if (folder / "checkpoint").is_dir():  # the run folder of SCALEX()
        cells = RunFolder(folder).read_adata()
        return SCALEXModel.load(folder / "checkpoint", adata=False if cells is None else cells)
    return SCALEXModel.load(folder)


def _wanted(source: SCALEXModel | Reference, labels: str | Sequence[str] | None) -> list[str]:
    """Columns of labels to transfer, after checking that the reference has them."""
    wanted = [labels] if isinstance(labels, str) else list(labels or [])
    if isinstance(source, Reference):
        for label in wanted:
            source.check_labels(label)
        return source.labels if labels is None else wanted
    if wanted:
        check_labels(source, wanted)
    return wanted


def _check_clusters(query: AnnData, vote_by: str | None, labels: list[str]) -> None:
    if vote_by is None:
        return
    if not labels:
        msg = f"`vote_by` {vote_by!r}: no labels are transferred to vote for. Give `labels`."
        raise ValueError(msg)
    if not isinstance(vote_by, str) or vote_by not in query.obs:
        msg = f"`vote_by` {vote_by!r} is not a column of the query's obs: {list(query.obs)!r}."
        raise KeyError(msg)
    check_no_missing(query, vote_by, what="cluster")


def _latent_and_scores(
    source: SCALEXModel | Reference,
    mapped: SCALEXModel,
    wanted: list[str],
    max_refused: float,
    latent_of_reference: Callable[[], np.ndarray],
) -> tuple[np.ndarray, dict[str, LabelScores]]:
    """Latent of the query, and scores of each column, in agreement where one is in another."""
    if not wanted:
        return mapped.get_latent_representation(), {}
    query = mapped.get_prepared()
    if isinstance(source, Reference):
        return _by_statistics(source, mapped, query, wanted, max_refused)
    if is_lazy(query.X) and source.preprocessing is None:
        msg = (
            "Labels of a query that is not in memory need a reference of counts; this one has no "
            "record of how its expression was scaled. Read the query into memory: "
            "`query.to_memory()`."
        )
        raise ValueError(msg)
    ref = prepared_reference(source, wanted)
    if ref.n_obs == source.adata.n_obs:
        ref.obsm[LATENT_KEY] = latent_of_reference()
    else:
        ref.obsm[LATENT_KEY] = _encoding(source, ref)(ref.X)
    if is_lazy(query.X):
        latent, scores = _in_parts(ref, mapped, query, wanted, max_refused)
        _point_to_lone_labels(scores, query, mapped.batch_key)
    else:
        query.obsm[LATENT_KEY] = latent = mapped.get_latent_representation()
        scores = {
            label: label_scores(
                ref, query, LATENT_KEY, label, batch_key=source.batch_key, max_refused=max_refused
            )
            for label in wanted
        }
    return latent, in_agreement(scores, ref.obs) if len(scores) > 1 else scores


def _encoding(mapped: SCALEXModel, prepared: AnnData) -> Callable[[Any], np.ndarray]:
    """Return what encodes rows of the prepared values of cells."""
    return partial(mapped.get_latent_of_prepared, measured=measured_genes(prepared.var))


def _by_statistics(
    source: Reference, mapped: SCALEXModel, query: AnnData, wanted: list[str], max_refused: float
) -> tuple[np.ndarray, dict[str, LabelScores]]:
    """Latent and scores by a reference that has no cells."""
    if is_lazy(query.X):
        models = {label: source.label_models[label] for label in wanted}
        parts = QueryParts(query, mapped.batch_key, _encoding(mapped, query))
        latent, scores = parts.latent_and_scores(models, max_refused)
        _point_to_lone_labels(scores, query, mapped.batch_key)
    else:
        query.obsm[LATENT_KEY] = latent = mapped.get_latent_representation()
        scores = {
            label: source.label_scores(query, label, use_rep=LATENT_KEY, max_refused=max_refused)
            for label in wanted
        }
    return latent, scores


def _point_to_lone_labels(
    scores: Mapping[str, LabelScores], query: AnnData, batch_key: str | None
) -> None:
    for found in scores.values():
        point_to_lone_labels(found, query, batch_key)


def _in_parts(
    ref: AnnData, mapped: SCALEXModel, query: AnnData, wanted: list[str], max_refused: float
) -> tuple[np.ndarray, dict[str, LabelScores]]:
    """Latent and scores of a query that is not in memory, and does not have to fit there."""
    batch_key = mapped.batch_key
    parts = QueryParts(query, batch_key, _encoding(mapped, query))
    models = {
        label: label_model(Pair(ref, ref, LATENT_KEY, label, batch_key, 1), parts.sizes)
        for label in wanted
    }
    return parts.latent_and_scores(models, max_refused)


def _columns(scores: dict[str, LabelScores], clusters: pd.Series | None) -> dict[str, pd.Series]:
    """Columns for the query's ``obs``."""
    columns: dict[str, pd.Series] = {}
    for label, found in scores.items():
        columns |= dict(found.to_frame().items())
        if clusters is not None:
            vote = found.vote(clusters)
            columns[f"{label}_voted"] = vote["label"]
            columns[f"{label}_vote_share"] = vote["share"]
    return columns


def _positions(
    model: SCALEXModel, latent: np.ndarray, latent_of_reference: Callable[[], np.ndarray]
) -> np.ndarray | None:
    """Place cells on the reference's map, ``None`` if it has none."""
    if model.adata is None or UMAP_KEY not in model.adata.obsm:
        logger.info("The reference has no obsm[%r]: the query gets none.", UMAP_KEY)
        return None
    own_map = points_of(model.adata, UMAP_KEY, "reference.adata")
    return place_on_map(latent_of_reference(), own_map, latent)


def _found(model: SCALEXModel, query: AnnData) -> dict[str, int]:
    genes = pd.Index(np.asarray(model.get_var_names(), dtype=str))
    n_found = int(genes.isin(names_in(query.var, genes)[0]).sum())
    logger.info("Mapped %d cells by %d of %d genes.", query.n_obs, n_found, len(genes))
    return {"genes_found": n_found, "genes_of_reference": len(genes)}
