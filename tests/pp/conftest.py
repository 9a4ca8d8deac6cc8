"""Data and options of each profile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from conftest import simulate_counts
from scipy import sparse

import scalex_scvi as sx


@dataclass
class Case:
    """A profile, its function and data that suit it."""

    name: str
    function: Callable[..., AnnData]
    features: str
    counts: AnnData

    def __call__(self, adata: AnnData | None = None, **options: Any) -> AnnData:
        adata = self.counts if adata is None else adata
        return self.function(adata, **({"batch_key": "batch", "min_features": 0} | options))


def simulate_peaks(seed: int = 0, n_peaks: int = 80) -> AnnData:
    """Sparse counts: a peak is in 2 to 70 % of the cells."""
    peaks = simulate_counts(n_genes=n_peaks, seed=seed)
    rng = np.random.default_rng(seed)
    share = rng.uniform(0.02, 0.7, size=n_peaks)
    kept = rng.binomial(np.minimum(peaks.X.toarray(), 3).astype(int), share / 2)
    peaks.X = sparse.csr_matrix(kept, dtype=np.float32)
    peaks.var_names = [f"chr1:{1000 * i}-{1000 * i + 500}" for i in range(n_peaks)]
    return peaks


def simulate_proteins(seed: int = 0) -> AnnData:
    proteins = simulate_counts(n_genes=15, seed=seed)
    proteins.var_names = [f"CD{i}" for i in range(15)]
    return proteins


MAKE = {
    "RNA": lambda: Case("RNA", sx.pp.rna, "genes", simulate_counts()),
    "ATAC": lambda: Case("ATAC", sx.pp.atac, "peaks", simulate_peaks()),
    "ADT": lambda: Case("ADT", sx.pp.adt, "proteins", simulate_proteins()),
}


@pytest.fixture(params=MAKE.values(), ids=MAKE.keys())
def case(request: pytest.FixtureRequest) -> Case:
    return request.param()


@pytest.fixture
def peaks() -> AnnData:
    return simulate_peaks()


@pytest.fixture
def proteins() -> AnnData:
    return simulate_proteins()


@pytest.fixture
def dense() -> Callable[[AnnData], np.ndarray]:
    return lambda adata: adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)
