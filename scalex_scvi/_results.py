"""Results of a run: what is added to the AnnData, and what is written to the run folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from typing import Any

import pandas as pd
from anndata import AnnData

from . import metrics, pl
from ._core.columns import as_text
from ._core.messages import command_line
from ._core.seeds import resolve_seed
from ._outputs import LABEL, Outputs
from .io import RunFolder, batch_column, make_writable, paths_of
from .model import SCALEXModel
from .pp import Preparation
from .tl import embed, uncorrected_umap
from .train import Checkpoint

logger = logging.getLogger(__name__)

IMPUTED = "impute"
"""Layer of the imputed expression."""

SHARE_TO_WARN = 0.1
"""A filter that takes more of the cells than this says so visibly."""


def as_given(data: Any) -> Any:
    """Return sources that can be read more than once: those of an iterator as a list."""
    return list(data) if isinstance(data, Iterator) else data


def results_folder(outputs: Outputs, data: Any) -> AbstractContextManager[RunFolder | None]:
    """Yield the folder to write into, or ``None``; ``data`` are what is read.

    Raises
    ------
    PermissionError, ValueError
        If a file of somebody else would be replaced: see :meth:`scalex_scvi.io.RunFolder.check`.
    """
    if outputs.outdir is None:
        return nullcontext()
    return RunFolder(outputs.outdir).run(paths_of(data))


@contextmanager
def kept_training(outputs: Outputs, train_kwargs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield arguments of the training with which its state is kept in the run folder.

    An error in the block says that it can be continued.

    Parameters
    ----------
    outputs
        What is written, and whether an interrupted training is continued.
    train_kwargs
        Further arguments of :meth:`SCALEXModel.train`.
    """
    # Several processes cannot be continued exactly: refused only if that is wanted.
    if outputs.outdir is None or ("strategy" in train_kwargs and not outputs.resume):
        yield dict(train_kwargs)
        return
    place = RunFolder(outputs.outdir).training
    if place.exists() and not outputs.resume:
        logger.warning(
            "%s holds an interrupted training, which is not continued (`resume=True`) and will be "
            "replaced.",
            outputs.outdir,
        )
    if outputs.resume and not place.exists():
        logger.info("%s holds no interrupted training: it starts anew.", outputs.outdir)
    try:
        yield {"checkpoint": Checkpoint(place, resume=outputs.resume)} | dict(train_kwargs)
    except BaseException as error:
        if place.exists():
            error.add_note(
                "The training is kept up to its last checkpoint: the same call with `resume=True` "
                "continues it."
            )
        raise


@contextmanager
def kept(model: SCALEXModel, outputs: Outputs) -> Iterator[None]:
    """Save a trained model before anything else can fail; an error in the block says where it is.

    When the run comes to its end the model is in ``checkpoint/``, and this copy goes.
    """
    if outputs.outdir is None:
        yield
        return
    place = RunFolder(outputs.outdir).keep_model(model.save)
    try:
        yield
    except BaseException as error:
        error.add_note(f"The trained model is kept: SCALEXModel.load({str(place)!r}, adata=False).")
        raise


def check_outputs(adata: AnnData, outputs: Outputs) -> None:
    """Find mistakes before a long training.

    Raises
    ------
    KeyError, ValueError
        If there is no such label or batch.
    """
    if outputs.label is not None and outputs.label not in adata.obs:
        msg = f"`label` {outputs.label!r} is not a column of obs: {list(adata.obs.columns)!r}."
        raise KeyError(msg)
    batches = list(as_text(adata.obs[batch_column(adata)]).categories)
    if isinstance(outputs.impute, str) and outputs.impute not in batches:
        msg = f"`impute` {outputs.impute!r} is not a batch: {sorted(batches)!r}."
        raise ValueError(msg)


def warn_of_lost_cells(before: AnnData, after: AnnData, label: str | None) -> None:
    """Warn if a filter took more than a tenth of the cells: how many of which batch and type.

    Parameters
    ----------
    before, after
        Cells before and after the filter.
    label
        Column of ``obs`` with types; ``None``: ``"celltype"``, if there is one.
    """
    lost = before.n_obs - after.n_obs
    if lost <= SHARE_TO_WARN * before.n_obs:
        return
    counted = "".join(
        f" By {column!r}: {_lost_in_each(before.obs[column], after.obs[column])}."
        for column in (batch_column(before), LABEL if label is None else label)
        if column in before.obs
    )
    logger.warning(
        "`min_features` removed %d of %d cells.%s Pass `min_features=0` to keep all cells.",
        lost,
        before.n_obs,
        counted,
    )


def _lost_in_each(before: pd.Series, after: pd.Series) -> str:
    """Count removed and all cells of each group, the largest share first."""
    n_before = before.astype(str).value_counts()
    n_lost = n_before - after.astype(str).value_counts().reindex(n_before.index, fill_value=0)
    order = (n_lost / n_before).sort_values(ascending=False, kind="stable").index
    return ", ".join(f"{name} {n_lost[name]} of {n_before[name]}" for name in order)


