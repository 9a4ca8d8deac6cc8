"""Markers after integration beside per-batch truth: ours and scVI's, by scvi-tools' comparison.

    python -m benchmarks.differential --data FOLDER [--sets ...] [--scvi-epochs 100]

Truth needs no model: a gene is a marker of a type if rank sums (Bonferroni, 5 %) say so within
each batch of at least 20 cells, and it changes by more than 0.5 (log2 of counts per 10 000, plus
one) in each, in one direction; it is a null gene if neither holds in any batch. Replicates are
cells of the most frequent type in its two largest batches: what differs there is the batch.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scvi
from scipy import sparse, stats
from sklearn.metrics import roc_auc_score

import scalex_scvi as sx

SETS = ["celllines_3cl_3platforms_832genes", "kang_pbmc_ctrl_8donors"]
QUIET = {"enable_progress_bar": False}
BOUND = 0.66  # of the probability, as in scvi-tools' tutorials
MIN_CELLS, MIN_CHANGE = 20, 0.5


def truth(adata: ad.AnnData, celltype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Markers, null genes, and the mean change of each gene over batches."""
    total = np.asarray(adata.X.sum(axis=1))
    x = adata.X.toarray() / total * 1e4
    batch, of_type = adata.obs["batch"].to_numpy(), (adata.obs["celltype"] == celltype).to_numpy()
    p_values, changes = [], []
    for name in np.unique(batch):
        one, rest = x[(batch == name) & of_type], x[(batch == name) & ~of_type]
        if min(len(one), len(rest)) < MIN_CELLS:
            continue
        p_values.append(np.nan_to_num(stats.mannwhitneyu(one, rest).pvalue, nan=1))
        logs = [np.log2(np.expm1(np.log1p(of).mean(axis=0)) + 1) for of in (one, rest)]
        changes.append(logs[0] - logs[1])
    change = np.array(changes)
    one_way = np.abs(np.sign(change).sum(axis=0)) == len(change)
    significant = np.max(p_values, axis=0) < 0.05 / x.shape[1]
    marker = significant & one_way & (np.abs(change).min(axis=0) > MIN_CHANGE)
    null = (np.min(p_values, axis=0) > 0.05) & (np.abs(change).max(axis=0) < MIN_CHANGE)
    return marker, null, change.mean(axis=0)


def compare(model: Any, adata: ad.AnnData, corrected: bool = True, **groups: Any) -> pd.DataFrame:
    table = model.differential_expression(
        mode="change", delta=MIN_CHANGE, batch_correction=corrected, silent=True, **groups
    )
    return table.loc[adata.var_names]


def scores(model: Any, adata: ad.AnnData, celltype: str) -> dict[str, Any]:
    marker, null, change = truth(adata, celltype)
    table = compare(model, adata, groupby="celltype", group1=[celltype])
    called, either = (table["proba_de"] > BOUND).to_numpy(), marker | null
    area = roc_auc_score(marker[either], table["proba_de"][either]) if null.any() else np.nan
    lfc = table["lfc_median"].to_numpy()
    return {
        "celltype": celltype,
        "markers": int(marker.sum()),
        "null genes": int(null.sum()),
        "AUROC": area,
        "markers found": called[marker].mean(),
        "null genes found": called[null].mean() if null.any() else np.nan,
        "right direction": (np.sign(lfc) == np.sign(change))[marker].mean(),
        "slope of change": np.polyfit(change[marker], lfc[marker], 1)[0],
    }


def replicates(model: Any, adata: ad.AnnData) -> dict[str, float]:
    """Share of genes that differ between the batches of one type."""
    obs = adata.obs
    celltype = obs["celltype"].value_counts().index[0]
    of_type = (obs["celltype"] == celltype).to_numpy()
    names = obs["batch"][of_type].value_counts().index[:2]
    groups = {
        f"idx{i}": of_type & (obs["batch"] == name).to_numpy() for i, name in enumerate(names, 1)
    }
    return {
        f"replicates, {how}": (compare(model, adata, on, **groups)["proba_de"] > BOUND).mean()
        for how, on in (("corrected", True), ("uncorrected", False))
    }


def models(adata: ad.AnnData, epochs: int) -> dict[str, Any]:
    sx.SCALEXModel.setup_anndata(adata, batch_key="batch")
    ours = sx.SCALEXModel(adata)
    ours.train(**QUIET)
    scvi.settings.seed = 124
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    peer = scvi.model.SCVI(adata)
    peer.train(max_epochs=epochs, **QUIET)
    return {"ours": ours, "scVI": peer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the .h5ad files")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--scvi-epochs", type=int, default=None, help="default: scVI's own")
    options = parser.parse_args()
    rows = []
    for name in options.sets:
        adata = ad.read_h5ad(options.data / f"{name}.h5ad")
        adata.X = sparse.csr_matrix(adata.X, dtype=np.float32)
        for method, model in models(adata, options.scvi_epochs).items():
            between = replicates(model, adata)
            for celltype in adata.obs["celltype"].value_counts().index[:2]:
                rows.append({"set": name, "method": method} | scores(model, adata, celltype))
                rows[-1] |= between
    print(pd.DataFrame(rows).round(3).T.to_string(header=False))


if __name__ == "__main__":
    main()
