"""Rows of a CSR matrix in temporary files, one for each part of the rows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy import sparse

from .csr_on_disk import index_type


class CsrInParts:
    """A matrix that is read part by part, where each part is rows from anywhere in it.

    Rows are sorted into their parts as they come, so that no part is searched for on disk, and no
    more than a block is in memory.

    Parameters
    ----------
    folder
        Empty folder for the files.
    blocks
        Float32 CSR matrices, which are the rows in order.
    part_of_row
        Number of the part of each row, from 0 on.
    n_columns
        Columns of each block.
    """

    def __init__(
        self,
        folder: Path,
        blocks: Iterable[sparse.csr_matrix],
        part_of_row: np.ndarray,
        n_columns: int,
    ) -> None:
        self._folder, self._n_columns = folder, n_columns
        lengths: list[np.ndarray] = []
        done = 0
        for block in blocks:
            parts = part_of_row[done : done + block.shape[0]]
            for part in np.unique(parts):
                self._append(int(part), block[parts == part])
            lengths.append(np.diff(block.indptr))
            done += block.shape[0]
        self._lengths, self._part_of_row = np.concatenate(lengths), part_of_row

    def _append(self, part: int, rows: sparse.csr_matrix) -> None:
        data, indices = self._files(part)
        with data.open("ab") as file:
            rows.data.astype(np.float32, copy=False).tofile(file)
        with indices.open("ab") as file:
            rows.indices.astype(np.int32, copy=False).tofile(file)

    def _files(self, part: int) -> tuple[Path, Path]:
        return self._folder / f"{part}.data", self._folder / f"{part}.indices"

    def read(self, part: int) -> sparse.csr_matrix:
        """Return the rows of a part, in their order."""
        data, indices = self._files(part)
        lengths = self._lengths[self._part_of_row == part]
        starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        width = index_type(int(starts[-1]))
        columns = np.fromfile(indices, np.int32).astype(width, copy=False)
        values = (np.fromfile(data, np.float32), columns, starts.astype(width))
        return sparse.csr_matrix(values, shape=(len(lengths), self._n_columns), copy=False)
