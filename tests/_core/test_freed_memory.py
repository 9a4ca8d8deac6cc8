"""Freed memory goes back to the system."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from scalex_scvi._core import freed_memory

MEGABYTE = 2**20


def resident_memory() -> float:
    """Return the megabytes that this process has in memory."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(freed_memory._malloc_trim() is None, reason="glibc alone keeps freed memory")
def test_holes_between_used_memory_are_given_back() -> None:
    """Blocks of 64 kB, of which every hundredth stays: 200 MB are freed between them."""
    blocks = [np.ones(MEGABYTE // 16, dtype=np.uint8) for _ in range(3200)]
    kept = blocks[::100]
    del blocks
    before = resident_memory()
    freed_memory.give_back_memory()
    assert before - resident_memory() > 100
    assert all(block.all() for block in kept)


def test_without_glibc_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    freed_memory._malloc_trim.cache_clear()
    try:
        assert freed_memory._malloc_trim() is None
        freed_memory.give_back_memory()
    finally:
        monkeypatch.undo()
        freed_memory._malloc_trim.cache_clear()
