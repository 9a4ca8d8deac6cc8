"""The transform on a device: the same arithmetic as :mod:`._transform`, by torch.

A GPU encodes cells faster than a processor can normalize them, so that the counts go there as they
are. A test compares every value with the plain transform's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from scalex_scvi._core.matrices import to_shared_csr

from ._profiles import ADT
from ._transform import Transform


@dataclass(frozen=True)
class DeviceRows:
    """Cells × genes in CSR form on a device, given as dense rows.

    Attributes
    ----------
    starts
        Where each cell's values begin, and where the last one's end; in the processor's memory, so
        that sizes are known without waiting for the device.
    columns, values
        On the device: gene and value of each.
    n_columns
        Number of genes.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor
    n_columns: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def device(self) -> torch.device:
        """Where the values are."""
        return self.values.device

    @classmethod
    def of(cls, csr: sparse.csr_matrix, device: torch.device) -> DeviceRows:
        """Copy a CSR matrix to a device."""
        return cls(
            torch.from_numpy(csr.indptr.astype(np.int64, copy=False)),
            torch.from_numpy(csr.indices).to(device),
            torch.from_numpy(csr.data.astype(np.float32, copy=False)).to(device),
            csr.shape[1],
        )

    @classmethod
    def stack(cls, parts: list[DeviceRows]) -> DeviceRows:
        """Put parts under one another."""
        ends = torch.cat([part.starts.diff() for part in parts]).cumsum(0)
        return cls(
            torch.cat([ends.new_zeros(1), ends]),
            torch.cat([part.columns for part in parts]),
            torch.cat([part.values for part in parts]),
            parts[0].n_columns,
        )

    def dense(self) -> Tensor:
        """Return all cells, dense: ``(n_cells, n_columns)``."""
        lengths = self.starts.diff()
        rows = torch.repeat_interleave(
            torch.arange(len(self), device=self.device),
            lengths.to(self.device),
            output_size=len(self.values),
        )
        return self._filled(len(self), rows, self.columns, self.values)

    def take(self, cells: Tensor) -> Tensor:
        """Return some cells, dense, in the order of ``cells``, which are in memory."""
        starts = self.starts[cells]
        lengths = self.starts[cells + 1] - starts
        before = lengths.cumsum(0) - lengths
        n_values = int(lengths.sum())
        lengths, shift = lengths.to(self.device), (starts - before).to(self.device)
        rows = torch.repeat_interleave(
            torch.arange(len(cells), device=self.device), lengths, output_size=n_values
        )
        places = torch.arange(n_values, device=self.device) + shift[rows]
        return self._filled(len(cells), rows, self.columns[places], self.values[places])

    def _filled(self, n_rows: int, rows: Tensor, columns: Tensor, values: Tensor) -> Tensor:
        dense = values.new_zeros(n_rows * self.n_columns)
        dense[rows * self.n_columns + columns] = values
        return dense.view(n_rows, self.n_columns)


class DeviceTransform:
    """A :class:`Transform` whose arithmetic is done on a device.

    Parameters
    ----------
    transform
        The transform of genes or peaks; for the few proteins of a panel the plain one is used.
    device
        The device.
    """

    def __init__(self, transform: Transform, device: torch.device) -> None:
        self.device = device
        self.transform = transform
        if transform.over is not None:
            self._counted = self._there(transform.over.places >= 0)
        self._places = self._there(transform.direct.places.astype(np.int32))
        self._scale = None if transform.scale is None else self._there(transform.scale)

    @staticmethod
    def takes(transform: Transform) -> bool:
        """Whether a transform can be done here."""
        return transform.profile != ADT.name and not transform.from_logarithms

    def _there(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def __call__(self, block: Any, codes: np.ndarray) -> DeviceRows:
        """Return values in [0, 1], cells × the record's features.

        Parameters
        ----------
        block
            Cells × features that the data set has, CSR or dense counts; not changed.
        codes
            Batch of each cell.
        """
        counts = DeviceRows.of(to_shared_csr(block, name="The matrix"), self.device)
        values = self._normalized(counts)
        columns = self._places[counts.columns]
        lengths = counts.starts.diff().to(self.device)
        kept = columns >= 0
        rows = torch.repeat_interleave(
            torch.arange(len(counts), device=self.device), lengths, output_size=len(values)
        )[kept]
        columns, values = columns[kept], values[kept]
        if self._scale is not None:
            batch = torch.from_numpy(np.asarray(codes, dtype=np.int64)).to(self.device)
            scale = self._scale[batch[rows], columns]
            # A gene that is zero in all the reference's cells of a batch has no scale there.
            values = torch.where(scale > 0, values / scale, values.sign()).clamp_(max=1)
        starts = torch.bincount(rows, minlength=len(counts)).cumsum(0).cpu()
        return DeviceRows(
            torch.cat([starts.new_zeros(1), starts]),
            columns,
            values.float(),
            self.transform.wanted.n_wanted,
        )

    def _normalized(self, counts: DeviceRows) -> Tensor:
        """Each cell's values, divided by their total; in float32, as the plain transform."""
        transform = self.transform
        if transform.over is None:
            return counts.values
        counted = torch.where(self._counted[counts.columns], counts.values, 0).double()
        lengths = counts.starts.diff().to(self.device)
        total = torch.segment_reduce(counted, "sum", lengths=lengths, unsafe=True)
        total[total == 0] = 1
        divisor = torch.repeat_interleave(
            (total / transform.total).float(), lengths, output_size=len(counts.values)
        )
        values = counts.values / divisor
        return values.log1p_() if transform.log1p else values


def on_device(
    transform: Transform | None, device: torch.device
) -> Callable[[Any, np.ndarray], DeviceRows]:
    """Return what takes a block and its batches to values in [0, 1] on a device.

    Parameters
    ----------
    transform
        From counts to values; ``None``: the blocks hold values already.
    device
        The device.
    """
    if transform is None:
        return lambda block, codes: DeviceRows.of(to_shared_csr(block, name="The matrix"), device)
    if DeviceTransform.takes(transform):
        return DeviceTransform(transform, device)
    return lambda block, codes: DeviceRows.of(transform(block, codes), device)
