"""The table of scib-metrics."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.backend_bases import FigureCanvasBase
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils import check_array

from scalex_scvi._core.files import whole_file

from ._benchmark_picture import draw_scores
from ._inputs import as_points, column, import_extra, representation
from ._uncorrected import uncorrected_pca

BIO_METRICS = (
    "isolated_labels",
    "nmi_ari_cluster_labels_kmeans",
    "silhouette_label",
    "clisi_knn",
)
BATCH_METRICS = (
    "bras",
    "ilisi_knn",
    "kbet_per_label",
    "graph_connectivity",
    "pcr_comparison",
)
WEIGHTS = {"Batch correction": 0.4, "Bio conservation": 0.6}
"""Of the total, as in Luecken et al."""
MIN_CELLS = 90
"""scib-metrics computes LISI from this many neighbors, the cell itself among them."""


def benchmark(
    adata: AnnData,
    keys: str | Sequence[str],
    *,
    batch_key: str = "batch",
    labels_key: str = "celltype",
    pre_integrated: str | None = None,
    metrics: str | Sequence[str] = (*BIO_METRICS, *BATCH_METRICS),
    min_max_scale: bool = False,
    save: str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """Score embeddings side by side with scib-metrics.

    By default the metrics of :class:`scib_metrics.benchmark.Benchmarker`, so that the aggregate
    scores mean what they mean elsewhere. On small data read two of them with care: *KBET* rejects
    nearly everything once batches are not perfectly mixed and is undefined for types of fewer
    than 10 cells, and *Isolated labels* looks at the types found in the fewest batches, so where
    all types are in all batches it repeats *Silhouette label*. Leave them out by naming the
    others; then compare aggregate scores only with tables of the same metrics.

    The same input gives the same table, up to the last digits of JAX's single precision (1e-6):
    neighbors are exact, and the seeds inside scib-metrics are fixed. The first call of a session
    compiles for up to a minute, most of it for *KBET*. The time of the silhouettes grows with the
    square of the cells: draw a sample of a large atlas.

    Parameters
    ----------
    adata
        At least 90 cells with the embeddings in ``obsm``. It is not changed.
    keys
        Embeddings, for instance ``["uncorrected", "latent"]`` after
        ``adata.obsm["uncorrected"] = uncorrected_pca(adata)``.
    batch_key, labels_key
        Columns of ``obs``.
    pre_integrated
        Key in ``obsm`` of the uncorrected embedding that ``"pcr_comparison"`` compares with. By
        default :func:`uncorrected_pca` of ``adata``, which needs the output of
        :func:`scalex_scvi.pp.rna`.
    metrics
        Names of metrics, as the fields of :class:`scib_metrics.benchmark.BioConservation` and
        :class:`~scib_metrics.benchmark.BatchCorrection`; a kind that none is of is left out.
        ``metrics.BIO_METRICS`` and ``metrics.BATCH_METRICS`` are those of the default.
    min_max_scale
        Whether to stretch each metric so that the worst embedding gets 0 and the best 1. Off:
        it turns a difference of 0.001 into one of 1, and every score then depends on which other
        embeddings are in the table.
    save
        File for a picture of the table; its ending chooses the format (``.png``, ``.pdf``,
        ``.svg``). Written whole or not at all.

    Returns
    -------
    Embeddings × scores, floats: one column a metric, then ``"Batch correction"`` and
    ``"Bio conservation"``, their means, and ``"Total"``, 0.4 and 0.6 of them (without ``"Total"``
    if one kind is left out). Higher is better; all but the adjusted Rand index, which may be
    slightly below 0, are in [0, 1]. NaN where a metric is not defined.

    Raises
    ------
    KeyError
        If a key or a column is absent.
    ValueError
        If a metric is unknown, there is one batch or label only, a value is missing or not
        finite, cells are too few, or the picture cannot be written as named.
    ImportError
        If scib-metrics is not installed (extra ``benchmark``).

    References
    ----------
    Luecken et al., Nat Methods 19:41 (2022); https://scib-metrics.readthedocs.io
    """
    scib = import_extra("scib_metrics.benchmark")
    picture = None if save is None else _checked_picture(Path(save).expanduser())
    keys = [keys] if isinstance(keys, str) else list(keys)
    if not keys or len(set(keys)) < len(keys):
        msg = f"`keys` is {keys!r}; give one embedding or more, each once."
        raise ValueError(msg)
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    bio, batch = _selection((scib.BioConservation, scib.BatchCorrection), names)
    bare = _bare(adata, keys, batch_key, labels_key)
    before = keys[0]
    if "pcr_comparison" in names:
        before = _add_pre_integrated(bare, adata, pre_integrated)
    bench = scib.Benchmarker(
        bare,
        batch_key="batch",
        label_key="label",
        embedding_obsm_keys=keys,
        bio_conservation_metrics=bio,
        batch_correction_metrics=batch,
        pre_integrated_embedding_obsm_key=before,
        progress_bar=False,
    )
    with _cheap_garbage_collection():
        bench.prepare(neighbor_computer=_exact_neighbors)
        bench.benchmark()
    results = bench.get_results(min_max_scale=False)
    kinds = results.loc["Metric Type"]
    table = results.drop(index="Metric Type").astype(float).loc[keys]
    if min_max_scale:
        table = _min_max_scaled(table, kinds)
    if picture is not None:
        with whole_file(picture) as path:
            draw_scores(table, kinds).savefig(path, dpi=150)
    return table


def _checked_picture(path: Path) -> Path:
    """Return the path, or raise if it cannot be written: before the work, not after it."""
    if not path.resolve().parent.is_dir():
        msg = f"`save` is {str(path)!r}, but its folder does not exist. Create it first."
        raise ValueError(msg)
    formats = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix.removeprefix(".").lower() not in formats:
        msg = f"`save` is {str(path)!r}; it must end in one of {formats!r}."
        raise ValueError(msg)
    return path


def _selection(kinds: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """Switch on the named metrics of each kind, and no others whatever the version's defaults."""
    known = [[field.name for field in fields(kind)] for kind in kinds]
    unknown = [name for name in names if not any(name in of_kind for of_kind in known)]
    if unknown or not names:
        msg = (
            f"`metrics` has {unknown or names!r}; give one or more of those that the installed "
            f"scib-metrics knows: {[name for of_kind in known for name in of_kind]!r}."
        )
        raise ValueError(msg)
    return [
        kind(**{name: name in names for name in of_kind}) if set(names) & set(of_kind) else None
        for kind, of_kind in zip(kinds, known, strict=True)
    ]


