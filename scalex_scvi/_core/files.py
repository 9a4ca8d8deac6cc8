"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block succeeds.

    An interrupted or failed block leaves a previous file as it was, and no temporary file.

    Parameters
    ----------
    path
        Final place of the file. Its folder must exist.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        # The same suffix: writers choose their format by it.
        temporary = Path(folder) / path.name
        yield temporary
        os.replace(temporary, path)
