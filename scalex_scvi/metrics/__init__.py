"""Scores of an integration."""

from ._benchmark import benchmark
from ._demo import demo_scores, uncorrected_pca
from ._entropy import batch_entropy_mixing_score
from ._integration import integration_scores
from ._neighbors import expected_same_batch_share, knn_purity, same_batch_share
from ._silhouette import silhouette_score

__all__ = [
    "batch_entropy_mixing_score",
    "benchmark",
    "demo_scores",
    "expected_same_batch_share",
    "integration_scores",
    "knn_purity",
    "same_batch_share",
    "silhouette_score",
    "uncorrected_pca",
]
