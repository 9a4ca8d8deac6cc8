"""The methods: a data set in, embeddings of all its cells out, each by its own defaults.

All see the same cells and genes. The published package makes its own selection of genes, by the
same rule.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import anndata
import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy import sparse
from sklearn.decomposition import TruncatedSVD

from benchmarks.components import uncorrected_pca
from benchmarks.quality.sets import DataSet

QUIET = {"enable_progress_bar": False, "logger": False, "accelerator": "cpu"}


@dataclass(frozen=True)
class Task:
    """A data set and what methods may know of it."""

    counts: AnnData
    prepared: AnnData
    about: DataSet
    batch_key: str
    label_key: str
    seed: int
    options: dict[str, object]

    @property
    def log(self) -> sparse.csr_matrix:
        """Log-normalised expression of the selected genes."""
        return self.prepared.raw[:, self.prepared.var_names].X


@dataclass(frozen=True)
class Embedding:
    """An embedding of all cells or a graph of them; the seconds from the method's start to it."""

    name: str
    values: np.ndarray | sparse.csr_matrix
    seconds: float


Method = Callable[[Task], Iterator[tuple[str, np.ndarray | sparse.csr_matrix]]]


def run(method: str, task: Task) -> list[Embedding]:
    """Run a method. Seconds are counted from its start to each of its embeddings."""
    start = time.perf_counter()
    return [
        Embedding(name, values.astype(np.float32), time.perf_counter() - start)
        for name, values in METHODS[method](task)
    ]


def uncorrected(task: Task) -> Iterator[tuple[str, np.ndarray]]:
    yield "uncorrected", components(task)
    yield "uncorrected, standardised", components(task, standardise=True)


def components(task: Task, *, standardise: bool = False) -> np.ndarray:
    """50 uncorrected components: PCA of log-normalised genes; of peaks, latent semantic indexing.

    Genes are not standardised by default, since that costs the peers that start from here:
    it gives the noise of faint genes the weight of the signal.
    """
    if task.about.profile != "ATAC":
        if standardise:
            return uncorrected_pca(task.prepared)
        n_components = min(50, min(task.log.shape) - 1)
        return sc.pp.pca(task.log.toarray(), n_comps=n_components, random_state=0)
    peaks = task.counts[:, task.prepared.var_names].X.astype(np.float64)
    share = peaks.multiply(1 / np.maximum(peaks.sum(axis=1), 1))
    weight = np.log1p(peaks.shape[0] / np.maximum(np.asarray((peaks > 0).sum(axis=0)), 1))
    tf_idf = sparse.csr_matrix(share.multiply(weight)).multiply(1e4).log1p()
    # The first component is the depth of the cell.
    return TruncatedSVD(51, algorithm="arpack", random_state=0).fit_transform(tf_idf)[:, 1:]


def scalex_scvi(task: Task) -> Iterator[tuple[str, np.ndarray]]:
    """Train ours; options beside the defaults come with the name of the method."""
    from benchmarks.quality.variants import train

    model = train(task.prepared, task.batch_key, task.seed, **task.options)
    yield "running", model.get_latent_representation()
    yield "batch", model.get_latent_representation(batch_stats="batch")


def scalex(task: Task) -> Iterator[tuple[str, np.ndarray]]:
    """Run the published package with its defaults, but no workers: they only cost time here.

    It needs `np.Inf`; for peaks it imports episcanpy, which needs `np.NaN` and `anndata.read`.
    All three are gone from their packages.
    """
    for name, value in (("Inf", np.inf), ("NaN", np.nan)):
        vars(np).setdefault(name, value)
    vars(anndata).setdefault("read", anndata.read_h5ad)
    from scalex import SCALEX

    values = task.counts.copy()
    adata = SCALEX(
        values,
        profile=task.about.profile,
        batch_name=task.batch_key,
        min_features=0,
        processed=False,
        seed=task.seed,
        ignore_umap=True,
        show=False,
        num_workers=0,
        outdir=tempfile.mkdtemp(),  # without one, early stopping fails
    )
    yield "scalex 1.0.4", adata[task.counts.obs_names].obsm["latent"]


