"""What numba compiles for a map of the cells is kept on disk: it takes longer than small maps."""

from __future__ import annotations

import sys


def keep_compiled() -> None:
    """Let numba keep what it compiles of umap, for the next process.

    umap compiles its functions anew in each process, for some seconds, which is most of the time of
    a map of a few thousand cells. numba keeps them in umap's own folder or, where that cannot be
    written, the user's cache (``NUMBA_CACHE_DIR``); with neither, all is as it was.
    """
    import umap.umap_  # slow to import, and scanpy's neighbors need it anyway
    from numba.core.dispatcher import Dispatcher

    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != umap.__name__:
            continue
        for function in list(vars(module).values()):
            own = isinstance(function, Dispatcher) and function.py_func.__module__ == name
            if own and function.stats.cache_path is None:
                try:
                    function.enable_caching()
                except RuntimeError:  # no folder that can be written
                    return
