"""Scores of an integration."""

from ._benchmark import BATCH_METRICS, BIO_METRICS, benchmark
from ._entropy import batch_entropy_mixing_score
from ._integration import integration_scores
from ._neighbors import expected_same_batch_share, knn_purity, same_batch_share
from ._silhouette import silhouette_score
from ._uncorrected import uncorrected_pca

__all__ = [
    "BATCH_METRICS",
    "BIO_METRICS",
    "batch_entropy_mixing_score",
    "benchmark",
    "expected_same_batch_share",
    "integration_scores",
    "knn_purity",
    "same_batch_share",
    "silhouette_score",
    "uncorrected_pca",
]
