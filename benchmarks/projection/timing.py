"""Wall and CPU time of a call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def timed(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Return the result, wall time, and CPU time, which tells more on a busy machine."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
    }
