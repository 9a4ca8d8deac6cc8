"""Scripts in new processes that need not import for seconds what they build on.

They are forked from a server that has imported the libraries, and nothing of this package.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Mapping
from multiprocessing import forkserver, get_context
from pathlib import Path

import pytest

LIBRARIES = ["scvi", "scanpy", "distributed"]
SECONDS_TO_WAIT = 900  # for a machine that does much else


def start_server() -> None:
    """Let what multiprocessing starts by "forkserver" have the libraries; one server for all."""
    forkserver.set_forkserver_preload(LIBRARIES)
    forkserver.ensure_running()


def run_script(
    script: Path, *arguments: str, folder: Path, environment: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run a script as ``python script arguments`` does, in a folder.

    Returns its exit status, less than 0 where a signal ended it, and what it wrote to stderr.
    """
    if not hasattr(os, "fork"):
        pytest.skip("processes are not forked on this system")
    start_server()
    errors = folder.parent / f"{folder.name}.stderr"
    given = dict(os.environ) | dict(environment or {})
    argv = [str(script), *arguments]
    process = get_context("forkserver").Process(target=_run, args=(argv, folder, given, errors))
    process.start()
    process.join(SECONDS_TO_WAIT)
    if process.exitcode is None:
        process.kill()
        process.join()
    assert process.exitcode is not None
    return process.exitcode, errors.read_text(encoding="utf-8")


def _run(argv: list[str], folder: Path, environment: dict[str, str], errors: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    with errors.open("w") as file:
        os.dup2(file.fileno(), 2)
    sys.argv[:] = argv
    runpy.run_path(argv[0], run_name="__main__")
