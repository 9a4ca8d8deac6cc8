"""Work that is done by one thread.

Threads of one piece of work wait for each other at each of its steps, some thousand times a second.
On cores that others use, each wait is as long as what the others do; on idle ones a second thread
saves little of small steps (docs/speed.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from threading import Lock, local

import torch
from threadpoolctl import threadpool_limits

MOST_VALUES_OF_ONE = 400_000
"""Values of a minibatch (128 cells × 3 125 genes) up to which one thread trains."""

MOST_CELLS_OF_ONE = 20_000
"""Cells, of reference and query together, up to which one thread encodes and labels them."""

SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@contextmanager
def one_thread(is_wanted: bool = True) -> Iterator[None]:
    """Let torch, and the linear algebra of NumPy, SciPy and scikit-learn, use one thread.

    So a result does not depend on how many cores a machine has. Whoever sets a number of threads,
    by ``scvi.settings.num_threads`` or ``OMP_NUM_THREADS``, gets that.

    Parameters
    ----------
    is_wanted
        Whether there is so little to do.
    """
    with one_thread_each() if is_wanted and not _are_set() else nullcontext():
        yield


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Do so whatever is set: for pieces of work that go on side by side, one on each core."""
    if getattr(_here, "is_limited", False):  # by a wider block
        yield
        return
    _LIMIT.enter()
    _here.is_limited = True
    try:
        with threadpool_limits(1):
            yield
    finally:
        _here.is_limited = False
        _LIMIT.leave()


class _Limit:
    """How many threads there were before anybody wanted one.

    Most libraries have one number for the whole process, and a thread that calls torch for the
    first time gets the number that another one set last. So in a service that maps a query in each
    of its threads, what one finds may be the limit of another.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._n_inside = 0
        self._n_threads = 1
        self._libraries: threadpool_limits | None = None

    def enter(self) -> None:
        """Begin; of several at once, the first one notes what there was."""
        with self._lock:
            found = torch.get_num_threads()  # sets it in a thread that asks for the first time
            if self._n_inside == 0:
                self._n_threads, self._libraries = found, threadpool_limits()  # changes nothing
            self._n_inside += 1
            torch.set_num_threads(1)

    def leave(self) -> None:
        """End: as many threads as the first one found; of libraries when the last one ends."""
        with self._lock:
            self._n_inside -= 1
            if self._n_inside == 0 and self._libraries is not None:
                self._libraries.restore_original_limits()
            torch.set_num_threads(self._n_threads)


_LIMIT = _Limit()
_here = local()


def is_small_training(n_values: int, device: torch.device) -> bool:
    """Whether minibatches of so many values (cells × genes) are trained on by one thread."""
    return device.type == "cpu" and n_values <= MOST_VALUES_OF_ONE


def are_few_cells(n_cells: int) -> bool:
    """Whether so many cells are worked on by one thread."""
    return n_cells <= MOST_CELLS_OF_ONE


def _are_set() -> bool:
    from scvi import settings

    return settings.num_threads is not None or any(os.environ.get(name) for name in SETTINGS)
