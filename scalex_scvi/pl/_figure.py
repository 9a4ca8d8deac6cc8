"""Opening, saving, showing and returning figures: the rule of the subpackage."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import scanpy as sc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from scalex_scvi._core.files import PROGRAM, whole_file

SavePath = str | os.PathLike[str]
Save = SavePath | Sequence[SavePath] | None

DPI = 200

_SAID_IN = {".png": ("Software",), ".pdf": ("Creator",), ".svg": ("Creator",)}
"""Where a picture says by what program it was made."""


@contextmanager
def opened(
    figsize: tuple[float, float],
    *,
    shape: tuple[int, int] = (1, 1),
    ax: Axes | None = None,
    save: Save = None,
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Yield a new figure and its panels, or those of ``ax``; save what the block has drawn.

    A figure whose block fails is closed. Names are drawn as they are: a ``$`` in one begins no
    formula.

    Raises
    ------
    FileNotFoundError, ValueError
        If ``save`` cannot be written, before anything is drawn.
    """
    paths = _paths(save)
    with matplotlib.rc_context({"text.parse_math": False}):
        if ax is not None:
            _check_formats(paths, ax.figure.figure)
            yield ax.figure.figure, [ax]
            _write(ax.figure.figure, paths)
            return
        layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06)  # inches, around each panel
        figure, axes = plt.subplots(*shape, figsize=figsize, squeeze=False, layout=layout)
        try:
            _check_formats(paths, figure)
            yield figure, list(axes.flat)
            _write(figure, paths)
        except BaseException:
            plt.close(figure)
            raise


def shown_or_returned(
    figure: Figure, *, show: bool | None, ax: Axes | None = None
) -> Figure | None:
    """Show the figure and return nothing, or return it; leave none of ours open."""
    show = sc.settings.autoshow if show is None else show
    if show:
        plt.show()
    # In interactive mode plt.show does not wait, and closing would take the window away.
    if ax is None and not (show and matplotlib.is_interactive()):
        plt.close(figure)
    return None if show else figure


def _paths(save: Save) -> list[Path]:
    if save is None:
        return []
    if isinstance(save, bool):
        msg = f"`save` must be a path such as 'figure.pdf', got {save!r}."
        raise TypeError(msg)
    given = [save] if isinstance(save, str | os.PathLike) else save
    paths = [Path(path).expanduser() for path in given]
    for path in paths:
        if not path.parent.is_dir():
            msg = f"`save` {str(path)!r}: there is no folder {str(path.parent)!r}. Make it first."
            raise FileNotFoundError(msg)
    return paths


def _check_formats(paths: list[Path], figure: Figure) -> None:
    formats = sorted(figure.canvas.get_supported_filetypes())
    for path in paths:
        if path.suffix.lower().removeprefix(".") not in formats:
            msg = f"`save` {str(path)!r} must end in one of {[f'.{name}' for name in formats]!r}."
            raise ValueError(msg)


def _write(figure: Figure, paths: list[Path]) -> None:
    for path in paths:
        with whole_file(path) as temporary:
            metadata = {name: PROGRAM for name in _SAID_IN.get(path.suffix.lower(), ())}
            figure.savefig(temporary, dpi=DPI, bbox_inches="tight", metadata=metadata or None)
