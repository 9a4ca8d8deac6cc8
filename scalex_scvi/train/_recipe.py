"""Recipes: sets of training options that belong together, each under a name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from numbers import Real
from typing import Any, Literal, get_args

from scalex_scvi._core.ranges import check_whole

Schedule = Literal["constant", "cosine"]


@dataclass(frozen=True, kw_only=True)
class Recipe(Mapping[str, Any]):
    """Options of a training of SCALEX, apart from the data and the machine.

    A recipe is also a mapping, so that ``model.train(**QUICK)`` is ``model.train(recipe=QUICK)``.

    Attributes
    ----------
    max_steps
        Number of minibatches, rounded up to whole epochs. ``None``: 1 000 to 3 000, more for
        sparser expression, and 3 000 where the decoder has a nonlinear part
        (:func:`default_steps`).
    batch_size
        Cells per minibatch, at most the number of cells. With several processes, cells per process:
        two processes with 64 each take the same steps as one with 128.
    lr
        Learning rate of Adam.
    lr_schedule
        ``"cosine"``, which rises over the first twentieth of all steps and falls to zero, or
        ``"constant"`` (published).
    weight_decay
        L2 penalty of Adam. ``None``: 5e-4 (published), but 1e-4 where the decoder has a nonlinear
        part, whose many types a stronger penalty blurs (docs/decisions.md). The training of a query
        model uses 0, since it would change the frozen parameters of the reference.
    kl_weight
        Constant weight of the KL divergence.
    alignment_weight
        Weight of the alignment term of the loss: the squared distance between the mean latent of a
        batch's cells and that of all cells, over all cells and in the neighborhood of each cell
        (see :class:`scalex_scvi.nn.BatchOffset`). 0: published. It reduces differences between
        batches in the latent. Where each batch has types that the others lack, 0 keeps these types
        better separated (docs/decisions.md).
    start_at_mean
        Whether a model's first training starts with the decoder's output at the cells' mean
        expression (:meth:`scalex_scvi.nn.Decoder.start_at`) instead of one half, as published.
        It saves the thousands of minibatches that the decoder needs to learn it.
    residual
        Whether the decoder keeps the nonlinear part that models of many cells with many types have
        by default (``n_residual`` of :class:`scalex_scvi.SCALEXModel`). ``False`` (published)
        removes it before the first training of a model, and the mixture that is the prior beside
        it, if it was not asked for; a trained model does not change.
    remove_offsets
        Whether what training leaves of the batches' offsets among neighboring cells is removed at
        its end, by a change of the encoder's last layer (docs/decisions.md). It takes a second or
        two. ``False``: published. With ``alignment_weight=0`` nothing is removed.
    early_stopping
        Whether to stop when the loss no longer falls: that of the validation cells where
        ``train_size`` leaves some, else the mean training loss (published). ``None``: with the
        constant schedule alone, since the cosine has to be run to its end.
    early_stopping_patience
        Epochs without a better loss before stopping.
    """

    max_steps: int | None = None
    batch_size: int = 128
    lr: float = 3e-3
    lr_schedule: Schedule = "cosine"
    weight_decay: float | None = None
    kl_weight: float = 0.5
    alignment_weight: float = 1.0
    start_at_mean: bool = True
    residual: bool = True
    remove_offsets: bool = True
    early_stopping: bool | None = None
    early_stopping_patience: int = 10

    def __post_init__(self) -> None:
        whole = {"max_steps": 1, "batch_size": 2, "early_stopping_patience": 1}
        for name, least in whole.items():
            if getattr(self, name) is not None:
                check_whole(getattr(self, name), least, name=name)
        for name in ("lr", "weight_decay", "kl_weight", "alignment_weight"):
            value = getattr(self, name)
            if name == "weight_decay" and value is None:
                continue
            in_range = isinstance(value, Real) and 0 <= float(value) < math.inf
            if not in_range or (name == "lr" and value == 0):
                sign = "positive" if name == "lr" else "0 or positive"
                msg = f"`{name}` must be a finite number, {sign}, got {value!r}."
                raise ValueError(msg)
        if self.lr_schedule not in get_args(Schedule):
            msg = f"`lr_schedule` must be one of {get_args(Schedule)!r}, got {self.lr_schedule!r}."
            raise ValueError(msg)

    def __getitem__(self, name: str) -> Any:
        if name not in self.names():
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the options."""
        return tuple(field.name for field in fields(cls))

    @classmethod
    def of(cls, options: Any) -> Recipe:
        """Return a recipe as it is, and that of other options with the default of the rest.

        Raises
        ------
        TypeError
            If it is no mapping, or for a name that is not in a recipe.
        """
        if isinstance(options, cls):
            return options
        if not isinstance(options, Mapping):
            msg = (
                f"`recipe` is {options!r}; allowed are `scalex_scvi.train.DEFAULT`, `QUICK` and "
                "`PUBLISHED` of the same module, and a mapping of options, such as "
                "`{'max_steps': 1_000}`."
            )
            raise TypeError(msg)
        return DEFAULT.but(**options)

    def but(self, **changes: Any) -> Recipe:
        """Return the recipe with other values for some names.

        Raises
        ------
        TypeError
            For a name that is not in a recipe.
        """
        for name in changes:
            if name not in self.names():
                close = get_close_matches(name, self.names(), n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                msg = f"A recipe has no {name!r}.{hint} Allowed are {list(self.names())!r}."
                raise TypeError(msg)
        return replace(self, **changes)


DEFAULT = Recipe()
"""The default: fifteen times the published learning rate, which falls along half a cosine; fewer
and larger minibatches; and a term of the loss that aligns the batches (docs/quality.md)."""

QUICK = Recipe(max_steps=1_000)
"""The default with 1 000 minibatches whatever the data. It is faster where the default takes more:
on sparse data, and where the decoder has a nonlinear part. Scores of peaks are 0.01 to 0.03 lower
(docs/quality.md)."""

PUBLISHED = Recipe(
    max_steps=30_000,
    batch_size=64,
    lr=2e-4,
    lr_schedule="constant",
    weight_decay=5e-4,
    alignment_weight=0.0,
    start_at_mean=False,
    residual=False,
    remove_offsets=False,
)
"""The recipe of the publication (Xiong et al., Nat Commun 13:6118, 2022)."""