def add_imputed(adata: AnnData, model: SCALEXModel, outputs: Outputs) -> None:
    """Add the layer of imputed expression, if it is wanted."""
    if outputs.impute:
        batch = outputs.impute if isinstance(outputs.impute, str) else model.batch_names[0]
        model.impute(adata, layer=IMPUTED, transform_batch=batch, chunk_size=outputs.chunk_size)


def finish(
    adata: AnnData,
    model: SCALEXModel,
    outputs: Outputs,
    folder: RunFolder | None,
    *,
    seed: int | None = None,
    before: AnnData | None = None,
    options: Sequence[Any] = (),
) -> None:
    """Add what is wanted to ``adata``, and write and show it.

    ``before`` are cells as they came, ``options`` what the run was told beside ``outputs``; both
    are for the report.
    """
    forget_registration(adata)
    has_map = not outputs.ignore_umap and embed(adata, seed=seed)
    if has_map:
        uncorrected_umap(adata, seed=seed)
    label = _label_in(adata, outputs)
    if outputs.assess:
        _assess(adata, label, seed)
    clusters = ["leiden"] if "leiden" in adata.obs else []
    pl.store_colors(adata, [*_columns_to_draw(adata, label), *clusters])
    if folder is not None:
        logger.info("Writes model and cells.")
        model.save(folder.checkpoint)
        make_writable(adata)  # what was added since
        folder.write_adata(adata)
    if has_map:
        logger.info("Draws the pictures.")
        _draw(adata, label, folder, show=outputs.show)
    if folder is not None:
        told: dict[str, Any] = {}
        defaults: dict[str, Any] = {}
        for each in (*options, outputs):
            told |= asdict(each)
            defaults |= _defaults_of(each)
        for name in ("outdir", "show"):  # for now an unfinished folder; and nothing that is kept
            del told[name]
        about = about_run(told, defaults, seed)
        logger.info("Writes the report.")
        write_report(adata, model, folder, label=label, before=before, about=about)
    if outputs.outdir is not None:
        logger.info("Results are in %s.", outputs.outdir)


def write_report(
    adata: AnnData,
    model: SCALEXModel,
    folder: RunFolder,
    *,
    label: str | None,
    before: AnnData | None,
    about: dict[str, Any],
) -> None:
    """Write the report; a failure there does not lose the run, whose model and cells are safe."""
    try:
        pl.report(
            adata,
            folder.path / "report.html",
            model=model,
            before=before,
            labels_key=label,
            batch_key=batch_column(adata),
            about=about,
        )
    except Exception:
        logger.warning("The report could not be written; all other results are.", exc_info=True)


def about_run(
    options: Mapping[str, Any], defaults: Mapping[str, Any], seed: int | None
) -> dict[str, Any]:
    """How a run was made: command, seed, and what it was told beside the defaults."""
    about: dict[str, Any] = {"seed": resolve_seed(seed), "options": dict(options)}
    about["defaults"] = {name: value for name, value in defaults.items() if name in options}
    command = command_line()
    if command is not None:
        about["command"] = command
    return about


def _defaults_of(options: Any) -> dict[str, Any]:
    """Return what options are if nothing is said; how cells are filtered depends on the profile."""
    if isinstance(options, Preparation):
        of_profile = Preparation(profile=options.profile).as_documented()
        return asdict(of_profile) | {"profile": Preparation.profile}
    return asdict(type(options)())


def _label_in(adata: AnnData, outputs: Outputs) -> str | None:
    if outputs.label is not None:
        return outputs.label
    return LABEL if LABEL in adata.obs else None


def _assess(adata: AnnData, label: str | None, seed: int | None) -> None:
    """Write the scores of the latent space into ``uns``."""
    scores = metrics.integration_scores(
        adata, batch_key=batch_column(adata), labels_key=label, seed=seed
    )
    for name, value in scores.items():
        logger.info("%s: %.3f", name, value)
    adata.uns.update(scores)


def _columns_to_draw(adata: AnnData, label: str | None) -> list[str]:
    wanted = (batch_column(adata), str(label), f"{label}_transfer")
    return [name for name in wanted if name in adata.obs]


def _draw(adata: AnnData, label: str | None, folder: RunFolder | None, *, show: bool) -> None:
    colors = _columns_to_draw(adata, label)
    files = [] if folder is None else folder.pictures("umap")
    if "projection" in adata.obs and adata.obs["projection"].nunique() > 1:
        is_query = adata.obs["projection"] == "query"
        if len(colors) > 1 and adata.obs.loc[is_query, colors[0]].nunique() == 1:
            del colors[0]  # one batch has one color
        # New cells rarely come with labels of their own.
        colors = [name for name in colors if adata.obs.loc[is_query, name].notna().any()] or colors
        pl.projection(adata, colors, show=show, save=files)
    else:
        pl.before_after(adata, [*colors, *([] if label else ["leiden"])], show=show, save=files)


def forget_registration(adata: AnnData) -> None:
    """Remove scvi-tools' registration, which means nothing outside this process."""
    for column in [c for c in adata.obs if str(c).startswith("_scvi")]:
        del adata.obs[column]
    for key in [key for key in adata.uns if key.startswith("_scvi")]:
        del adata.uns[key]
