"""The methods: each gives p-values, small for cells that look like none of the reference."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC

import scalex_scvi as sx
from benchmarks.cells import Answer, Case
from benchmarks.peers import project_on_components, project_scanvi
from scalex_scvi.tl._components import expression_components


def by_ours(case: Case, novelty: str) -> Answer:
    """Label by components; which cells are unknown depends on the expression."""
    ref = case.ref.prepared
    query = case.ref.prepared_query(case.query)
    components = expression_components(ref, query)
    assert components is not None  # both are prepared
    for adata, points in zip((ref, query), components, strict=True):
        adata.obsm["components"] = np.asarray(points)
    scores = sx.tl.label_scores(
        ref,
        query,
        "components",
        case.ref.labels_key,
        batch_key=case.ref.batch_key,
        method="discriminant",
        novelty=novelty,
    )
    return Answer(
        scores.labels.to_numpy(str),
        scores.is_unknown.to_numpy(),
        scores.p_values.to_numpy(),
        scores.misfit.to_numpy(),
    )


def by_classifier(case: Case, make: Callable[[], ClassifierMixin]) -> Answer:
    return project_on_components(case, 0, make())[""]()


def by_scanvi(case: Case) -> Answer:
    """Trained on the reference, then on the query; by its own probabilities."""
    return project_scanvi(case, 0, conformal=True)[""]()


class Mahalanobis(ClassifierMixin, BaseEstimator):
    """Nearest label mean in one shrunk covariance; its "probability" falls with the distance."""

    def fit(self, points: np.ndarray, labels: np.ndarray) -> Mahalanobis:
        """Take means and the covariance around them."""
        self.classes_, codes = np.unique(labels, return_inverse=True)
        self.means_ = np.array([points[codes == i].mean(axis=0) for i in range(len(self.classes_))])
        self.precision_ = LedoitWolf().fit(points - self.means_[codes]).precision_
        return self

    def predict_proba(self, points: np.ndarray) -> np.ndarray:
        """Cells × labels; rows do not sum to 1."""
        apart = points[:, None] - self.means_[None]
        return 1 / (1 + np.sqrt(np.einsum("ijk,kl,ijl->ij", apart, self.precision_, apart)))

    def predict(self, points: np.ndarray) -> np.ndarray:
        """Label of the nearest mean."""
        return self.classes_[self.predict_proba(points).argmax(axis=1)]


class Margin(LinearSVC):
    """A linear SVM whose "probability" is a sigmoid of the distance to its margins."""

    def predict_proba(self, points: np.ndarray) -> np.ndarray:
        """Cells × labels; rows do not sum to 1."""
        margins = self.decision_function(points)
        return expit(np.stack([-margins, margins], axis=1) if margins.ndim == 1 else margins)


def by_celltypist(case: Case) -> Answer:
    """CellTypist's own model of the reference; unknown is what it leaves unassigned.

    By gradient descent, which it has for many cells: what it does otherwise asks scikit-learn for
    an argument that version 1.8 has removed.
    """
    import celltypist

    log = np.asarray(case.ref.log.toarray())
    ref = AnnData(log, obs=case.ref.counts.obs[[]], var=pd.DataFrame(index=case.ref.genes))
    labels = case.ref.labels
    model = celltypist.train(
        ref, labels=labels, check_expression=False, use_SGD=True, random_state=0
    )
    # As its `annotate` does, which refuses sets whose values are not logarithms of one base.
    scaled = np.minimum(model.scaler.transform(case.ref.log_of(case.query)), 10)
    _, probabilities, found = model.predict_labels_and_prob(scaled, mode="prob match", p_thres=0.5)
    return Answer(
        model.classifier.classes_[probabilities.argmax(axis=1)].astype(str),
        np.asarray(found) == "Unassigned",
        misfit=1 - probabilities.max(axis=1),
    )


METHODS: dict[str, Callable[[Case], Answer]] = {
    "ours": partial(by_ours, novelty="neighborhood"),
    "former": partial(by_ours, novelty="expression"),
    "logistic regression": partial(by_classifier, make=partial(LogisticRegression, max_iter=2000)),
    "5-NN": partial(by_classifier, make=partial(KNeighborsClassifier, 5)),
    "SVM with rejection": partial(by_classifier, make=Margin),
    "Mahalanobis on PCs": partial(by_classifier, make=Mahalanobis),
    "CellTypist": by_celltypist,
    "scANVI": by_scanvi,
}
