"""Neighbors, UMAP and clusters by a sample of the cells: what they lose, and seconds of a million.

Usage: ``python -m benchmarks.speed.embed --data FILE.h5ad [--cells 1000000]``. The latent is that
of a training by ``QUICK``. First the cells of the file: ``tl.embed`` of all and by a sample of half
of them, each by two seeds: agreement of the clusters with the first (adjusted Rand index) and with
the labels, and the share of a cell's 15 nearest cells on the map that have its label. Then
``tl.embed`` of ``--cells`` cells drawn from that latent, each moved at random by half the distance
of its 15th neighbor, by a sample of ``--max-cells`` (0: all). With ``--beside-scanpy`` ``tl.embed``
and scanpy's neighbors, UMAP and Leiden of the file's cells and (but for ``--cells 0``) of 100 000
drawn from their latent instead, each twice by one seed: CPU time, what maps and clusters keep, and
CPU time of the search for neighbors alone, beside pynndescent.
"""

from __future__ import annotations

import argparse
import logging
import resource
import time
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score
from sklearn.neighbors import NearestNeighbors

import scalex_scvi as sx
from benchmarks.speed.common import QUIET, quiet
from scalex_scvi.tl._nearest import nearest_among

N_NEIGHBORS = 15


def latent_of(path: Path) -> ad.AnnData:
    """Train, and return the cells with their latent alone."""
    cells = sx.pp.rna(ad.read_h5ad(path), batch_key="batch", min_features=0, n_top_features=2000)
    sx.SCALEXModel.setup_anndata(cells, batch_key="batch")
    model = sx.SCALEXModel(cells)
    model.train(recipe=sx.train.QUICK, **QUIET)
    latent = model.get_latent_representation()
    return ad.AnnData(obs=cells.obs[["celltype"]].copy(), obsm={"latent": latent})


def agreement(cells: ad.AnnData) -> None:
    """Print what is lost by a sample of half of the cells, and by another seed."""
    labels = cells.obs["celltype"].astype(str)
    known = (cells.obs["celltype"].notna()).to_numpy()
    first = None
    half = cells.n_obs // 2
    for what, options in {
        "all": {"max_cells": None},
        "all, seed 1": {"max_cells": None, "seed": 1},
        f"by {half} of them": {"max_cells": half},
        f"by {half} of them, seed 1": {"max_cells": half, "seed": 1},
    }.items():
        start = time.process_time()
        sx.tl.embed(cells, **options)
        seconds = time.process_time() - start
        clusters = cells.obs["leiden"]
        first = clusters.copy() if first is None else first
        on_map = sx.metrics.knn_purity(
            cells.obsm["X_umap"][known], labels[known], n_neighbors=N_NEIGHBORS
        )
        print(
            f"{what:28s} {seconds:6.1f} s of CPU time, {clusters.nunique()} clusters, "
            f"agreement with the first {adjusted_rand_score(first, clusters):.3f}, with labels "
            f"{adjusted_rand_score(labels[known], clusters[known]):.3f}, same label on the map "
            f"{on_map:.4f}",
            flush=True,
        )


def beside_scanpy(cells: ad.AnnData, n_cells: int) -> None:
    """Print what maps by scanpy and by ``tl.embed`` take and keep; the first of each compiles."""
    points, rows = cells.obsm["latent"], np.arange(cells.n_obs)
    if n_cells > cells.n_obs:
        points, rows = draw_rows(points, n_cells)
    labels = cells.obs["celltype"].astype(str).to_numpy()[rows]
    known = cells.obs["celltype"].notna().to_numpy()[rows]
    for how, embed in {"scanpy": by_scanpy, "tl.embed": sx.tl.embed}.items():
        for when in ("first", "second"):
            mapped = ad.AnnData(obsm={"latent": points.astype(np.float32)})
            start = time.process_time()
            embed(mapped, seed=0)
            seconds = time.process_time() - start
            print(f"{len(points)} cells, {how}, {when}: {seconds:.1f} s of CPU time", flush=True)
        clusters = mapped.obs["leiden"].to_numpy()[known]
        print(
            f"{kept(mapped, labels, known)}, clusters and labels: adjusted Rand index "
            f"{adjusted_rand_score(labels[known], clusters):.3f}, NMI "
            f"{normalized_mutual_info_score(labels[known], clusters):.3f}",
            flush=True,
        )
    search(points.astype(np.float32))


