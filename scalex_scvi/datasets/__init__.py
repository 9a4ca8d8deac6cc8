"""Data to try things on."""

from ._chromatin import gene_activity, pbmc_chromatin
from ._pbmc import pbmc_technologies
from ._tutorial import tutorial

__all__ = ["gene_activity", "pbmc_chromatin", "pbmc_technologies", "tutorial"]
