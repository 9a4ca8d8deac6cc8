"""Scores of an integration."""

from ._demo import demo_scores, uncorrected_pca
from ._neighbors import expected_same_batch_share, knn_purity, same_batch_share

__all__ = [
    "demo_scores",
    "expected_same_batch_share",
    "knn_purity",
    "same_batch_share",
    "uncorrected_pca",
]
