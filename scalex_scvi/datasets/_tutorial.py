"""The data of the tutorials, by name: embedded, small real sets, or those of the publication."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Literal

import anndata as ad
import scanpy as sc
from anndata import AnnData

from ._chromatin import gene_activity, pbmc_chromatin
from ._pbmc import pbmc_technologies

Source = Literal["embedded", "small", "published"]

SOURCE_VARIABLE = "SCALEX_SCVI_TUTORIAL"
"""Environment variable: which data the tutorials use."""

SMALL_VARIABLE = "SCALEX_SCVI_DATA"
"""Environment variable: folder with the small real sets."""

PUBLISHED_URL = "http://zhanglab.net/scalex-tutorial/"
"""Where the published documentation keeps its data."""

_EMBEDDED: dict[str, Callable[[], AnnData]] = {
    "pbmc": lambda: _batches(pbmc_technologies(), "droplet", "plate"),
    "reference": lambda: _batches(pbmc_technologies(), "droplet", "plate"),
    "query": lambda: _batches(pbmc_technologies(), "shallow"),
    "atac": pbmc_chromatin,
    "rna": lambda: _batches(pbmc_technologies(), "droplet"),
    "gene_activity": lambda: gene_activity(pbmc_chromatin()),
}

# File, and the batches of it.
_SMALL: dict[str, tuple[str, tuple[str, ...]]] = {
    "pbmc": ("kang_pbmc_published_labels", ()),
    "reference": ("pancreas_3study_cepo", ("Baron", "Segerstolpe")),
    "query": ("pancreas_3study_cepo", ("Lawlor",)),
    "atac": ("granja_bmmc_atac_peaks", ()),
    "rna": ("a549_scicar_rna", ()),
    "gene_activity": ("a549_scicar_atac_geneactivity", ()),
}

_PUBLISHED = {
    "pbmc": "pbmc.h5ad",
    "reference": "pancreas.h5ad",
    "query": "pancreas_query.h5ad",
    "atac": "mouse_brain_atac.h5ad",
}


def tutorial(name: str, source: Source | None = None) -> AnnData:
    """Return the data of a tutorial.

    Parameters
    ----------
    name
        ``"pbmc"``; ``"reference"`` and ``"query"`` (pancreas, where real); ``"atac"``; ``"rna"``
        and ``"gene_activity"``.
    source
        ``"embedded"`` (no download; technologies or peaks simulated, see
        :func:`pbmc_technologies` and :func:`pbmc_chromatin`), ``"small"`` (real sets in the folder
        that ``SCALEX_SCVI_DATA`` names), or ``"published"`` (the sets of the published
        documentation, downloaded once into scanpy's ``settings.datasetdir``). ``None``: what the
        environment variable ``SCALEX_SCVI_TUTORIAL`` says, else embedded.

    Returns
    -------
    Counts with ``obs["batch"]``, and ``obs["celltype"]`` where the set has labels.

    Raises
    ------
    ValueError, FileNotFoundError
        For an unknown name or source, or where the data are not there.
    """
    source = source or os.environ.get(SOURCE_VARIABLE) or "embedded"  # type: ignore[assignment]
    sources: dict[str, Collection[str]] = {
        "embedded": _EMBEDDED,
        "small": _SMALL,
        "published": _PUBLISHED,
    }
    if source not in sources:
        msg = f"`source` {source!r} must be one of {list(sources)!r}."
        raise ValueError(msg)
    if name not in sources[source]:
        msg = f"`name` {name!r} is not among the {source} data: {list(sources[source])!r}."
        raise ValueError(msg)
    if source == "embedded":
        return _EMBEDDED[name]()
    return _read_small(name) if source == "small" else _read_published(name)


def _read_small(name: str) -> AnnData:
    file, batches = _SMALL[name]
    folder = os.environ.get(SMALL_VARIABLE)
    path = Path(folder or ".") / f"{file}.h5ad"
    if not folder or not path.exists():
        msg = f"{SMALL_VARIABLE}={folder!r} must name the folder that holds {path.name!r}."
        raise FileNotFoundError(msg)
    adata = ad.read_h5ad(path)
    return _batches(adata, *batches) if batches else adata


def _read_published(name: str) -> AnnData:
    file = _PUBLISHED[name]
    return sc.read(sc.settings.datasetdir / "scalex" / file, backup_url=PUBLISHED_URL + file)


def _batches(adata: AnnData, *names: str) -> AnnData:
    chosen = adata[adata.obs["batch"].isin(names)].copy()
    chosen.obs["batch"] = chosen.obs["batch"].astype("category").cat.remove_unused_categories()
    return chosen
