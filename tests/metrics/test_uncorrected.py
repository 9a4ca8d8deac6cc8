"""The embedding before integration."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from sklearn.decomposition import PCA

import scalex_scvi as sx


def test_uncorrected_pca_spans_the_components_of_scikit_learn(prepared: AnnData) -> None:
    found = sx.metrics.uncorrected_pca(prepared, n_components=5)
    expression = prepared.raw[:, prepared.var_names].X.toarray().astype(float)
    standardized = (expression - expression.mean(0)) / expression.std(0, ddof=1)
    expected = PCA(5, random_state=0).fit_transform(np.clip(standardized, -10, 10))
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-2, atol=1e-2)


def test_without_raw_it_is_said_where_it_comes_from(counts: AnnData) -> None:
    with pytest.raises(ValueError, match=r"no `raw`.*`scalex_scvi.pp.rna`"):
        sx.metrics.uncorrected_pca(counts)
