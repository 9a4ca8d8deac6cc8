"""Scripts and kernels in new processes that need not import for seconds what they build on.

They are forked from a server that has imported the libraries, and nothing of this package.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver, get_context, set_start_method
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

LIBRARIES = ["scvi", "scanpy", "distributed"]
SECONDS_TO_WAIT = 900  # for a machine that does much else


def start_server() -> None:
    """Let what multiprocessing starts by "forkserver" have the libraries; one server for all."""
    forkserver.set_forkserver_preload(LIBRARIES)
    forkserver.ensure_running()


def start_kernel(connection_file: Path) -> BaseProcess:
    """Start a process that is a kernel for notebooks."""
    return _start(_serve, connection_file, dict(os.environ))


def _start(function: Callable[..., None], *arguments: Any) -> BaseProcess:
    if not hasattr(os, "fork"):
        pytest.skip("processes are not forked on this system")
    start_server()
    process = get_context("forkserver").Process(target=function, args=arguments)
    process.start()
    return process


def run_script(script: Path, *arguments: str, folder: Path) -> tuple[int, str]:
    """Run a script as ``python script arguments`` does, in a folder.

    Returns its exit status, less than 0 where a signal ended it, and what it wrote to stderr.
    """
    (ended,) = run_together(script, *arguments, folder=folder, environments=[{}])
    return ended


def run_together(
    script: Path, *arguments: str, folder: Path, environments: Sequence[Mapping[str, str]]
) -> list[tuple[int, str]]:
    """Run a script in several processes at a time, each with variables of its own."""
    argv = [str(script), *arguments]
    processes, written = [], []
    for number, environment in enumerate(environments):
        errors = folder.parent / f"{folder.name}.{number}.stderr"
        processes.append(_start(_run, argv, folder, {**os.environ, **environment}, errors))
        written.append(errors)
    for process in processes:
        process.join(SECONDS_TO_WAIT)
        if process.exitcode is None:
            process.kill()
            process.join()
    codes = [process.exitcode for process in processes]
    return [
        (code, errors.read_text(encoding="utf-8"))
        for code, errors in zip(codes, written, strict=True)
        if code is not None
    ]


def _serve(connection_file: Path, environment: dict[str, str]) -> None:
    from ipykernel.kernelapp import launch_new_instance

    os.environ.clear()
    os.environ.update(environment)
    launch_new_instance(argv=["-f", str(connection_file)])


def _run(argv: list[str], folder: Path, environment: dict[str, str], errors: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    set_start_method(None, force=True)  # of its own processes: the usual one, not this one's
    with errors.open("w") as file:
        os.dup2(file.fileno(), 2)
    sys.argv[:] = argv
    runpy.run_path(argv[0], run_name="__main__")
