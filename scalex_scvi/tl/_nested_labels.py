"""Labels of several columns that agree: a cell's fine label lies within its coarse one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from scalex_scvi._core.columns import as_text

from ._label_scores import LabelScores


def in_agreement(scores: Mapping[str, LabelScores], obs: pd.DataFrame) -> dict[str, LabelScores]:
    """Make labels of nested columns agree.

    A column (such as cell types) is nested in another one (such as lineages) if the reference cells
    of each of its labels all have one label in the other column. Then the probability of a coarse
    label becomes the sum of those of its fine labels, the coarse label of a cell is chosen first,
    and its fine label is the most probable one within it. A cell that is unknown in the coarse
    column is unknown in the fine one, too; its p-value stays. Columns that are not nested do not
    change.

    Parameters
    ----------
    scores
        Scores of each column, for the same query.
    obs
        Annotation of the reference cells, with these columns.

    Returns
    -------
    Scores of the same columns, in the same order.
    """
    by_size = sorted(scores, key=lambda key: -len(scores[key].labels.cat.categories))
    found = dict(scores)
    parents: dict[str, tuple[str, np.ndarray]] = {}
    for place, fine in enumerate(by_size):
        for coarse in by_size[place + 1 :]:  # the finest one that it is nested in
            within = _within(obs, fine, coarse, found)
            if within is not None:
                parents[fine] = (coarse, within)
                summed = _summed(found[fine], found[coarse], within)
                found[coarse] = replace(found[coarse], probabilities=summed)
                break
    for fine in reversed(by_size):
        if fine in parents:
            coarse, within = parents[fine]
            found[fine] = _decided(found[fine], found[coarse], within)
        else:
            best = found[fine].probabilities.to_numpy().argmax(axis=1)
            found[fine] = _with_labels(found[fine], best)
    return {key: found[key] for key in scores}


def _within(
    obs: pd.DataFrame, fine: str, coarse: str, scores: Mapping[str, LabelScores]
) -> np.ndarray | None:
    """Position of the coarse label of each fine one, or ``None`` if it is not nested."""
    labeled = obs[obs[fine].notna()]
    if labeled[coarse].isna().any():
        return None
    pairs = pd.DataFrame(
        {"fine": np.asarray(as_text(labeled[fine])), "coarse": np.asarray(as_text(labeled[coarse]))}
    ).drop_duplicates()
    if pairs["fine"].duplicated().any() or len(pairs) == pairs["coarse"].nunique():
        return None
    own = pairs.set_index("fine")["coarse"][list(scores[fine].labels.cat.categories)]
    return scores[coarse].labels.cat.categories.get_indexer(pd.Index(own))


def _summed(fine: LabelScores, coarse: LabelScores, within: np.ndarray) -> pd.DataFrame:
    """Probabilities of the coarse labels: each is that of the fine labels within it."""
    members = np.zeros((len(within), len(coarse.labels.cat.categories)))
    members[np.arange(len(within)), within] = 1
    table = coarse.probabilities
    return pd.DataFrame(
        fine.probabilities.to_numpy() @ members, index=table.index, columns=table.columns
    )


def _decided(fine: LabelScores, coarse: LabelScores, within: np.ndarray) -> LabelScores:
    probabilities = fine.probabilities.to_numpy()
    inside = within[None] == coarse.labels.cat.codes.to_numpy()[:, None]
    best = np.where(inside, probabilities, -1).argmax(axis=1)
    decided = _with_labels(fine, best)
    return replace(decided, is_unknown=fine.is_unknown | coarse.is_unknown)


def _with_labels(scores: LabelScores, codes: np.ndarray) -> LabelScores:
    labels = pd.Categorical.from_codes(codes, dtype=scores.labels.dtype)
    return replace(
        scores, labels=pd.Series(labels, index=scores.labels.index, name=scores.labels.name)
    )
