"""One modality of a MuData, as the AnnData that everything else works on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import pandas as pd
from anndata import AnnData
from mudata import MuData

from .inputs import check_adata
from .keys import own_keys

Cells: TypeAlias = "AnnData | MuData"
"""What a model can be set up with."""

LAYER = "layer"
"""The argument whose modality holds the matrix."""

_COLUMNS = ("batch_key", "labels_key")
"""Arguments that name columns, of a modality's ``obs`` or of that of the whole."""


def check_cells(value: Any) -> None:
    """Raise unless ``value`` is a MuData, or an AnnData whose ``obs`` is in memory."""
    if not isinstance(value, MuData):
        check_adata(value)


def owner_of(cells: Cells, arguments: Mapping[str, Any]) -> AnnData:
    """Return the AnnData that the matrix lies in: of a MuData, one modality.

    Parameters
    ----------
    cells
        What was set up, or is to be.
    arguments
        Arguments of the set-up, of which ``modalities`` matters.

    Raises
    ------
    KeyError, TypeError, ValueError
        If ``modalities`` does not name a modality of a MuData for each argument it should.
    """
    if isinstance(cells, AnnData):
        return cells
    return cells.mod[_modalities_of(cells, arguments)[LAYER]]


def one_modality(cells: Cells, arguments: Mapping[str, Any]) -> AnnData:
    """Return an AnnData to register: of a MuData, a new one around the matrix of a modality.

    Parameters
    ----------
    cells
        An AnnData, which is returned as it is, or a MuData, of which nothing is copied or changed.
    arguments
        Arguments of the set-up: ``layer``, ``batch_key``, ``labels_key`` and ``modalities``.

    Returns
    -------
    Cells × features of the modality, in the order of ``cells.obs``, with the columns of ``obs``
    that the arguments name.

    Raises
    ------
    KeyError, TypeError, ValueError
        See :func:`owner_of`; also if there is no such column, or if the cells of the modality are
        not those of the MuData, in its order.
    """
    if isinstance(cells, AnnData):
        return cells
    modalities = _modalities_of(cells, arguments)
    name, layer = modalities[LAYER], arguments.get(LAYER)
    _check_same_cells(cells, name)
    owner = cells.mod[name]
    layers = {key: owner.layers[key] for key in owner.layers if key is not None and key == layer}
    return AnnData(
        owner.X if layer is None else None,
        obs=_columns(cells, modalities, arguments),
        var=owner.var,
        uns={key: owner.uns[key] for key in own_keys(owner.uns)},
        layers=layers,
    )


def annotated(cells: Cells, arguments: Mapping[str, Any]) -> AnnData:
    """Return what has ``obs``, ``obsm`` and ``uns`` of the cells: of a MuData, a new AnnData.

    ``obs`` is that of the whole, with the columns that the set-up took from a modality.
    """
    if isinstance(cells, AnnData):
        return cells
    columns = _columns(cells, _modalities_of(cells, arguments), arguments)
    # A MuData keeps a mask for each modality in its obsm.
    obsm = {key: value for key, value in cells.obsm.items() if key not in cells.mod}
    return AnnData(obs=cells.obs.assign(**columns), obsm=obsm, uns=dict(cells.uns))


def _modalities_of(mdata: MuData, arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return the modality of each argument that has one, checked."""
    given, there = arguments.get("modalities"), list(mdata.mod)
    if given is None:
        msg = (
            "`adata` is a 'MuData', of which a model reads one modality, and it is not said which. "
            f"Give the modality, `mdata['rna']` for example, or `modalities={{{LAYER!r}: …}}`, one "
            f"of {there!r}."
        )
        raise TypeError(msg)
    allowed = (LAYER, *_COLUMNS)
    if isinstance(given, Mapping):  # None is the MuData itself, as in scvi-tools
        given = {argument: name for argument, name in given.items() if name is not None}
    if not isinstance(given, Mapping) or LAYER not in given or not set(given) <= set(allowed):
        msg = (
            f"`modalities` is {given!r}. It is a dictionary from arguments to modalities: "
            f"{LAYER!r} (needed) to that with the matrix, one of {there!r}, and "
            f"{_COLUMNS[0]!r} and {_COLUMNS[1]!r} to those whose `obs` has the column, if it is "
            "not that of the MuData."
        )
        raise ValueError(msg)
    unknown = [name for name in given.values() if name not in there]
    if unknown:
        msg = f"`modalities` {given!r}: {unknown[0]!r} is not a modality of the MuData: {there!r}."
        raise KeyError(msg)
    return dict(given)


def _columns(
    mdata: MuData, modalities: Mapping[str, str], arguments: Mapping[str, Any]
) -> pd.DataFrame:
    """Return the columns that the arguments name, from the ``obs`` in which they are."""
    found: dict[str, pd.Series] = {}
    for argument in _COLUMNS:
        key, name = arguments.get(argument), modalities.get(argument)
        if not isinstance(key, str):  # none, or what whoever checks the argument refuses
            continue
        if name is not None:
            _check_same_cells(mdata, name)
        obs = mdata.obs if name is None else mdata.mod[name].obs
        if key not in obs:
            raise KeyError(_no_column(mdata, argument, key, name))
        if key in found and not found[key].equals(obs[key]):
            msg = (
                f"`batch_key` and `labels_key` are both {key!r}, and by `modalities` two different "
                "columns. Rename one of them."
            )
            raise ValueError(msg)
        found[key] = obs[key]
    return pd.DataFrame(found, index=mdata.obs_names)


def _no_column(mdata: MuData, argument: str, key: str, name: str | None) -> str:
    where = "mdata.obs" if name is None else f"mdata.mod[{name!r}].obs"
    obs = mdata.obs if name is None else mdata.mod[name].obs
    msg = f"`{argument}` {key!r} is not a column of {where}: {own_keys(obs)!r}."
    others = [other for other in mdata.mod if key in mdata.mod[other].obs]
    if others:
        return f"{msg} The modalities {others!r} have it: `modalities={{{argument!r}: …}}`."
    return f"{msg} The MuData itself has it." if key in mdata.obs else msg


def _check_same_cells(mdata: MuData, name: str) -> None:
    """Raise unless a modality has the cells of the whole, in its order."""
    names, own = mdata.obs_names, mdata.mod[name].obs_names
    if own.equals(names):
        return
    n_missing = int((~names.isin(own)).sum())
    if n_missing:
        msg = (
            f"The modality {name!r} lacks {n_missing} of the {len(names)} cells of the MuData, "
            "which then cannot be placed. Keep the cells that all modalities have, "
            "`muon.pp.intersect_obs(mdata)`, or those of this one: "
            f"`mdata = mdata[mdata.obs_names.isin(mdata[{name!r}].obs_names)].copy()`."
        )
    elif len(own) != len(names):
        msg = (
            f"The modality {name!r} has {len(own)} cells, the MuData {len(names)}: it was changed "
            "since. Run `mdata.update()`."
        )
    else:
        msg = (
            f"The cells of the modality {name!r} are in another order than those of the MuData. "
            "Put all modalities in one order: `mdata = mdata[mdata.obs_names].copy()`."
        )
    raise ValueError(msg)
