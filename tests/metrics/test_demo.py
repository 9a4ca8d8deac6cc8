"""The baseline and the table of the demonstration."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from conftest import trained_model
from sklearn.decomposition import PCA

import scalex_scvi as sx


def test_uncorrected_pca_spans_the_components_of_scikit_learn(prepared: AnnData) -> None:
    found = sx.metrics.uncorrected_pca(prepared, n_components=5)
    expression = prepared.raw[:, prepared.var_names].X.toarray().astype(float)
    standardised = (expression - expression.mean(0)) / expression.std(0, ddof=1)
    expected = PCA(5, random_state=0).fit_transform(np.clip(standardised, -10, 10))
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-2, atol=1e-2)


def test_scores_are_explained(prepared: AnnData) -> None:
    ref = trained_model(prepared).adata
    ref.obsm["latent"] = ref.obsm.get("latent", np.ones((ref.n_obs, 2)) * np.arange(150)[:, None])
    together = ref.copy()
    together.obs["projection"] = "query"
    together.obs["celltype_transfer"] = together.obs["celltype"]
    scores = sx.metrics.demo_scores(ref, together, batch_key="batch", label="celltype")
    assert scores["meaning"].str.len().min() > 10
    values = scores.set_index("score")["value"]
    assert values["accuracy of transferred labels"] == 1
    assert values["macro-F1 of transferred labels"] == 1
