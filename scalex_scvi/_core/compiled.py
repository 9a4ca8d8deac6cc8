"""What numba compiles is kept on disk: of a map of the cells it takes longer than small maps."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

TAKES_FUNCTION = frozenset({"dist", "metric", "ground_metric", "deheap_sort_function"})
"""Arguments of umap's and pynndescent's functions that are functions, too."""


def compiled(signature: Any, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function for types of arguments by numba, once for all processes if possible.

    What is compiled releases the interpreter's lock.

    Parameters
    ----------
    signature
        Types of the arguments and the result, e.g. ``numba.void(numba.int64)``.
    **options
        Further options of :func:`numba.njit`.
    """
    from numba import njit

    how: dict[str, Any] = {"nogil": True, "error_model": "numpy"} | options

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(signature, cache=True, **how)(function)
        except RuntimeError:  # no folder that what is compiled could be kept in
            return njit(signature, **how)(function)

    return decorate


def keep_compiled() -> None:
    """Let numba keep what it compiles of umap and pynndescent, for the next process.

    umap, and pynndescent that it searches neighbors with, compile their functions anew in each
    process, for some fifteen seconds, which is most of the time of a map of a few thousand cells,
    and for as long again where the search is left to pynndescent, as of more than 200 000 cells.
    numba keeps them in the folders of these packages or, where these cannot be
    written, the user's cache (``NUMBA_CACHE_DIR``); with neither, all is as it was. Functions that
    take functions are left alone: numba cannot find again what it compiled for one of those.
    """
    with kept_when_imported():
        import umap.umap_  # slow to import, and scanpy's neighbors need it anyway
    for function in _functions_of(umap.__name__, "pynndescent"):
        taken = inspect.signature(function.py_func).parameters
        if function.stats.cache_path is None and TAKES_FUNCTION.isdisjoint(taken):
            try:
                function.enable_caching()
            except RuntimeError:  # no folder that can be written
                return


def _functions_of(*packages: str) -> Iterator[Any]:
    """Yield what numba compiles of the imported modules of packages."""
    from numba.core.dispatcher import Dispatcher

    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in packages:
            for function in list(vars(module).values()):
                if isinstance(function, Dispatcher) and function.py_func.__module__ == name:
                    yield function


@contextmanager
def kept_when_imported() -> Iterator[None]:
    """Let numba keep the functions that are compiled while their module is imported.

    Those are declared with the types of their arguments.
    """
    import numba

    plain = numba.njit

    def njit(*args: Any, **options: Any) -> Any:
        if not args or not isinstance(args[0], str | list | tuple):
            return plain(*args, **options)

        def compiled(function: Callable[..., Any]) -> Any:
            try:
                return plain(*args, **({"cache": True} | options))(function)
            except RuntimeError:  # no folder that can be written
                return plain(*args, **options)(function)

        return compiled

    numba.njit = njit
    try:
        yield
    finally:
        numba.njit = plain
