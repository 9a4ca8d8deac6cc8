"""Compiled functions of umap and pynndescent are kept for the next process, where there is room."""

from __future__ import annotations

import pytest

from scalex_scvi._core.compiled import keep_compiled


def test_what_is_compiled_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    import pynndescent.rp_trees
    import umap.layouts
    import umap.umap_
    from numba.core.dispatcher import Dispatcher

    def nowhere(self: Dispatcher) -> None:
        raise RuntimeError("no locator available")

    with monkeypatch.context() as patched:
        patched.setattr(Dispatcher, "enable_caching", nowhere)
        keep_compiled()  # does nothing, and raises nothing
    keep_compiled()
    assert umap.umap_.smooth_knn_dist.stats.cache_path is not None
    assert umap.layouts.rdist.stats.cache_path is not None
    assert pynndescent.rp_trees.make_dense_tree.stats.cache_path is not None