def search(points: np.ndarray) -> None:
    """Print what the search for neighbors takes, beside pynndescent as scanpy has it, compiled."""
    from pynndescent import PyNNDescentTransformer

    def exact() -> np.ndarray:
        return nearest_among(points, N_NEIGHBORS)[1]

    def approximate() -> np.ndarray:
        n_trees, n_iters = 5 + round(len(points) ** 0.5 / 20), round(np.log2(len(points)))
        found = PyNNDescentTransformer(
            N_NEIGHBORS, random_state=0, n_trees=n_trees, n_iters=n_iters
        ).fit(points, compress_index=False)
        return found.transform(None).indices.reshape(len(points), -1)

    nearest = {}
    for how in (exact, approximate):
        start = time.process_time()
        nearest[how] = how()
        seconds = time.process_time() - start
        print(f"{how.__name__} search: {seconds:.1f} s of CPU time", flush=True)
    rows = np.arange(0, len(points), 50)
    pairs = zip(nearest[exact][rows], nearest[approximate][rows], strict=True)
    print(f"found by the approximate one: {np.mean([np.isin(*pair).mean() for pair in pairs]):.4f}")


def by_scanpy(cells: ad.AnnData, seed: int) -> None:
    """Take scanpy's steps to neighbors, UMAP and clusters."""
    sc.pp.neighbors(cells, use_rep="latent", random_state=seed)
    sc.tl.umap(cells, random_state=seed)
    sc.tl.leiden(cells, flavor="igraph", n_iterations=2, directed=False, random_state=seed)


def kept(cells: ad.AnnData, labels: np.ndarray, known: np.ndarray) -> str:
    """Say what a map keeps of the nearest cells and of the labels, by 3 000 cells."""
    rows = np.sort(np.random.default_rng(1).permutation(np.flatnonzero(known))[:3_000])
    near = {}
    for key in ("latent", "X_umap"):
        search = NearestNeighbors(n_neighbors=51, algorithm="brute").fit(cells.obsm[key])
        found = search.kneighbors(cells.obsm[key][rows], return_distance=False)
        near[key] = [each[each != row][:50] for each, row in zip(found, rows, strict=True)]
    pairs = list(zip(near["latent"], near["X_umap"], strict=True))
    first, wider = (
        np.mean([np.isin(of_cell[:15], on_map[:most]).mean() for of_cell, on_map in pairs])
        for most in (15, 50)
    )
    same = np.mean(
        [
            (labels[each[:15]] == labels[row]).mean()
            for row, (_, each) in zip(rows, pairs, strict=True)
        ]
    )
    width = silhouette_score(cells.obsm["X_umap"][rows], labels[rows])
    return (
        f"of the 15 nearest cells {first:.3f} are among the 15 nearest on the map, {wider:.3f} "
        f"among 50; same label on the map {same:.3f}, silhouette {width:.3f}"
    )


def draw(points: np.ndarray, n_cells: int) -> np.ndarray:
    """Draw cells of a latent, none twice at the same place."""
    return draw_rows(points, n_cells)[0]


def draw_rows(points: np.ndarray, n_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw cells of a latent, none twice at the same place, and say which ones."""
    search = NearestNeighbors(n_neighbors=N_NEIGHBORS + 1).fit(points)
    scale = 0.5 * search.kneighbors(points)[0][:, -1] / np.sqrt(points.shape[1])
    rng = np.random.default_rng(0)
    rows = rng.integers(len(points), size=n_cells)
    return points[rows] + rng.normal(size=(n_cells, points.shape[1])) * scale[rows, None], rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="counts, obs batch and celltype")
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--max-cells", type=int, default=100_000)
    parser.add_argument("--beside-scanpy", action="store_true")
    args = parser.parse_args()
    quiet()
    cells = latent_of(args.data)
    if args.beside_scanpy:
        for n_cells in filter(None, (cells.n_obs, min(args.cells, 100_000))):
            beside_scanpy(cells, n_cells)
        return
    points = cells.obsm["latent"]
    agreement(cells)
    if not args.cells:
        return
    many = ad.AnnData(obsm={"latent": draw(points, args.cells).astype(np.float32)})
    logging.disable(logging.NOTSET)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("scalex_scvi").setLevel(logging.INFO)  # when each step begins
    start, cpu = time.perf_counter(), time.process_time()
    sx.tl.embed(many, max_cells=args.max_cells or None)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{args.cells} cells {seconds:.0f} s, {cpu:.0f} s of CPU time, peak {peak:.2f} GB")


if __name__ == "__main__":
    main()
