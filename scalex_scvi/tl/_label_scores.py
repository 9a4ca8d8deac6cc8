"""Labels of query cells with all that is known of them: probabilities, p-values, "unknown"."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from scalex_scvi._core.colors import UNKNOWN
from scalex_scvi._core.columns import as_text
from scalex_scvi._core.threads import are_few_cells, one_thread

from ._held_out import pseudo_batches
from ._label_probabilities import Labeling, Method, check_method
from ._label_statistics import MIN_CELLS, KeptBatches, LabelStatistics
from ._labeled_cells import LabeledCells
from ._misfit_calibration import Standards
from ._misfit_p_values import neighborhood_p_values, sizes_of
from ._pair import Pair
from ._unknown import Novelty, check_max_refused, check_novelty, fit_p_values

logger = logging.getLogger(__name__)

FEWEST_CELLS = 20
"""Cells from which on the offset of a batch is taken off for the most part (:func:`.offset`)."""


@dataclass(frozen=True, eq=False)
class LabelScores:
    """Labels of the query cells, and how sure they are. All are indexed by ``query.obs_names``.

    Attributes
    ----------
    labels
        Most probable label of the reference, categorical. Ties go to the label that sorts first.
    probabilities
        Cells × labels of the reference; rows sum to 1. Those of discriminants are calibrated:
        held-out batches of the reference say by how much they have to be softened, for labels to
        be right as often as they say (docs/label_transfer.md). Neighbors give shares of votes.
    p_values
        Share of held-out reference cells that fit the reference as badly, in (0, 1]. Cells of a
        batch that looks like none of the labels have at most 0.05 (docs/label_transfer.md).
    is_unknown
        Whether the p-value is at most ``max_refused``. :func:`map_query` calls a cell unknown in a
        fine column too if its label in a coarser one is unknown (``labels=["lineage",
        "celltype"]``): its own p-value for the fine label may then be above ``max_refused``.
    misfit
        What the p-values rank, larger for a worse fit: it also tells cells apart that fit worse
        than every held-out cell. Its unit depends on ``novelty``.
    """

    labels: pd.Series
    probabilities: pd.DataFrame
    p_values: pd.Series
    is_unknown: pd.Series
    misfit: pd.Series

    def labels_or_unknown(self) -> pd.Series:
        """Return the labels, with ``"unknown"``, the last category, for cells that do not fit.

        Raises
        ------
        ValueError
            If the reference has a label ``"unknown"`` already.
        """
        check_no_unknown(pd.Series(self.labels.cat.categories, name=self.labels.name))
        return self.labels.cat.add_categories(UNKNOWN).mask(self.is_unknown, UNKNOWN)

    def vote(self, clusters: pd.Series) -> pd.DataFrame:
        """Let the cells of each cluster of the query vote for one label, ``"unknown"`` among them.

        Parameters
        ----------
        clusters
            Cluster of each cell of the query, such as Leiden's of the query alone: a column of its
            ``obs``, without missing values.

        Returns
        -------
        For each cell: ``label``, what most cells of its cluster are called (ties: the label that
        sorts first), and ``share``, how many of them are.

        Raises
        ------
        ValueError
            If the clusters are of other cells, or missing for some, or the reference has a label
            ``"unknown"`` already.
        """
        own, given = (values.index.astype(str) for values in (self.labels, clusters))
        if not given.equals(own) or clusters.isna().any():
            n_missing = int(clusters.isna().sum())
            msg = (
                f"`clusters` ({clusters.name!r}: {len(clusters)} cells, {n_missing} missing) must "
                f"name the cluster of each of the {len(self.labels)} cells that have scores, in "
                "their order: pass a column of the query's `obs`."
            )
            raise ValueError(msg)
        labels = self.labels_or_unknown()
        shares = pd.crosstab(np.asarray(clusters.astype(str)), labels.cat.codes, normalize="index")
        of_cells = shares.loc[clusters.astype(str)]
        codes = of_cells.columns.to_numpy()[of_cells.to_numpy().argmax(axis=1)]
        best = pd.Categorical.from_codes(codes, dtype=labels.dtype)
        return pd.DataFrame(
            {"label": best, "share": of_cells.to_numpy().max(axis=1)}, index=labels.index
        )

    def to_frame(self) -> pd.DataFrame:
        """Return a table of the cells, by the names that :func:`scalex_scvi.map_query` uses, too.

        Returns
        -------
        For labels of ``"celltype"``: ``celltype_transfer``, the label; ``celltype_probability``,
        that of this label; ``celltype_p_value``, how well the cell fits the reference; and
        ``celltype_unknown``, whether it fits no label.
        """
        chosen = self.labels.cat.codes.to_numpy()
        of_chosen = self.probabilities.to_numpy()[np.arange(len(chosen)), chosen]
        key = self.labels.name
        return pd.DataFrame(
            {
                f"{key}_transfer": self.labels,
                f"{key}_probability": of_chosen,
                f"{key}_p_value": self.p_values,
                f"{key}_unknown": self.is_unknown,
            }
        )


def label_scores(
    ref: AnnData,
    query: AnnData,
    use_rep: str = "latent",
    labels_key: str = "celltype",
    *,
    batch_key: str | None = None,
    method: Method | None = None,
    n_neighbors: int = 10,
    max_refused: float = 0.05,
    novelty: Novelty = "neighborhood",
) -> LabelScores:
    """Give each query cell a label, as :func:`label_transfer` does, and say how sure it is.

    A cell's p-value is the share of held-out reference cells that fit the reference as badly
    (conformal; see ``novelty``). With ``batch_key``, these are held out batch by batch, as a query
    is a batch that the reference lacks.

    Parameters
    ----------
    ref
        Reference cells with ``obsm[use_rep]`` and ``obs[labels_key]``.
    query
        Cells to label, with ``obsm[use_rep]`` in the same space.
    use_rep
        Key in ``obsm`` of both; ``"X"`` uses the matrix itself.
    labels_key
        Column of ``ref.obs``.
    batch_key
        Column of ``ref.obs`` with the batches; discriminants also take batches of the query from
        it, where ``query.obs`` has it. ``None``, or batches without a common label: held-out cells
        are compared with their own batch, and a warning is logged.
    method
        See :func:`label_transfer`.
    n_neighbors
        Neighbors that a cell is compared with, and that vote (Euclidean distance, equal votes); at
        most the size of the reference.
    max_refused
        Share of held-out reference cells, in (0, 1), that may be called unknown although their
        type is in the reference. Smaller: fewer known cells refused, fewer new types found.
    novelty
        How badly a cell fits. ``"neighborhood"``: 1 − Pearson correlation of the mean expression
        of its 15 nearest cells of its own batch, after the batch's offset is taken off, with the
        nearest label mean, relative to a low quantile of the same of its batch, so that the other
        cells of the query matter. It needs the same genes in ``X`` of both, prepared alike, as
        :meth:`~scalex_scvi.model.SCALEXModel.get_prepared` of the reference's and the query's
        model are, and no latent. ``"expression"``: 1 − correlation of the cell's own
        ``X`` with the mean of its reference neighbors in ``use_rep``, over their agreement on a
        label. ``"latent"``: mean distance to these neighbors over their agreement, which needs no
        expression. The first found by far the most new cells (docs/label_transfer.md).

    Returns
    -------
    Labels, probabilities, p-values and which cells are unknown.

    Raises
    ------
    KeyError
        If ``use_rep``, ``labels_key`` or ``batch_key`` is absent.
    ValueError
        If ``method`` or ``novelty`` is unknown, ``method`` cannot use ``use_rep``, labels or
        batches are missing, the two representations differ in width, the genes differ (unless
        ``novelty="latent"``), or ``max_refused`` is out of range, or there are too few held-out
        cells for it.

    Notes
    -----
    A p-value of a query cell is exact only if its batch differs from the reference's batches as
    these differ from each other. docs/label_transfer.md says how far that held on real data.
    """
    check_max_refused(max_refused)
    check_novelty(novelty)
    check_method(method)
    pair = Pair(ref, query, use_rep, labels_key, batch_key, n_neighbors)
    with one_thread(are_few_cells(ref.n_obs + query.n_obs)):
        p_values = _p_values(pair, max_refused, novelty)
        probabilities = Labeling(pair, method).probabilities()
        p, misfit = p_values()
    found = scores_of(best_labels(pair, probabilities), probabilities, p, misfit, max_refused)
    if novelty == "neighborhood":
        point_to_lone_labels(found, query, batch_key)
    return found


def scores_of(
    labels: pd.Series,
    probabilities: np.ndarray,
    p: np.ndarray,
    misfit: np.ndarray,
    max_refused: float,
) -> LabelScores:
    """Put together what is known of the labels of query cells; ``labels`` are the best ones."""
    cells = labels.index
    return LabelScores(
        labels=labels,
        probabilities=pd.DataFrame(probabilities, index=cells, columns=labels.cat.categories),
        p_values=pd.Series(p, index=cells, name="p_value"),
        is_unknown=pd.Series(p <= max_refused, index=cells, name="is_unknown"),
        misfit=pd.Series(misfit, index=cells, name="misfit"),
    )


def _p_values(
    pair: Pair, max_refused: float, novelty: Novelty
) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """Prepare what the query is judged by; what is returned judges it.

    What is taken from the reference needs most memory, so that it goes before all that is kept of
    the query.
    """
    if novelty == "neighborhood":
        sizes = sizes_of(pair.query_batches())
        statistics, standards = _statistics_and_standards(pair, sizes)
        return lambda: neighborhood_p_values(
            statistics.of_genes(pair.measured),
            standards,
            pair.compared(pair.normalized(pair.query)),
            pair.query_neighbors,
            max_refused,
        )
    return lambda: fit_p_values(
        pair.votes,
        pair.points,
        pair.codes,
        batch=pair.ref_batches(),
        max_refused=max_refused,
        expression=pair.expression() if novelty == "expression" else None,
    )


def _statistics_and_standards(pair: Pair, sizes: list[int]) -> tuple[LabelStatistics, Standards]:
    """Take from the reference all that a query is judged by, and keep none of its cells."""
    batches, real = pseudo_batches(pair.codes, pair.ref_batches())
    ref = LabeledCells.of(pair.normalized(pair.ref), pair.codes, batches)
    return KeptBatches(ref).label_statistics(), Standards.of(ref, sizes, learns=real)


def point_to_lone_labels(scores: LabelScores, query: AnnData, batch_key: str | None) -> None:
    """Say which batches of the query got a single label, in which unseen types are not told.

    What all cells of a batch have in common is taken off as the batch's offset, and so is what
    tells a type that the reference lacks from the one next to it, if a batch has no other cells and
    its difference is not larger than those between batches (:mod:`._group_fits`).

    Parameters
    ----------
    scores
        Of all cells of the query.
    query
        Its cells.
    batch_key
        Column of ``query.obs`` with the batches; ``None``, or absent: they are one batch.
    """
    has_batches = batch_key is not None and batch_key in query.obs
    batch = as_text(query.obs[batch_key]) if has_batches else np.zeros(query.n_obs, dtype=int)
    counts = pd.crosstab(np.asarray(batch), scores.labels.cat.codes.to_numpy())
    refused = scores.is_unknown.groupby(np.asarray(batch)).mean()
    n_cells, most = counts.sum(axis=1), counts.max(axis=1)
    lone = (n_cells >= FEWEST_CELLS) & (n_cells - most < MIN_CELLS) & (refused < 0.5)
    names = list(counts.index[lone])
    if names:
        labels = scores.labels.cat.categories[counts.loc[names].idxmax(axis=1)]
        shown = list(zip(names if has_batches else ["all cells"], labels, strict=True))
        logger.warning(
            "All or nearly all cells of a batch get one %s: %s. So would cells of one type that "
            "the reference lacks: with no others beside them, they are called unknown only if they "
            "differ more than new batches of known types do. Give them together with other cells "
            "of their batch, if there are any.",
            scores.labels.name,
            ", ".join(f"{batch!r} {label!r}" for batch, label in shown[:5])
            + (f" and {len(shown) - 5} more" if len(shown) > 5 else ""),
        )


def best_labels(pair: Pair, probabilities: np.ndarray) -> pd.Series:
    """Return the most probable label of each query cell; of equal ones that which sorts first."""
    best = pd.Categorical.from_codes(probabilities.argmax(axis=1), dtype=pair.labels.dtype)
    return pd.Series(best, index=pair.query.obs_names, name=pair.labels_key)


def check_no_unknown(labels: pd.Series) -> None:
    """Raise if a label of the reference is called like the cells that fit none."""
    if UNKNOWN in list(labels.unique()):
        msg = (
            f"The reference has a label {UNKNOWN!r} already, in {labels.name!r}, which is what "
            "cells are called that fit none. Rename it in the reference, or set it to missing "
            "(NaN) there: cells without a label are left out."
        )
        raise ValueError(msg)
