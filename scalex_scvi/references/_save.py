"""Making a reference of a trained model."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scalex_scvi import pl
from scalex_scvi._core.columns import as_text
from scalex_scvi._core.files import check_no_run_has
from scalex_scvi._core.keys import LATENT_KEY, UMAP_KEY, own_keys
from scalex_scvi._core.unfinished import arrive, unfinished
from scalex_scvi.io import make_writable
from scalex_scvi.model import SCALEXModel
from scalex_scvi.tl import LabelModel, embed, reference_cells

from ._cache import note_saved
from ._card import card
from ._format import ABOUT_FILE, CARD_FILE, FILES, LABELS_FILE, check_name, write_about

logger = logging.getLogger(__name__)

ABOUT = ("organism", "tissue", "description", "source", "citation", "contact")
"""What may be said of a reference beside its name and license."""

_PACKAGES = ("scalex-scvi", "scvi-tools", "torch", "anndata")


def save(
    model: SCALEXModel,
    folder: str | os.PathLike[str],
    labels: str | Sequence[str] = (),
    *,
    license: str,
    name: str | None = None,
    about: Mapping[str, str] | None = None,
    obs: str | Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Make a reference to share: a trained model, its map and its labels, without counts.

    The card, ``README.md``, lists what is written: the network and the transform of counts; for
    each cell the latent (mean and variance), the position on the map, the batch, the labels and the
    columns that ``obs`` names; the colors of batches and labels; for each label its mean expression
    and the statistics of :class:`~scalex_scvi.tl.LabelModel`. Counts, names of cells and everything
    else of ``adata`` are not written.

    Parameters
    ----------
    model
        Trained on counts, with its cells.
    folder
        Folder to write, whole or not at all.
    labels
        Column or columns of ``model.adata.obs`` that new cells are to get labels from. Each label
        needs at least five cells: the mean of fewer would disclose their expression. Cells whose
        label is missing (NaN) are left out of the labels. Of more than 100 000 cells labels are
        learned from a sample (:func:`scalex_scvi.tl.reference_cells`), as the card says then.
    license
        License of the reference, as the `hub <https://huggingface.co/docs/hub/repositories-licenses>`_
        names them: ``"cc-by-4.0"``, ``"mit"``, … There is no default: without a license nobody else
        may use the reference.
    name
        Name of the reference; default: that of the folder. On this machine :func:`load` and
        :func:`scalex_scvi.map_query` find the reference by this name as long as the folder is not
        moved: its path is noted in the cache of references (:func:`available`).
    about
        Texts for the card, by any of these keys: ``"organism"``, ``"tissue"``, ``"description"``,
        ``"source"``, ``"citation"``, ``"contact"``.
    obs
        Further column or columns of ``model.adata.obs`` to write. Values that no file can hold
        become text, with a warning.
    overwrite
        Whether to replace an earlier reference in ``folder``.

    Returns
    -------
    The folder: for :func:`push`, :func:`load` and :func:`scalex_scvi.map_query`. A UMAP is computed
    for a model whose cells have none (``adata.obsm["X_umap"]``), of more than 100 000 cells by a
    sample of them (:func:`scalex_scvi.tl.embed`).

    Raises
    ------
    KeyError
        If there is no such column.
    TypeError
        If ``model`` is none.
    ValueError
        If the folder exists (unless it is a reference, and ``overwrite``), a label has fewer than
        five cells, the model was never trained, has no cells or does not know how its counts were
        prepared, or for a name, column or ``about`` that cannot be used. Nothing is written then.

    Examples
    --------
    >>> import scalex_scvi as sx
    >>> model = sx.integrate(adata, batch_key="batch")
    >>> folder = sx.references.save(model, "pancreas", "celltype", license="cc-by-4.0")
    >>> query_model = sx.map_query(query, "pancreas")
    """
    place = Path(folder).expanduser()
    name = place.name if name is None else name
    wanted, obs = ([one] if isinstance(one, str) else list(one) for one in (labels, obs))
    _check(place, name, license, about, overwrite=overwrite)
    _check_model(model, [*wanted, *obs])
    label_models, n_learned = _fit(model, wanted)
    light = model.without_counts([*wanted, *obs], [UMAP_KEY] * (UMAP_KEY in model.adata.obsm))
    _add_map(light)
    for column in [*([] if light.batch_key is None else [light.batch_key]), *wanted]:
        groups = as_text(light.adata.obs[column])
        light.adata.obs[column] = pd.Series(groups, index=light.adata.obs_names)
        pl.store_colors(light.adata, column, like=[model.adata])
    make_writable(light.adata)
    facts = _facts(light, wanted, obs) | {"name": name, "license": license}
    facts["training"]["label_cells"] = n_learned
    facts["about"] = {key: str(value) for key, value in (about or {}).items()}
    place.parent.mkdir(parents=True, exist_ok=True)
    with unfinished(place.parent) as hidden:
        new = hidden / "new" / place.name
        light.save(new, save_anndata=True, compression="gzip")
        _write_labels(new / LABELS_FILE, label_models)
        (new / CARD_FILE).write_text(card(facts), encoding="utf-8")
        write_about(new, facts)
        arrive(hidden)
    logger.info("The reference %r is in %s.", name, place)
    note_saved(place)
    return place


