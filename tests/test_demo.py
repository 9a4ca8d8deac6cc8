"""The table of the demonstration."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from conftest import trained_model

from scalex_scvi._demo import demo_scores


def test_scores_are_explained(prepared: AnnData) -> None:
    ref = trained_model(prepared).adata
    ref.obsm["latent"] = ref.obsm.get("latent", np.ones((ref.n_obs, 2)) * np.arange(150)[:, None])
    together = ref.copy()
    together.obs["projection"] = "query"
    together.obs["celltype_transfer"] = together.obs["celltype"]
    scores = demo_scores(ref, together, batch_key="batch", label="celltype")
    assert scores["meaning"].str.len().min() > 10
    values = scores.set_index("score")["value"]
    assert values["accuracy of transferred labels"] == 1
    assert values["macro-F1 of transferred labels"] == 1
