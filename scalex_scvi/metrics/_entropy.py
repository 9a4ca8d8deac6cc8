"""How well batches are mixed around randomly chosen cells."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from anndata import AnnData
from scipy import sparse
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_array

from scalex_scvi._core.ranges import check_whole
from scalex_scvi._core.seeds import resolve_seed

from ._inputs import points_and_groups

SCALES = ("unit", "published")


def batch_entropy_mixing_score(
    data: AnnData | npt.ArrayLike,
    batches: npt.ArrayLike | str | None = None,
    n_neighbors: int = 100,
    n_pools: int = 100,
    n_samples_per_pool: int = 100,
    *,
    batch_key: str = "batch",
    use_rep: str = "latent",
    scale: Literal["unit", "published"] = "unit",
    seed: int | None = None,
) -> float:
    r"""Mean entropy of the batches around randomly chosen cells.

    1. Choose ``n_samples_per_pool`` cells at random, with replacement.
    2. Around each, count the batches of its ``n_neighbors`` nearest other cells (Euclidean
       distance, exact). Divide each batch's share by its share of all cells, so that a batch does
       not score by being large, and scale the results to sum to 1: :math:`p_b`.
    3. The entropy of the region is :math:`-\sum_b p_b \ln p_b`; the mean over the chosen cells
       is the pool's.
    4. Repeat for ``n_pools`` pools and take the mean.

    The score looks at batches only: noise mixes perfectly. Read it beside a score of cell types,
    and expect less than 1 where batches differ in their cell types.

    Parameters
    ----------
    data
        Cells × dimensions, or an AnnData, which is not changed.
    batches
        Batch of each cell. With an AnnData it may be left out, or name a column of ``obs``.
    n_neighbors
        Neighbors of each chosen cell, itself left out; at most the other cells.
    n_pools, n_samples_per_pool
        Repetitions, and cells chosen in each. The published 100 × 100 leave a sampling error of a
        few thousandths.
    batch_key
        Column of ``obs`` of an AnnData.
    use_rep
        Key in ``obsm`` of an AnnData; ``"X"`` uses the matrix itself. The default is what the
        model returns. The published workflow scored ``"X_umap"`` instead, which depends on the
        drawing too.
    scale
        ``"unit"`` divides by the largest possible entropy, the natural logarithm of the number of
        batches. ``"published"`` divides by its binary logarithm as the published package does, to
        compare with figures in the literature: at most ln 2 = 0.69.
    seed
        Of the chosen cells; by default ``scvi.settings.seed``, else 124.

    Returns
    -------
    Score in [0, 1] (``"published"``: [0, 0.69]): 0 if batches do not mix at all, the maximum if
    they are fully mixed everywhere.

    Raises
    ------
    KeyError
        If ``batch_key`` or ``use_rep`` is absent.
    ValueError
        If there is one batch only, a batch is missing, values are not finite, lengths differ,
        ``scale`` is unknown, or a number is not a whole one of at least 1.

    References
    ----------
    Haghverdi et al., Nat Biotechnol 36:421 (2018); Xiong et al., Nat Commun 13:6118 (2022).
    """
    import jax  # here, as it takes a while that only scores need

    check_whole(n_neighbors, 1, name="n_neighbors")
    check_whole(n_pools, 1, name="n_pools")
    check_whole(n_samples_per_pool, 1, name="n_samples_per_pool")
    if scale not in SCALES:
        msg = f"`scale` is {scale!r}; it must be one of {SCALES!r}."
        raise ValueError(msg)
    points, groups = points_and_groups(
        data,
        batches,
        use_rep=use_rep,
        key=batch_key,
        key_name="batch_key",
        name="batches",
        kind="batch",
    )
    points = check_array(points, accept_sparse="csr", input_name="data", ensure_min_samples=2)
    n_cells = points.shape[0]
    names, codes = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        msg = f"All cells are of the batch {names.tolist()[0]!r}; mixing needs two batches or more."
        raise ValueError(msg)
    # numpy's generator rather than JAX's, whose stream depends on a flag of its configuration.
    rng = np.random.default_rng(resolve_seed(seed))
    chosen = rng.integers(n_cells, size=n_pools * n_samples_per_pool)
    # Small data are drawn many times over: each region is computed once.
    cells, n_drawn = np.unique(chosen, return_counts=True)
    neighbors = _other_neighbors(points, cells, min(n_neighbors, n_cells - 1))
    shares = np.bincount(codes) / len(codes)
    entropies = jax.jit(_regional_entropies)(codes[neighbors], shares)
    # All pools are equally large, so the mean of their means is the mean over all chosen cells.
    mixing = np.average(np.asarray(entropies, dtype=float), weights=n_drawn) / np.log(len(names))
    # JAX computes in single precision, which may exceed the bounds in the last digit.
    mixing = np.clip(mixing, 0, 1)
    return float(mixing * np.log(2) if scale == "published" else mixing)


def _other_neighbors(
    points: np.ndarray | sparse.csr_matrix, cells: np.ndarray, n_neighbors: int
) -> np.ndarray:
    """Nearest cells of some cells, themselves left out."""
    search = NearestNeighbors(n_neighbors=n_neighbors + 1).fit(points)
    found = search.kneighbors(points[cells], return_distance=False)
    is_other = found != cells[:, None]
    # A cell with many duplicates may not be found itself; then the farthest is one too many.
    is_other[is_other.all(axis=1), -1] = False
    return found[is_other].reshape(len(cells), n_neighbors)


def _regional_entropies(neighbor_batches: Any, shares: Any) -> Any:
    """Entropy of the batches of each cell's neighbors (cells × neighbors), in JAX."""
    import jax
    import jax.numpy as jnp

    n_batches = shares.shape[0]
    counts = jax.vmap(lambda batches: jnp.bincount(batches, length=n_batches))(neighbor_batches)
    corrected = counts / shares
    corrected = corrected / corrected.sum(axis=1, keepdims=True)
    return jax.scipy.special.entr(corrected).sum(axis=1)
