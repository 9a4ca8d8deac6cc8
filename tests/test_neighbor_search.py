"""What searches neighbors by pynndescent, which numba compiles in each process."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from conftest import real_data

import scalex_scvi as sx


@pytest.mark.real_data
def test_the_default_metrics_on_real_data() -> None:
    """Removing the batches' means mixes them, and every default metric has a value.

    Of these it is kBET that searches by pynndescent.
    """
    pytest.importorskip("scib_metrics", reason="needs the extra 'benchmark'")
    adata = sx.pp.rna(real_data("mesc_2batch_scmerge"), batch_key="batch", min_features=0)
    pca = sx.metrics.uncorrected_pca(adata)
    adata.obsm["uncorrected"] = pca
    batches = adata.obs["batch"].to_numpy()
    adata.obsm["centered"] = pca - np.stack([pca[batches == b].mean(0) for b in batches])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = sx.metrics.benchmark(adata, ["uncorrected", "centered"])
    assert len(table.columns) == 13
    assert table.notna().all(axis=None)
    assert ((table > -0.1) & (table <= 1)).all(axis=None)
    gain = table.loc["centered"] - table.loc["uncorrected"]
    assert gain["Batch correction"] > 0.1
    assert gain["PCR comparison"] > 0.5
