"""Reading data, and the run folder."""

from ._read import read
from ._run_folder import RunFolder

__all__ = ["RunFolder", "read"]
