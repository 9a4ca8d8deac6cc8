"""Simulated surface proteins of real PBMCs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from ._pbmc import pbmc_technologies

PROTEIN_KEY = "protein_expression"
"""Key in ``obsm``, as scvi-tools has it."""

_B, _NK, _STEM = "CD19+ B", "CD56+ NK", "CD34+"
_MONOCYTE, _DENDRITIC = "CD14+ Monocyte", "Dendritic"
_TREG, _MEMORY = "CD4+/CD25 T Reg", "CD4+/CD45RO+ Memory"
_NAIVE_CD4, _NAIVE_CD8 = "CD4+/CD45RA+/CD25- Naive T", "CD8+/CD45RA+ Naive Cytotoxic"
_CYTOTOXIC = "CD8+ Cytotoxic T"
_CD4, _CD8 = (_TREG, _MEMORY, _NAIVE_CD4), (_NAIVE_CD8, _CYTOTOXIC)

# How much of its protein a type has; the others have none.
PROTEINS: dict[str, dict[str, float]] = {
    "CD3": dict.fromkeys(_CD4 + _CD8, 1.0),
    "CD4": dict.fromkeys(_CD4, 1.0) | {_MONOCYTE: 0.05, _DENDRITIC: 0.05},
    "CD8": dict.fromkeys(_CD8, 1.0) | {_NK: 0.1},
    "CD14": {_MONOCYTE: 1.0, _DENDRITIC: 0.1},
    "CD16": {_NK: 1.0, _MONOCYTE: 0.1},
    "CD19": {_B: 1.0},
    "CD20": {_B: 1.0},
    "CD25": {_TREG: 1.0, _MEMORY: 0.1},
    "CD34": {_STEM: 1.0},
    "CD45RA": {_NAIVE_CD4: 1.0, _NAIVE_CD8: 1.0, _B: 0.7, _NK: 0.7},
    "CD45RO": {_MEMORY: 1.0, _TREG: 0.6, _CYTOTOXIC: 0.4},
    "CD56": {_NK: 1.0},
    "CD11c": {_DENDRITIC: 1.0, _MONOCYTE: 0.6},
    "HLA-DR": {_DENDRITIC: 1.0, _B: 0.7, _MONOCYTE: 0.4},
}

BACKGROUND, SIGNAL = 4.0, 150.0
"""Mean counts of antibodies that stick anywhere, and of a protein that a type has."""


def pbmc_cite(*, seed: int = 0) -> AnnData:
    """CITE-seq of 700 PBMCs by three technologies: **semi-synthetic**, needs no download.

    Cells, cell types and RNA are those of :func:`pbmc_technologies`. The counts of 14 surface
    proteins are made: each type has the proteins by which such cells are told apart, and by which
    these were sorted before they were sequenced. A cell's counts are of a Poisson distribution
    whose mean varies between cells (log-normal, SD 0.5) and, for each protein, between the batches
    (SD 0.7), as between stainings.

    Parameters
    ----------
    seed
        Seed of the technologies and of the proteins.

    Returns
    -------
    700 cells × 765 genes, ``X`` with counts (CSR, float32), ``obs["batch"]`` and
    ``obs["celltype"]``, and ``obsm["protein_expression"]``, a table of counts, cells × 14 proteins.
    """
    adata = pbmc_technologies(seed=seed)
    rng = np.random.default_rng(seed)
    types = adata.obs["celltype"].astype(str)
    has = np.stack([types.map(levels).fillna(0).to_numpy() for levels in PROTEINS.values()], axis=1)
    batch = adata.obs["batch"]
    staining = rng.lognormal(0, 0.7, size=(len(batch.cat.categories), len(PROTEINS)))
    spread = rng.lognormal(-0.125, 0.5, size=has.shape)
    mean = (BACKGROUND + SIGNAL * has * spread) * staining[batch.cat.codes]
    adata.obsm[PROTEIN_KEY] = pd.DataFrame(
        rng.poisson(mean).astype(np.float32), index=adata.obs_names, columns=list(PROTEINS)
    )
    adata.uns["source"] = f"{adata.uns['source']}; surface proteins simulated by the cell type"
    return adata
