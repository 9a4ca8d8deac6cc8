"""How well cell types are separated."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import sklearn.metrics
from anndata import AnnData

from scalex_scvi._core.seeds import resolve_seed

from ._inputs import points_and_groups


def silhouette_score(
    X: AnnData | npt.ArrayLike,
    labels: npt.ArrayLike | str | None = None,
    *,
    metric: str = "euclidean",
    sample_size: int | None = None,
    random_state: int | np.random.RandomState | None = None,
    labels_key: str = "celltype",
    use_rep: str = "latent",
    **kwds: Any,
) -> float:
    """Mean silhouette coefficient of all cells, by scikit-learn.

    A cell's coefficient is (b − a) / max(a, b), with a its mean distance to the cells of its own
    label and b the smallest mean distance to the cells of another one.

    Parameters
    ----------
    X
        Cells × dimensions, an AnnData (not changed), or distances cells × cells with
        ``metric="precomputed"``.
    labels
        Label of each cell. With an AnnData it may be left out, or name a column of ``obs``.
    metric
        Any that :func:`sklearn.metrics.pairwise_distances` knows.
    sample_size
        Score this many randomly chosen cells instead of all. The time grows with its square.
    random_state
        Of the chosen cells; by default ``scvi.settings.seed``, else 124.
    labels_key
        Column of ``obs`` of an AnnData.
    use_rep
        Key in ``obsm`` of an AnnData; ``"X"`` uses the matrix itself. The published workflow
        scored ``"X_umap"``.
    **kwds
        To the distance function.

    Returns
    -------
    Score in [−1, 1]: near 1 if labels are compact and separated, about 0 if they overlap, negative
    if cells are nearer to another label's. Not scaled to [0, 1], unlike :func:`benchmark`'s.

    Raises
    ------
    KeyError
        If ``labels_key`` or ``use_rep`` is absent.
    ValueError
        If a label is missing, lengths differ, values are not finite, or labels are not between 2
        and one less than the cells.

    References
    ----------
    Rousseeuw, J Comput Appl Math 20:53 (1987).
    """
    points, groups = points_and_groups(
        X,
        labels,
        use_rep=use_rep,
        key=labels_key,
        key_name="labels_key",
        name="labels",
        kind="label",
    )
    if not isinstance(random_state, np.random.RandomState):
        random_state = resolve_seed(random_state)
    score = sklearn.metrics.silhouette_score(
        points, groups, metric=metric, sample_size=sample_size, random_state=random_state, **kwds
    )
    return float(score)
