"""Reading data, and the run folder."""

from ._load import load_counts, load_data
from ._matrix_market import read_mtx
from ._read import concat, read, read_file, read_files
from ._run_folder import RunFolder
from ._store import open_store, read_lazy, write_store

__all__ = [
    "RunFolder",
    "concat",
    "load_counts",
    "load_data",
    "open_store",
    "read",
    "read_file",
    "read_files",
    "read_lazy",
    "read_mtx",
    "write_store",
]
