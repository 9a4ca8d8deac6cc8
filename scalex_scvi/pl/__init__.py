"""Plots."""

from ._umap import projection, umap

__all__ = ["projection", "umap"]
