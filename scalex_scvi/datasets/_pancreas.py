"""Real pancreas cells of five technologies, which ship with the package."""

from __future__ import annotations

from importlib.resources import as_file, files

import anndata as ad
import pandas as pd
from anndata import AnnData

TECHNOLOGIES = {
    "celseq": "CEL-seq",
    "celseq2": "CEL-seq2",
    "fluidigmc1": "Fluidigm C1",
    "indrop": "inDrop",
    "smartseq2": "Smart-seq2",
}


def pancreas() -> AnnData:
    """500 real human pancreas cells of five technologies: **embedded**, needs no download.

    The technologies differ strongly: without correction 70 % of a cell's 30 nearest neighbors are
    of its own technology, where 20 % would be by chance. Counts are as published, in mixed units:
    molecules (inDrop), corrected molecules, which are not whole numbers (CEL-seq, CEL-seq2), reads
    (Smart-seq2) and expected counts (Fluidigm C1).

    Returns
    -------
    500 cells × 1776 genes, ``X`` with counts (CSR, float32), ``obs["batch"]`` with the technology
    (100 cells each) and ``obs["celltype"]`` with the published labels: acinar, alpha, beta, delta,
    ductal and endothelial, of which there are five.

    References
    ----------
    Grün et al., Cell Stem Cell 19:266, 2016. Muraro et al., Cell Systems 3:385, 2016. Lawlor et
    al., Genome Research 27:208, 2017. Baron et al., Cell Systems 3:346, 2016. Segerstolpe et al.,
    Cell Metabolism 24:593, 2016. Selected by the R package bbknnR (MIT) from SeuratData's panc8;
    the notice lies beside the file.

    Examples
    --------
    >>> import scalex_scvi as sx
    >>> adata = sx.datasets.pancreas()
    >>> adata.shape
    (500, 1776)
    >>> list(adata.obs["batch"].cat.categories)
    ['CEL-seq', 'CEL-seq2', 'Fluidigm C1', 'inDrop', 'Smart-seq2']
    """
    with as_file(files("scalex_scvi.datasets") / "data" / "pancreas_5tech.h5ad") as path:
        source = ad.read_h5ad(path)
    batch = pd.Categorical(
        source.obs["batch"].astype(str).map(TECHNOLOGIES), categories=list(TECHNOLOGIES.values())
    )
    celltype = source.obs["celltype"].astype(str).astype("category")
    return AnnData(
        X=source.X,
        obs=pd.DataFrame({"batch": batch, "celltype": celltype}, index=source.obs_names),
        var=pd.DataFrame(index=source.var_names),
        uns={"source": f"real, license {source.uns['licence']}: {source.uns['source']}"},
    )
