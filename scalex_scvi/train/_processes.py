"""Training in several processes by Lightning's DDP."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import distributed

from scalex_scvi._core.scvi_private import parse_device_args, use_distributed_sampler


def count_processes(
    accelerator: str, devices: int | list[int] | str, trainer_kwargs: dict[str, Any]
) -> int:
    """Count the processes that :class:`lightning.pytorch.Trainer` will train in.

    Parameters
    ----------
    accelerator, devices, trainer_kwargs
        Arguments of :meth:`scalex_scvi.SCALEXModel.train`.

    Raises
    ------
    ValueError
        If there are several, but the strategy is not DDP.
    """
    _, per_node, _ = parse_device_args(accelerator, devices, return_device="torch")
    n_devices = per_node if isinstance(per_node, int) else len(per_node)
    n_processes = n_devices * trainer_kwargs.get("num_nodes", 1)
    strategy = trainer_kwargs.get("strategy")
    if n_processes > 1 and not use_distributed_sampler(strategy):
        msg = (
            f"`devices={devices!r}` trains in {n_processes} processes, which takes "
            f"`strategy='ddp'` ('ddp_notebook' in a notebook), got {strategy!r}. Pass it, or "
            "train with `devices=1`."
        )
        raise ValueError(msg)
    return n_processes


def of_all_processes(state: Any) -> Any:
    """Return what a checkpoint holds of a state that each process has of its own.

    That of one process is the state itself; of several it is a dictionary, by the process. All of
    them have to call this at the same moment of the training.
    """
    if not _are_several():
        return state
    states = [None] * distributed.get_world_size()
    distributed.all_gather_object(states, state)
    return {_process(rank): of_one for rank, of_one in enumerate(states)}


def of_this_process(kept: Any) -> Any:
    """Return this process's own part of what :func:`of_all_processes` returned."""
    return kept[_process(distributed.get_rank())] if _are_several() else kept


def _are_several() -> bool:
    return distributed.is_initialized() and distributed.get_world_size() > 1


def _process(rank: int) -> str:
    return f"process {rank}"


@contextmanager
def ddp_logging(trainer_kwargs: dict[str, Any]) -> Iterator[None]:
    """Keep what scvi-tools says and writes under DDP away from the user; else do nothing.

    It writes the history into the working folder, and warns that early stopping is off: its own is.
    """
    if not use_distributed_sampler(trainer_kwargs.get("strategy")):
        yield
        return
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "early_stopping was automatically disabled")
        trainer_kwargs.setdefault("log_save_dir", folder)
        yield
