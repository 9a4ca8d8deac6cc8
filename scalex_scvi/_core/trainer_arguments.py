"""Arguments of a training that nothing takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from inspect import Parameter, signature
from typing import Any

import lightning.pytorch
from scvi.model.base import UnsupervisedTrainingMixin
from scvi.train import Trainer

_BESIDE = {"ckpt_path", "checkpoint"}
"""What no signature has: scvi-tools' runner takes the first, this package the second."""

_SET_HERE = {"shuffle_set_split"}


def check_trainer_arguments(
    given: Iterable[str], *own: Callable[..., Any], options: Iterable[str]
) -> None:
    """Raise for arguments that neither a function nor the trainers of others have.

    Parameters
    ----------
    given
        Names of the further arguments that the function was called with.
    own
        The function, and others that it passes arguments on to.
    options
        Names of the options of a recipe.

    Raises
    ------
    TypeError
        With the arguments that are meant perhaps.
    """
    taken = dict.fromkeys([*(name for function in own for name in _names(function)), *options])
    trainers = (Trainer.__init__, lightning.pytorch.Trainer.__init__)
    others = {name for taker in trainers for name in _names(taker)}
    others |= set(_names(UnsupervisedTrainingMixin.train)) - _SET_HERE
    allowed = [*taken, *others, *_BESIDE]
    unknown = [name for name in given if name not in allowed]
    if unknown:
        close = [near for name in unknown for near in get_close_matches(name, taken, n=1)]
        hint = f" Did you mean {close!r}?" if close else ""
        msg = (
            f"`{own[0].__name__}` takes no {unknown!r}.{hint} It takes {list(taken)!r}, and the "
            "arguments of `scvi.train.Trainer` and `lightning.pytorch.Trainer`."
        )
        raise TypeError(msg)


def _names(function: Callable[..., Any]) -> list[str]:
    parameters = signature(function).parameters.values()
    named = [one.name for one in parameters if one.kind is not Parameter.VAR_KEYWORD]
    return [name for name in named if name != "self"]
