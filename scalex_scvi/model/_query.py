"""Bringing new cells into the form that a trained model expects."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from anndata import AnnData

from scalex_scvi._core.columns import check_batch_column
from scalex_scvi.pp import Preprocessing, prepare_query, reindex

logger = logging.getLogger(__name__)

UNLABELED = "unknown"
"""Label of query cells that have none."""


def prepare_for_model(
    adata: AnnData,
    *,
    setup: Mapping[str, Any],
    genes: Sequence[str],
    record: Preprocessing | None,
    layer: str | None,
    log_normalized: bool | None,
    processed: bool | None,
) -> AnnData:
    """Return new cells with the reference's genes, scaled, where the reference registered them.

    Parameters
    ----------
    adata
        New cells; not changed.
    setup
        Arguments of the reference's ``setup_anndata``.
    genes
        The reference's genes.
    record
        The reference's preprocessing.
    layer, log_normalized, processed
        See :meth:`SCALEXModel.load_query_data`.
    """
    batch_key, labels_key, model_layer = (
        setup[key] for key in ("batch_key", "labels_key", "layer")
    )
    check_batch_column(adata, batch_key)
    if processed is None:
        processed = record is None or Preprocessing.from_adata(adata) is not None
    if processed:
        query = _as_it_is(adata, genes, layer=layer or model_layer)
    elif record is None:
        msg = (
            "The reference does not know how its counts were prepared, so that `processed=False` "
            "is impossible: prepare the query like the reference, and pass `processed=True`."
        )
        raise ValueError(msg)
    else:
        query = prepare_query(
            adata, record, batch_key=batch_key, layer=layer, log_normalized=log_normalized
        )
    if model_layer is not None:
        query.layers[model_layer] = query.X
    if labels_key is not None:
        query.obs[labels_key] = _labels(query.obs, labels_key)
    return query


def _as_it_is(adata: AnnData, genes: Sequence[str], *, layer: str | None) -> AnnData:
    layer = layer if layer in adata.layers else None
    query = reindex(adata, genes, layer=layer)
    own = Preprocessing.from_adata(adata)
    if own is not None:
        scale = own.scale.reindex(query.var_names, fill_value=0)
        own.with_scale(scale, own.batch_key).to_adata(query)
    return query


def _labels(obs: pd.DataFrame, labels_key: str) -> pd.Series:
    """Labels of the query, for scvi-tools' registration; they play no part in the projection."""
    if labels_key not in obs:
        logger.info("The query has no %r; its cells are labelled %r.", labels_key, UNLABELED)
        return pd.Series(UNLABELED, index=obs.index, dtype="category")
    labels = obs[labels_key].astype(object)
    return labels.where(labels.notna(), UNLABELED).astype("category")
