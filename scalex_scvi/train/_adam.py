"""Fused Adam for matrices stored column by column."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class _ByStorage:
    """Update each matrix in the order in which it is stored.

    torch's fused step on a CPU copies whatever is not contiguous, back and forth, which more than
    doubles its time. Adam works value by value, so that a matrix may be updated as its transpose.
    """

    param_groups: list[dict[str, Any]]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with _transposed(self._stored_by_column()):
            super().step()  # type: ignore[misc]
        return loss

    def _stored_by_column(self) -> list[Tensor]:
        parameters = [p for group in self.param_groups for p in group["params"]]
        return [p for p in parameters if p.ndim == 2 and not p.is_contiguous()]


class Adam(_ByStorage, torch.optim.Adam):
    """:class:`torch.optim.Adam`, fast in its fused form for a matrix stored by column too."""


class AdamW(_ByStorage, torch.optim.AdamW):
    """:class:`torch.optim.AdamW`, fast in its fused form for a matrix stored by column too."""


@contextmanager
def _transposed(parameters: list[Tensor]) -> Iterator[None]:
    _transpose(parameters)
    try:
        yield
    finally:
        _transpose(parameters)


def _transpose(parameters: list[Tensor]) -> None:
    """Swap shape and order of parameters and gradients; no value moves."""
    for parameter in parameters:
        gradient, parameter.grad = parameter.grad, None
        parameter.data = parameter.data.t()
        parameter.grad = None if gradient is None else gradient.t()
