"""Rows of a CSR matrix in temporary files, one for each part of the rows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from .csr_on_disk import index_type
from .matrices import to_shared_csr


class CsrInParts:
    """A matrix that is read part by part, where each part is rows from anywhere in it.

    Rows are sorted into their parts as they come, so that no part is searched for on disk, and no
    more than a block is in memory.

    Parameters
    ----------
    folder
        Empty folder for the files.
    blocks
        Matrices, which are the rows in order; CSR or what :func:`to_shared_csr` makes CSR of.
    part_of_row
        Number of the part of each row, from 0 on.
    n_columns
        Columns of each block.

    Raises
    ------
    OSError
        If a file cannot be written; a note says where, and how to choose another place.
    """

    def __init__(
        self,
        folder: Path,
        blocks: Iterable[Any],
        part_of_row: np.ndarray,
        n_columns: int,
    ) -> None:
        self._folder, self._n_columns = folder, n_columns
        lengths: list[np.ndarray] = []
        done = 0
        for one in blocks:
            block = to_shared_csr(one, name="The expression")
            parts = part_of_row[done : done + block.shape[0]]
            for part in np.unique(parts):
                self._append(int(part), block[parts == part])
            lengths.append(np.diff(block.indptr))
            done += block.shape[0]
        self._lengths, self._part_of_row = np.concatenate(lengths), part_of_row

    def _append(self, part: int, rows: sparse.csr_matrix) -> None:
        values = rows.data, rows.indices.astype(np.int32, copy=False)
        try:
            for path, array in zip(self._files(part), values, strict=True):
                with path.open("ab") as file:
                    array.tofile(file)
        except OSError as error:
            error.add_note(
                f"Written was to {str(self._folder)!r}, 8 bytes for each value that is not zero. "
                "Name a folder on a larger disk in the environment variable TMPDIR."
            )
            raise

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