def harmony(task: Task) -> Iterator[tuple[str, np.ndarray]]:
    import harmonypy

    pca = components(task)
    batches = task.prepared.obs
    corrected = harmonypy.run_harmony(pca, batches, task.batch_key, random_state=task.seed).Z_corr
    yield "harmony", corrected if corrected.shape == pca.shape else corrected.T


def scanorama(task: Task) -> Iterator[tuple[str, np.ndarray]]:
    import scanorama as published

    batches = task.prepared.obs[task.batch_key].astype(str)
    rows = [np.flatnonzero(batches == name) for name in batches.unique()]
    expression = task.prepared.X if task.about.profile == "ATAC" else task.log
    parts, _ = published.integrate(
        [expression[r].toarray() for r in rows],
        [task.prepared.var_names.to_numpy()] * len(rows),
        seed=task.seed,
        verbose=0,
    )
    embedding = np.empty((task.prepared.n_obs, parts[0].shape[1]))
    for r, part in zip(rows, parts, strict=True):
        embedding[r] = part
    yield "scanorama", embedding


def scvi(task: Task) -> Iterator[tuple[str, np.ndarray]]:
    """Run scVI on counts; then scANVI, which sees the labels that it is scored by: an upper line.

    Log-normalised values have no counts: scVI's normal likelihood. Peaks: PeakVI, and no scANVI.
    """
    import scvi as scvi_tools

    scvi_tools.settings.seed = task.seed
    adata = task.counts[:, task.prepared.var_names].copy()
    if task.about.profile == "ATAC":
        scvi_tools.model.PEAKVI.setup_anndata(adata, batch_key=task.batch_key)
        model = scvi_tools.model.PEAKVI(adata)
        model.train(**QUIET)
        yield "scvi", model.get_latent_representation()
        return
    likelihood = {}
    if task.about.log_normalized:
        likelihood = {"gene_likelihood": "normal"}
    elif not np.all(adata.X.data % 1 == 0):
        adata.X.data = np.rint(adata.X.data)  # expected counts; the likelihood is of counts
    scvi_tools.model.SCVI.setup_anndata(adata, batch_key=task.batch_key)
    model = scvi_tools.model.SCVI(adata, **likelihood)
    model.train(**QUIET)
    yield "scvi", model.get_latent_representation()
    labelled = scvi_tools.model.SCANVI.from_scvi_model(
        model, unlabeled_category=task.about.unlabelled or "none", labels_key=task.label_key
    )
    labelled.train(**QUIET)
    yield "scanvi (sees labels)", labelled.get_latent_representation()


def combat(task: Task) -> Iterator[tuple[str, np.ndarray]]:
    expression = task.prepared.X if task.about.profile == "ATAC" else task.log
    adata = AnnData(expression.toarray(), obs=task.prepared.obs.copy())
    sc.pp.combat(adata, key=task.batch_key)
    yield "combat", sc.pp.pca(adata.X, n_comps=min(50, min(adata.shape) - 1), random_state=0)


def bbknn(task: Task) -> Iterator[tuple[str, sparse.csr_matrix]]:
    """Run BBKNN by its defaults: it gives distances to neighbours in each batch, no embedding."""
    from bbknn.matrix import bbknn as published

    batches = task.prepared.obs[task.batch_key].astype(str).to_numpy()
    yield "bbknn (graph)", published(components(task), batches)[0].tocsr()


METHODS: dict[str, Method] = {
    "uncorrected": uncorrected,
    "scalex_scvi": scalex_scvi,
    "scalex": scalex,
    "scvi": scvi,
    "harmony": harmony,
    "scanorama": scanorama,
    "combat": combat,
    "bbknn": bbknn,
}
