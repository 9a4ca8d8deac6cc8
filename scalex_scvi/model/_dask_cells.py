"""Encoding of cells in a dask array, by the workers of a cluster if there is one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from scalex_scvi._core.blocks import DaskArray, reduce_blocks, stack_rows
from scalex_scvi.nn import Encoder

from ._inference import BlockEncoder, Moments


class DaskCells:
    """Blocks of cells in a dask array, each encoded where it is.

    An active :class:`distributed.Client` runs it; without one, dask's threads do. The encoder is
    sent to each worker once, not with each block. What a lost worker held is done again: each
    block has a name, so that none is missed or counted twice.

    Parameters
    ----------
    encoder
        The encoder, in eval mode. Workers get a copy, for the CPU.
    x
        Cells × genes in [0, 1].
    codes
        Batch of each cell.
    """

    def __init__(self, encoder: Encoder, x: DaskArray, codes: np.ndarray) -> None:
        x = x.rechunk({1: -1})
        bounds = np.cumsum(x.chunks[0])[:-1]
        self.blocks = list(zip(x.to_delayed().ravel(), np.split(codes, bounds), strict=True))
        self.encoder = _ship(BlockEncoder(copy.deepcopy(encoder).cpu()))

    def _results(self, method: Callable[..., Any], *shared: Any) -> list[Any]:
        from dask import delayed

        call = delayed(method)
        shipped = [_ship(value) for value in shared]
        return [call(self.encoder, block, codes, *shipped) for block, codes in self.blocks]

    def map(self, method: Callable[..., np.ndarray], *shared: Any) -> np.ndarray:
        """See :class:`scalex_scvi.model._inference.Cells`."""
        lengths = [len(codes) for _, codes in self.blocks]
        return stack_rows(self._results(method, *shared), lengths)

    def fold(self, method: Callable[..., Moments], *shared: Any) -> Moments:
        """See :class:`scalex_scvi.model._inference.Cells`."""
        return reduce_blocks(self._results(method, *shared), _merge)


def _merge(moments: Sequence[Moments]) -> Moments:
    return reduce(Moments.merge, moments)


def _ship(value: Any) -> Any:
    """Make a value one node of the graph.

    It goes to one worker, and from there to each other one that needs it, once. A scattered value
    would be gone with its workers; a node of the graph is sent again.
    """
    from dask import delayed

    return delayed(value, traverse=False)
