"""How many threads torch trains with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

MOST_VALUES_OF_ONE = 400_000
"""Values of a minibatch (128 cells × 3 125 genes) up to which one thread trains. A second one saves
little there on idle cores, and takes more than twice as long on busy ones: threads wait for each
other some hundred times in each minibatch (docs/speed.md)."""


@contextmanager
def few_threads(n_values: int, device: torch.device) -> Iterator[None]:
    """Let torch use one thread on the CPU for minibatches of so few values.

    So a result does not depend on how many cores a machine has. Whoever sets a number of threads,
    by ``scvi.settings.num_threads`` or ``OMP_NUM_THREADS``, gets that.

    Parameters
    ----------
    n_values
        Cells × genes of a minibatch.
    device
        What is trained on.
    """
    n_threads = torch.get_num_threads()
    if device.type == "cpu" and n_values <= MOST_VALUES_OF_ONE and not _is_set():
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def _is_set() -> bool:
    from scvi import settings

    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    return settings.num_threads is not None or any(os.environ.get(name) for name in names)
