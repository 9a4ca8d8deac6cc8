"""Data to try things on."""

from ._pbmc import pbmc_technologies

__all__ = ["pbmc_technologies"]
