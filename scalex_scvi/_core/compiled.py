"""What numba compiles for neighbors and maps is kept on disk: it takes longer than a small map."""

from __future__ import annotations

import sys


def keep_compiled() -> None:
    """Let numba keep what it compiles of umap and pynndescent, for the next process.

    They compile their functions anew in each process, for some seconds each, which is most of the
    time of a map of a few thousand cells. numba keeps them in the packages' own folders or, where
    these cannot be written, the user's cache (``NUMBA_CACHE_DIR``); with neither, all is as it was.
    """
    import pynndescent  # both slow to import, and scanpy's neighbors need them anyway
    import umap.umap_
    from numba.core.dispatcher import Dispatcher

    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in (umap.__name__, pynndescent.__name__):
            continue
        for function in list(vars(module).values()):
            own = isinstance(function, Dispatcher) and function.py_func.__module__ == name
            if own and function.stats.cache_path is None:
                try:
                    function.enable_caching()
                except RuntimeError:  # no folder that can be written
                    return
