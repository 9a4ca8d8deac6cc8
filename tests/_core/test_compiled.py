"""What is compiled of umap and pynndescent is kept for the next process, where there is room."""

from __future__ import annotations

import numba
import pytest
from numba.core.dispatcher import Dispatcher

from scalex_scvi._core.compiled import keep_compiled, kept_when_imported


def nowhere(self: Dispatcher) -> None:
    raise RuntimeError("no locator available")


def test_what_umap_compiles_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    import pynndescent.pynndescent_
    import pynndescent.rp_trees
    import umap.layouts
    import umap.umap_

    with monkeypatch.context() as patched:
        patched.setattr(Dispatcher, "enable_caching", nowhere)
        keep_compiled()  # does nothing, and raises nothing
    keep_compiled()
    assert umap.umap_.smooth_knn_dist.stats.cache_path is not None
    assert umap.layouts.rdist.stats.cache_path is not None
    assert pynndescent.rp_trees.make_hub_tree.stats.cache_path is not None
    # It takes the distance, which is a function: it would be kept anew by each process.
    assert pynndescent.pynndescent_.nn_descent.stats.cache_path is None


def twice(x: int) -> int:
    return 2 * x


@pytest.mark.parametrize("room", [True, False], ids=["room", "no room"])
def test_what_an_import_compiles_is_kept(monkeypatch: pytest.MonkeyPatch, room: bool) -> None:
    if not room:
        monkeypatch.setattr(Dispatcher, "enable_caching", nowhere)
    plain = numba.njit
    with kept_when_imported():
        typed, untyped = numba.njit("int64(int64)")(twice), numba.njit(twice)
        declared = numba.njit(["int64(int64)"], cache=False)(twice)
    assert numba.njit is plain
    assert typed(4) == untyped(4) == declared(4) == 8
    kept = [function.stats.cache_path is not None for function in (typed, untyped, declared)]
    assert kept == [room, False, False]
