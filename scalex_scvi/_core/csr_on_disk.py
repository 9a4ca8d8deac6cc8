"""A CSR matrix in an .h5ad file or a zarr store, read and written by runs of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy import sparse

from .reading import naming_file, place_of

_PARTS = ("data", "indices", "indptr")

_ORDINARY = "zarr.core.codec_pipeline.BatchedCodecPipeline"
_FUSED = "zarr.core.codec_pipeline.FusedCodecPipeline"

VALUES_IN_CHUNK = 2**14
"""Fewest values that are compressed together."""

CELLS_IN_CHUNK = 64
"""Cells whose values are compressed together, if these are more: what a training reads at once."""

VALUES_IN_SHARD = 2**21
"""Values in one file, so that millions of cells are hundreds of files."""

_LEVEL_OF_LZ4 = 9
"""With its bits shuffled. Counts and column numbers are as small as by zarr's default, and unpacked
in less than half of its time (`docs/speed.md`)."""


@contextmanager
def fast_codecs() -> Iterator[None]:
    """Let the zarr arrays that are opened here unpack their chunks without a coroutine for each.

    Newer versions of zarr have a faster way, which one has to ask for: with chunks of 64 kB, half
    of the time of a read is spent between them. Where a user has chosen another way, it stays.
    """
    import zarr
    from zarr.core import codec_pipeline

    ordinary = zarr.config.get("codec_pipeline.path") == _ORDINARY
    if not (ordinary and hasattr(codec_pipeline, _FUSED.rsplit(".", 1)[1])):
        yield
        return
    with zarr.config.set({"codec_pipeline.path": _FUSED}):
        yield


def fast_codecs_of(matrix: Any) -> AbstractContextManager[None]:
    """:func:`fast_codecs`, for a matrix of AnnData in a zarr store: its first read opens it."""
    is_of_zarr = getattr(matrix, "backend", None) == "zarr"
    return fast_codecs() if is_of_zarr else nullcontext()


def index_type(largest: int) -> type[np.signedinteger]:
    """Return the narrowest type of SciPy's indices that holds a number."""
    return np.int32 if largest <= np.iinfo(np.int32).max else np.int64


