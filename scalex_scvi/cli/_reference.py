"""The command ``reference``: makes a reference from the run folder of an integration."""

from __future__ import annotations

import argparse
import logging
import shlex
from collections.abc import Sequence

from anndata import AnnData

from scalex_scvi import SCALEXModel, references
from scalex_scvi._core.columns import as_text, set_groups
from scalex_scvi._outputs import LABEL
from scalex_scvi.io import RunFolder
from scalex_scvi.tl import LabelModel

from ._parser import NO_LICENSE

logger = logging.getLogger(__name__)


def save_reference(args: argparse.Namespace) -> None:
    """Save model, map and labels of a run folder as a reference.

    Parameters
    ----------
    args
        Parsed options of the command.

    Raises
    ------
    FileNotFoundError
        If the folder holds no results of a run.
    ValueError
        If it is the run folder of a projection, ``--about`` is not ``KEY=VALUE``, or as
        :func:`scalex_scvi.references.save`.
    KeyError
        If a column of ``--labels`` or ``--obs`` is absent.
    """
    run = RunFolder(args.run)
    about = _about(args.about)
    adata = run.read_adata()
    if adata is None:
        msg = f"There is no {str(run.adata)!r}: {args.run!r} is no run folder of 'integrate'."
        raise FileNotFoundError(msg)
    if "projection" in adata.obs:
        msg = (
            f"{args.run!r} is the run folder of a projection. Name that of the integration, whose "
            "cells were trained on."
        )
        raise ValueError(msg)
    labels = [LABEL] * (LABEL in adata.obs) if args.labels is None else args.labels
    for label in labels:
        if label in adata.obs:
            _leave_out_rare(adata, label)
    if not labels:
        logger.warning(
            "No labels: new cells will be placed on the map, and get none. See --labels."
        )
    if args.license == NO_LICENSE:
        logger.warning(
            "No license is named, so that nobody else may use the reference: name one, --license, "
            "before you give it away."
        )
    folder = references.save(
        SCALEXModel.load(run.checkpoint, adata),
        args.out,
        labels,
        license=args.license,
        name=args.name,
        about=about,
        obs=args.obs,
        overwrite=args.overwrite,
    )
    place = shlex.quote(str(folder))
    logger.info("New cells: scalex-scvi map new.h5ad --reference %s -o mapped", place)


def _about(said: Sequence[str]) -> dict[str, str]:
    """Return ``{key: value}`` of ``key=value``.

    Raises
    ------
    ValueError
        If ``=`` is missing.
    """
    for one in said:
        if "=" not in one:
            msg = f"--about {one!r} must be KEY=VALUE, organism=human for example."
            raise ValueError(msg)
    return {key: value for key, _, value in (one.partition("=") for one in said)}


def _leave_out_rare(adata: AnnData, label: str) -> None:
    """Set labels of fewer than five cells to missing in place: a reference would refuse them."""
    groups = as_text(adata.obs[label])
    counted = groups.value_counts()
    rare = {str(name): int(n) for name, n in counted.items() if 0 < n < LabelModel.fewest_cells}
    if not rare:
        return
    logger.warning(
        "Labels of obs[%r] with fewer than %d cells are left out, since their means would tell the "
        "expression of single cells: %r. New cells get other labels, or are unknown.",
        label,
        LabelModel.fewest_cells,
        rare,
    )
    set_groups(adata, label, groups.remove_categories(list(rare)))
