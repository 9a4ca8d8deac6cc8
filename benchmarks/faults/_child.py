"""What runs in the process that is killed, and is loaded once before: forks of it start at once."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
from functools import partial
from multiprocessing.process import BaseProcess

import scanpy  # noqa: F401
import scvi  # noqa: F401
import torch

from scalex_scvi import _results, cli, workflow  # noqa: F401
from scalex_scvi.cli import _commands  # noqa: F401
from scalex_scvi.train import Checkpoint

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["benchmarks.faults._child"])


def start(
    arguments: list[str],
    *,
    dying: tuple[int, str] | None = None,
    most_bytes: int | None = None,
    steps: int | None = None,
) -> BaseProcess:
    """Start the command line in a process of its own.

    Parameters
    ----------
    arguments
        What is typed.
    dying
        Number of the rename, and whether the process dies ``"before"`` or ``"after"`` it.
    most_bytes
        Size that no file may exceed.
    steps
        Minibatches between two checkpoints of the training.
    """
    process = SERVER.Process(target=_run, args=(arguments, dying, most_bytes, steps))
    process.start()
    return process


def _run(
    arguments: list[str],
    dying: tuple[int, str] | None,
    most_bytes: int | None,
    steps: int | None,
) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    torch.set_num_threads(1)
    if dying is not None:
        _die_at(*dying)
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    if steps is not None:
        _results.Checkpoint = partial(Checkpoint, steps=steps)
    sys.exit(cli.main(arguments))


def _die_at(place: int, when: str) -> None:
    rename, count = os.replace, 0

    def replace(*args: object, **kwargs: object) -> None:
        nonlocal count
        count += 1
        if count == place and when == "before":
            os._exit(9)
        rename(*args, **kwargs)
        if count == place:
            os._exit(9)

    os.replace = os.rename = replace