class CsrOnDisk:
    """Rows of a matrix that AnnData wrote as CSR.

    Parameters
    ----------
    group
        The matrix in an open file or store.
    reopen
        Whether to open a file again for each read, so that other processes can read, too.
    """

    def __init__(self, group: Any, *, reopen: bool = True) -> None:
        self._place = place_of(group) or "the matrix"
        with naming_file(self._place, "a matrix"):
            self._open(group, reopen)

    def _open(self, group: Any, reopen: bool) -> None:
        rows, columns = group.attrs["shape"]
        self.shape = (int(rows), int(columns))
        self.dtype = group["data"].dtype
        self._file: str | None = None
        if not isinstance(group, h5py.Group):
            with fast_codecs():
                self._arrays = [group[part] for part in _PARTS]
        elif reopen:
            self._file, self._key = group.file.filename, group.name
        else:
            self._arrays = [group[part] for part in _PARTS]

    @property
    def parts(self) -> list[Any]:
        """Return what it reads: arrays, or the path of their file."""
        return self._arrays if self._file is None else [Path(self._file)]

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return rows ``start`` to ``stop``; indices are 64-bit only where they must be."""
        if self._file is None:
            return self._rows(start, stop, *self._arrays)
        with h5py.File(self._file, "r") as file:
            return self._rows(start, stop, *(file[self._key][part] for part in _PARTS))

    def _rows(self, start: int, stop: int, *arrays: Any) -> sparse.csr_matrix:
        with naming_file(self._place, "a matrix"):
            return self._checked(start, stop, *arrays)

    def _checked(
        self, start: int, stop: int, data: Any, indices: Any, indptr: Any
    ) -> sparse.csr_matrix:
        ends = np.asarray(indptr[start : stop + 1]).astype(np.int64)
        first, last = int(ends[0]), int(ends[-1])
        if (
            len(ends) != stop - start + 1
            or first < 0
            or last > data.shape[0]
            or np.any(np.diff(ends) < 0)
        ):
            raise ValueError("its rows do not follow each other")
        width = index_type(max(last - first, self.shape[1]))
        columns = np.asarray(indices[first:last]).astype(width, copy=False)
        # Compiled code, SciPy's and ours, would write wherever such a number points.
        if columns.size and not 0 <= columns.min() <= columns.max() < self.shape[1]:
            raise ValueError("there are columns beyond the last")
        parts = (np.asarray(data[first:last]), columns, (ends - first).astype(width))
        return sparse.csr_matrix(parts, shape=(stop - start, self.shape[1]), copy=False)

    def read_block(self, block_info: Any = None) -> sparse.csr_matrix:
        """Return a block of a dask array, for :func:`dask.array.map_blocks`."""
        return self.read(*block_info[None]["array-location"][0])


def write_csr(root: Any, key: str, blocks: Iterable[sparse.csr_matrix], n_columns: int) -> None:
    """Write blocks of rows under one another, as AnnData's CSR, into a zarr store.

    Files are written whole: AnnData appends each block by itself, which packs a file anew for each
    block that ends in it.

    Parameters
    ----------
    root
        Group of zarr to write into.
    key
        Name of the matrix.
    blocks
        CSR, at least one.
    n_columns
        Columns of each.
    """
    group = root.create_group(key)
    lengths = [np.zeros(1, dtype=np.int64)]
    writers: list[_Appended] = []
    for block in blocks:
        if not writers:
            per_cell = block.nnz / max(block.shape[0], 1)
            types = {"data": block.dtype, "indices": np.dtype(index_type(n_columns))}
            writers = [_Appended(group, name, kind, per_cell) for name, kind in types.items()]
        writers[0].append(block.data)
        writers[1].append(block.indices)
        lengths.append(np.diff(block.indptr))
    for writer in writers:
        writer.finish()
    ends = np.cumsum(np.concatenate(lengths), dtype=np.int64)
    group.create_array("indptr", data=ends, chunks=(max(len(ends), 1),))
    encoding = {"encoding-type": "csr_matrix", "encoding-version": "0.1.0"}
    group.attrs.update(encoding | {"shape": [len(ends) - 1, n_columns]})


class _Appended:
    """An array of zarr that values are appended to, whole files at a time."""

    def __init__(self, group: Any, name: str, dtype: np.dtype, per_cell: float) -> None:
        from zarr.codecs import BloscCodec, Crc32cCodec

        at_once = 2 ** int(np.ceil(np.log2(max(CELLS_IN_CHUNK * per_cell, 1))))
        chunk = min(max(at_once, VALUES_IN_CHUNK), VALUES_IN_SHARD // 8)
        packer = BloscCodec(cname="lz4", clevel=_LEVEL_OF_LZ4, shuffle="bitshuffle")
        checksum = Crc32cCodec()  # Blosc unpacks most damage without a word
        with fast_codecs():
            self._array = group.create_array(
                name,
                shape=(0,),
                dtype=dtype,
                chunks=(chunk,),
                shards=(VALUES_IN_SHARD,),
                compressors=[packer, checksum],
            )
        self._waiting: list[np.ndarray] = []

    def append(self, values: np.ndarray) -> None:
        self._waiting.append(values.astype(self._array.dtype, copy=False))
        n_waiting = sum(map(len, self._waiting))
        if n_waiting >= VALUES_IN_SHARD:
            self._write(n_waiting // VALUES_IN_SHARD * VALUES_IN_SHARD)

    def finish(self) -> None:
        self._write(sum(map(len, self._waiting)))

    def _write(self, n_values: int) -> None:
        waiting = np.concatenate(self._waiting) if self._waiting else np.empty(0)
        if n_values:
            self._array.append(waiting[:n_values])
        self._waiting = [waiting[n_values:].copy()]
