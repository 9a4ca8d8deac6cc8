"""Label transfer from a reference to a query in a shared latent space."""

from __future__ import annotations

import pandas as pd
from anndata import AnnData

from scalex_scvi._core.threads import are_few_cells, one_thread

from ._label_probabilities import Labeling, Method
from ._label_scores import best_labels, check_no_unknown, label_scores
from ._pair import Pair
from ._unknown import Novelty


def label_transfer(
    ref: AnnData,
    query: AnnData,
    use_rep: str = "latent",
    label: str = "celltype",
    *,
    method: Method | None = None,
    n_neighbors: int = 10,
    unknown: bool = False,
    max_refused: float = 0.05,
    batch_key: str | None = None,
    novelty: Novelty = "neighborhood",
    rep: str | None = None,
) -> pd.Series:
    """Give each query cell its most probable label of the reference.

    By default three linear classifiers of the representation and of the expression agree on labels,
    and the neighbors of a cell in its own batch have a say; the published method is the majority of
    the nearest reference cells (see ``method``).
    :func:`label_scores` also returns probabilities and p-values.

    Parameters
    ----------
    ref
        Reference cells with ``obsm[use_rep]`` and ``obs[label]``.
    query
        Cells to label, with ``obsm[use_rep]`` in the same space.
    use_rep
        Key in ``obsm`` of both; ``"X"`` uses the matrix itself.
    label
        Column of ``ref.obs``: text, or numbers, which become text. Reference cells without a label
        are left out, with a warning.
    method
        ``"discriminant"``: linear discriminant analysis in the representation (Gaussian labels of
        one covariance, equally probable a priori). Before, the offset of each batch of the query
        is subtracted, which is the median difference of its cells from the means of their labels;
        so the label of a cell depends on the other cells of its batch.
        ``"consensus"``: the mean of these probabilities and those of two classifiers, discriminants
        and a ridge regression, of up to 50 principal components of the expression before scaling,
        which separate fine types better than the few dimensions of a latent; times their mean over
        the 15 nearest cells of the cell's own batch (a tenth of a batch of fewer than 150 cells),
        to the power of two thirds. ``ref`` and ``query`` need the same genes in ``X``,
        prepared alike: what :meth:`~scalex_scvi.model.SCALEXModel.get_prepared` of the reference's
        and of the query's model returns.
        ``"neighbors"`` (published): the majority of the ``n_neighbors`` nearest reference cells.
        ``None``: ``"consensus"`` where it is possible, else ``"discriminant"``; ``"neighbors"`` for
        ``use_rep="X"``, and where all cells of each label are equal. The first two were better
        than neighbors (docs/projection.md).
    n_neighbors
        Nearest reference cells that vote (Euclidean distance, equal votes) for
        ``method="neighbors"``, and that the novelties ``"expression"`` and ``"latent"`` compare
        with; at most the size of the reference.
    unknown
        Whether to call cells ``"unknown"`` that fit the reference worse than nearly all of its own
        cells do when they are held out. By default every cell gets a label of the reference.
    max_refused, novelty
        Which cells are unknown: see :func:`label_scores`.
    batch_key
        Column with the batches, of ``ref.obs`` and of ``query.obs``; a query without it is one
        batch. See :func:`label_scores`.
    rep
        Published name of ``use_rep``, taken in its place.

    Returns
    -------
    Labels of the query cells, categorical with the categories of the reference (and
    ``"unknown"``, last, with ``unknown``), indexed by ``query.obs_names``. Ties go to the label
    that sorts first.

    Raises
    ------
    KeyError
        If ``use_rep``, ``label`` or ``batch_key`` is absent.
    ValueError
        If ``method`` is unknown or cannot use ``use_rep``, labels are missing, the two
        representations differ in width, or ``use_rep`` and ``rep`` are both given. With
        ``unknown`` also as :func:`label_scores`, and if the reference has a label ``"unknown"``
        already.
    """
    if rep is not None:
        if use_rep != "latent":
            msg = f"`use_rep` {use_rep!r} and `rep` {rep!r} are one argument: give `use_rep` alone."
            raise ValueError(msg)
        use_rep = rep
    if not unknown:
        pair = Pair(ref, query, use_rep, label, batch_key, n_neighbors)
        with one_thread(are_few_cells(ref.n_obs + query.n_obs)):
            return best_labels(pair, Labeling(pair, method).shares())
    if label in ref.obs:
        check_no_unknown(ref.obs[label])
    return label_scores(
        ref,
        query,
        use_rep,
        label,
        batch_key=batch_key,
        method=method,
        n_neighbors=n_neighbors,
        max_refused=max_refused,
        novelty=novelty,
    ).labels_or_unknown()
