"""What numba compiles is kept for the next process, where there is room."""

from __future__ import annotations

import pytest
from numba.core.dispatcher import Dispatcher

from scalex_scvi._core.compiled import compiled


def nowhere(self: Dispatcher) -> None:
    raise RuntimeError("no locator available")


@pytest.mark.parametrize("room", [True, False], ids=["room", "no room"])
def test_what_is_compiled_is_kept_where_it_can_be(
    monkeypatch: pytest.MonkeyPatch, room: bool
) -> None:
    if not room:
        monkeypatch.setattr(Dispatcher, "enable_caching", nowhere)

    @compiled("int64(int64)")
    def twice(x: int) -> int:
        return 2 * x

    assert twice(4) == 8
    assert (twice.stats.cache_path is not None) == room
