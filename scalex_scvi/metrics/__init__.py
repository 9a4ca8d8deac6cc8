"""Scores of an integration."""

from ._neighbors import expected_same_batch_share, knn_purity, same_batch_share

__all__ = ["expected_same_batch_share", "knn_purity", "same_batch_share"]
