"""New cells on a reference by name: what the command line's ``map`` does."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from . import pl
from ._core.columns import as_text
from ._core.keys import LATENT_KEY, MEASURED_IN_QUERY_KEY, REFERENCE_UMAP_KEY, UMAP_KEY
from ._core.matrices import is_lazy
from ._core.measured import mark_measured, measured_genes
from ._core.seeds import random_rows, resolve_seed
from ._outputs import Outputs
from ._results import about_run, as_given, forget_registration, results_folder, write_report
from .io import BATCH_COLUMN_KEY, DataSource, Reading, batch_column, make_writable, paths_of
from .model import SCALEXModel
from .references import Reference
from .tl import UNKNOWN, embed, map_query
from .workflow import load_query

logger = logging.getLogger(__name__)

LABELS_TABLE = "mapped_labels.csv"

MAX_DRAWN = 20_000
"""Cells of the reference that are drawn: more hide each other, and a map of them takes minutes."""

LABEL_UNKNOWN = f"{UNKNOWN} (label)"
"""What a label is called in pictures and report that somebody gave, beside cells that fit none."""

_COLUMNS = ("transfer", "probability", "p_value", "unknown")


def map_onto(
    data: DataSource | Sequence[DataSource],
    reference: Reference,
    *,
    reading: Reading = Reading(),
    outputs: Outputs = Outputs(),
    labels: Sequence[str] | None = None,
    max_refused: float = 0.05,
    report: bool = False,
    seed: int | None = None,
) -> AnnData:
    """Map counts of new cells onto a reference by name, without training.

    Parameters
    ----------
    data
        Counts: see :func:`scalex_scvi.io.read`.
    reference
        From :func:`scalex_scvi.references.load`.
    reading
        What to read, and where the batches are: by default in the column that the reference used;
        cells without one are one batch.
    outputs
        ``outdir``, the run folder to write: ``adata.h5ad``, ``mapped_labels.csv`` and ``umap.png``.
    labels
        Columns of labels to transfer; ``None``: all of the reference.
    max_refused
        See :func:`scalex_scvi.map_query`.
    report
        Whether to write ``report.html``, too.
    seed
        Seed of the maps.

    Returns
    -------
    The cells as they came, with what :func:`scalex_scvi.map_query` adds.
    """
    wanted = reference.labels if labels is None else list(labels)
    data = as_given(data)
    with results_folder(outputs, [*paths_of(data), reference.folder]) as folder:
        counts = load_query(data, reading, reference.model, seed, counts_wanted=True)
        if folder is not None:
            make_writable(counts)
        mapped = map_query(
            counts,
            reference,
            wanted,
            max_refused=max_refused,
            min_gene_share=reading.min_gene_share,
        )
        beside = _beside(reference, mapped, wanted, seed, expression=report)
        _keep_colors(counts, beside, reference, wanted)
        forget_registration(counts)
        if folder is not None:
            make_writable(counts)  # what was added since
            folder.write_adata(counts)
            _labels_table(counts, wanted).to_csv(folder.path / LABELS_TABLE, index_label="cell")
            _draw(beside, wanted, folder.pictures("umap"))
            if report:
                _add_common_map(beside, seed)
                options = {
                    "reference": reference.name,
                    "license of the reference": reference.about["license"],
                    "labels": wanted,
                    "max_refused": max_refused,
                }
                write_report(
                    beside,
                    mapped,
                    folder,
                    label=wanted[0] if wanted else None,
                    before=counts,
                    about=about_run(options, {}, seed),
                )
            logger.info("Results are in %s.", outputs.outdir)
    return counts


def _labels_table(counts: AnnData, labels: Sequence[str]) -> pd.DataFrame:
    return counts.obs[[f"{label}_{what}" for label in labels for what in _COLUMNS]]


def _beside(
    reference: Reference,
    mapped: SCALEXModel,
    labels: Sequence[str],
    seed: int | None,
    *,
    expression: bool,
) -> AnnData:
    """Return reference and query in one object to draw; the reference has no expression."""
    ref, query = reference.model.adata, mapped.get_prepared()
    rows = random_rows(ref.n_obs, MAX_DRAWN, resolve_seed(seed))
    if len(rows) < ref.n_obs:
        logger.info("Of %d reference cells %d at random are drawn.", ref.n_obs, MAX_DRAWN)
    n_empty = len(rows) + (0 if expression else query.n_obs)
    parts = [sparse.csr_matrix((n_empty, query.n_vars), dtype=np.float32)]
    if expression:
        values = query.X.compute() if is_lazy(query.X) else query.X
        parts.append(sparse.csr_matrix(values))
    obs = pd.concat([_of_reference(reference, labels).iloc[rows], _of_query(query, labels)])
    joined = AnnData(
        sparse.vstack(parts).tocsr(),
        obs=obs.astype({column: "category" for column in obs if obs[column].dtype == object}),
        var=query.var[[]],
    )
    mark_measured(joined.var, measured_genes(query.var), MEASURED_IN_QUERY_KEY)
    joined.obs_names_make_unique()
    joined.uns[BATCH_COLUMN_KEY] = batch_column(query)
    in_ref = reference.model.get_latent_representation()[rows]
    joined.obsm["latent"] = np.concatenate([in_ref, mapped.adata.obsm[LATENT_KEY]])
    if UMAP_KEY in mapped.adata.obsm:
        own = np.concatenate([ref.obsm[UMAP_KEY][rows], mapped.adata.obsm[UMAP_KEY]])
        joined.obsm[UMAP_KEY] = joined.obsm[REFERENCE_UMAP_KEY] = own
    return joined


def _of_reference(reference: Reference, labels: Sequence[str]) -> pd.DataFrame:
    ref, key = reference.model.adata, reference.model.batch_key
    batch = np.full(ref.n_obs, reference.name) if key is None else np.asarray(as_text(ref.obs[key]))
    columns = {"projection": "reference", key or "batch": batch}
    columns |= {label: _labels_to_draw(ref.obs[label]) for label in labels}
    return pd.DataFrame(columns, index=ref.obs_names)


def _of_query(query: AnnData, labels: Sequence[str]) -> pd.DataFrame:
    """Columns of the query, in which unknown cells are a label of their own."""
    key, obs = batch_column(query), query.obs
    columns: dict[str, Any] = {"projection": "query", key: np.asarray(as_text(obs[key]))}
    for label in labels:
        if label in obs:  # the query's own
            columns[label] = _labels_to_draw(obs[label])
        refused = obs[f"{label}_unknown"].to_numpy(bool)
        transferred = _labels_to_draw(obs[f"{label}_transfer"])
        columns[f"{label}_transfer"] = np.where(refused, UNKNOWN, transferred)
        columns |= {name: obs[name] for name in (f"{label}_probability", f"{label}_p_value")}
    return pd.DataFrame(columns, index=query.obs_names)


def _labels_to_draw(labels: pd.Series) -> np.ndarray:
    """Return labels as text; one that is called as cells are that fit none gets another name."""
    names = np.asarray(as_text(labels), dtype=object)
    return np.where(names == UNKNOWN, LABEL_UNKNOWN, names)


def _keep_colors(
    counts: AnnData, beside: AnnData, reference: Reference, labels: Sequence[str]
) -> None:
    """Give batches and labels the colors that they have in the reference."""
    ref, key = reference.model.adata, reference.model.batch_key
    pl.store_colors(ref, [*([] if key is None else [key]), *labels])
    transferred = [f"{label}_transfer" for label in labels]
    batch = batch_column(beside)
    pl.store_colors(beside, [batch, "projection", *labels, *transferred], like=[ref, counts])
    pl.store_colors(counts, [batch, *transferred], like=[beside])


def _draw(beside: AnnData, labels: Sequence[str], files: Any) -> None:
    if UMAP_KEY in beside.obsm:
        colors = [f"{label}_transfer" for label in labels] or ["projection"]
        pl.projection(beside, colors, show=False, save=files)


def _add_common_map(beside: AnnData, seed: int | None) -> None:
    """Draw a map of both, beside the reference's own: what is new lies apart on it."""
    del beside.obsm[UMAP_KEY]
    embed(beside, use_rep="latent", seed=seed)