def _check(
    place: Path, name: str, license: str, about: Mapping[str, str] | None, *, overwrite: bool
) -> None:
    check_name(name)
    if not isinstance(license, str) or not license.strip():
        msg = f"`license` {license!r} must name a license: 'cc-by-4.0', 'cc0-1.0', 'mit', …"
        raise ValueError(msg)
    unknown = [key for key in about or {} if key not in ABOUT]
    if unknown:
        msg = f"`about` holds {unknown!r}; allowed are {list(ABOUT)!r}."
        raise ValueError(msg)
    check_no_run_has(place)
    if not os.path.lexists(place):
        return
    foreign = not place.is_dir() or {path.name for path in place.iterdir()} - set(FILES)
    if not overwrite or foreign or not (place / ABOUT_FILE).is_file():
        msg = (
            f"{str(place)!r} exists. Choose another folder; `overwrite=True` replaces a folder "
            "that holds a reference and nothing else."
        )
        raise ValueError(msg)


def _check_model(model: SCALEXModel, columns: Sequence[str]) -> None:
    if not isinstance(model, SCALEXModel):
        msg = f"`model` is a {type(model).__name__!r}; allowed is a trained SCALEXModel."
        if isinstance(model, AnnData):
            msg += " Of cells make one first: `model = scalex_scvi.integrate(adata, ...)`."
        raise TypeError(msg)
    if model.adata is None or model.minified_data_type is not None:
        msg = (
            "A reference is made of a model with its cells and their counts, which are not "
            "written: `SCALEXModel.load(folder, adata)`."
        )
        raise ValueError(msg)
    if not model.is_trained:
        msg = "The model was never trained: no cell can be placed by it. `train()` it first."
        raise ValueError(msg)
    record = model.preprocessing
    if record is None or record.log_normalized:
        msg = (
            "The model was not set up with counts, so that counts of new cells cannot be taken "
            "through the same transform. Set it up with counts."
        )
        raise ValueError(msg)
    _check_map(model)
    for column in columns:
        if column not in model.adata.obs:
            own = own_keys(model.adata.obs)
            msg = f"{column!r} is not a column of adata.obs: {own!r}."
            raise KeyError(msg)
    for column in [*columns, *([] if model.batch_key is None else [model.batch_key])]:
        if not isinstance(column, str) or "/" in column or column in ("", "_index"):
            msg = (
                f"{column!r} cannot be the name of a column in a file: names are text without '/'. "
                "Rename it (`adata.obs.rename(columns=…)`), of the batches before the set-up."
            )
            raise ValueError(msg)


def _check_map(model: SCALEXModel) -> None:
    if UMAP_KEY not in model.adata.obsm:
        return
    places = np.asarray(model.adata.obsm[UMAP_KEY])
    if places.shape[1:] != (2,) or not np.isfinite(places).all():
        msg = (
            f"adata.obsm[{UMAP_KEY!r}], of {places.shape[1]} dimensions, is no map of a reference: "
            "that has two, and a place for each cell. Without it one is made of the latent: "
            f"`adata.obsm[{UMAP_KEY + '_own'!r}] = adata.obsm.pop({UMAP_KEY!r})`."
        )
        raise ValueError(msg)


def _fit(model: SCALEXModel, labels: Sequence[str]) -> tuple[list[LabelModel], int]:
    """Statistics of each column of labels, and the number of cells that they are learned from."""
    if not labels:
        return [], 0
    cells = reference_cells(model, labels)
    fitted = [
        LabelModel.fit(cells, LATENT_KEY, label, batch_key=model.batch_key) for label in labels
    ]
    return fitted, cells.n_obs


def _add_map(light: SCALEXModel) -> None:
    """Make a map of the latent, if there is none."""
    adata = light.adata
    if UMAP_KEY in adata.obsm:
        return
    logger.info("There is no adata.obsm[%r]: it is made of the latent.", UMAP_KEY)
    bare = AnnData(obs=adata.obs[[]], obsm={LATENT_KEY: light.get_latent_representation()})
    if embed(bare, use_rep=LATENT_KEY):
        adata.obsm[UMAP_KEY] = np.asarray(bare.obsm[UMAP_KEY])


def _write_labels(path: Path, models: Sequence[LabelModel]) -> None:
    arrays: dict[str, Any] = {
        f"{i}/{name}": values
        for i, model in enumerate(models)
        for name, values in model.to_arrays().items()
    }
    np.savez_compressed(path, **arrays)


def _facts(light: SCALEXModel, labels: Sequence[str], obs: Sequence[str]) -> dict[str, Any]:
    """Count what ``reference.json`` and the card say of cells, genes and training."""
    adata, record = light.adata, light.preprocessing
    assert record is not None
    key = light.batch_key
    history = light.history or {}
    epochs = max((len(values) for values in history.values()), default=0)
    return {
        "n_cells": adata.n_obs,
        "n_genes": adata.n_vars,
        "genes": [str(gene) for gene in adata.var_names[:5]],
        "batch_key": key,
        "batches": {"0": adata.n_obs} if key is None else _counted(adata.obs[key]),
        "labels": {label: _counted(adata.obs[label]) for label in labels},
        "obs": [str(column) for column in obs],
        "n_latent": int(light.module.n_latent),
        "training": {
            "epochs": epochs,
            "profile": record.profile,
            "target_sum": record.target_sum,
            "normalized_over": len(record.panel) or len(record.genes),
        },
        "versions": {package: version(package) for package in _PACKAGES}
        | {"python": platform.python_version()},
    }


def _counted(column: Any) -> dict[str, int]:
    """Cells of each group, by name; missing ones are not counted."""
    groups = as_text(column)
    counts = np.bincount(groups.codes[groups.codes >= 0], minlength=len(groups.categories))
    return {name: int(n) for name, n in zip(groups.categories, counts, strict=True)}
