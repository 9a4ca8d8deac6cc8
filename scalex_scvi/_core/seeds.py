"""Reproducible randomness that leaves the caller's generators alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import scvi
import torch

from .ranges import check_whole

DEFAULT_SEED = 124
"""Seed of the published package."""


def resolve_seed(seed: int | None) -> int:
    """Return ``seed``, else ``scvi.settings.seed`` if the user set it, else the default."""
    if seed is not None:
        check_whole(seed, 0, name="seed")
        return int(seed)
    return DEFAULT_SEED if scvi.settings.seed is None else int(scvi.settings.seed)


def random_rows(n_rows: int, most: int, seed: int) -> np.ndarray:
    """Return ``most`` of the rows at random, in their order; all if there are no more."""
    if n_rows <= most:
        return np.arange(n_rows)
    return np.sort(np.random.default_rng(seed).choice(n_rows, most, replace=False))


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Run a block under a seeded torch generator, then restore the caller's state."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    # Without an accelerator: this generator alone, as torch would note the whole stack for later.
    everywhere = torch.accelerator.is_available()
    manual_seed = torch.manual_seed if everywhere else torch.default_generator.manual_seed
    with torch.random.fork_rng(devices=devices):
        manual_seed(resolve_seed(seed))
        yield


@contextmanager
def seeded_numpy(seed: int | None) -> Iterator[None]:
    """Run a block under numpy's seeded global generator, which scvi-tools uses; then restore it."""
    before = np.random.get_state()  # noqa: NPY002  the generator that is meant
    np.random.seed(resolve_seed(seed))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