def _bare(adata: AnnData, keys: list[str], batch_key: str, labels_key: str) -> AnnData:
    """Only what is scored: scib-metrics writes into what it is given."""
    if adata.n_obs < MIN_CELLS:
        msg = f"`adata` has {adata.n_obs} cells; scib-metrics needs at least {MIN_CELLS}."
        raise ValueError(msg)
    obs = pd.DataFrame(
        {
            "batch": column(adata, batch_key, name="batch_key").astype(str),
            "label": column(adata, labels_key, name="labels_key").astype(str),
        },
        index=pd.RangeIndex(adata.n_obs).astype(str),
    )
    for kind, key in {"batch": batch_key, "label": labels_key}.items():
        if obs[kind].nunique() < 2:
            msg = f"adata.obs[{key!r}] has one value only; the metrics need two or more."
            raise ValueError(msg)
    return AnnData(obs=obs, obsm={key: _embedding(adata, key, "keys") for key in keys})


def _embedding(adata: AnnData, key: str, argument: str) -> np.ndarray:
    name = f"adata.obsm[{key!r}]"
    points = as_points(representation(adata, key, name=argument), name=name)
    return check_array(points, input_name=name)


def _add_pre_integrated(bare: AnnData, adata: AnnData, key: str | None) -> str:
    """Give the uncorrected embedding to ``bare``, and return its key there."""
    if key is not None:
        bare.obsm[key] = _embedding(adata, key, "pre_integrated")
        return key
    if adata.raw is None:
        msg = (
            "The metric 'pcr_comparison' compares with the embedding before integration, and "
            "`adata` has no `raw` to compute it from. Give its key in adata.obsm as "
            "`pre_integrated`, or leave the metric out of `metrics`."
        )
        raise ValueError(msg)
    key = "uncorrected PCA for comparison"
    bare.obsm[key] = uncorrected_pca(adata)
    return key


def _min_max_scaled(table: pd.DataFrame, kinds: pd.Series) -> pd.DataFrame:
    """Stretch the metrics and aggregate them anew; scib-metrics 0.6 does not with pandas 3."""
    metrics = kinds.index[kinds != "Aggregate score"]
    stretched = MinMaxScaler().set_output(transform="pandas").fit_transform(table[metrics])
    means = stretched.T.groupby(kinds[metrics]).mean().T
    if len(means.columns) == 2:
        means["Total"] = sum(share * means[kind] for kind, share in WEIGHTS.items())
    return stretched.join(means)[table.columns]


@contextmanager
def _cheap_garbage_collection() -> Iterator[None]:
    """Leave what exists already out of garbage collections.

    scib-metrics collects garbage before each metric. Each time that visits all objects of torch,
    JAX and scanpy, and on small data it took longer than the metrics.
    """
    if gc.get_freeze_count():  # the user's own doing
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _exact_neighbors(points: np.ndarray, n_neighbors: int) -> Any:
    """Exact, so that the table repeats."""
    search = NearestNeighbors(n_neighbors=n_neighbors).fit(points)
    distances, indices = search.kneighbors(points)
    results = import_extra("scib_metrics.nearest_neighbors").NeighborsResults
    return results(indices=indices, distances=distances)
