"""Reading one or several data sets."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import anndata as ad
import pandas as pd
from anndata import AnnData

logger = logging.getLogger(__name__)

DataSource: TypeAlias = str | os.PathLike[str] | AnnData


def read(
    sources: DataSource | Sequence[DataSource],
    *,
    batch_key: str = "batch",
    batch_categories: Sequence[str] | None = None,
) -> AnnData:
    """Read one data set, or put several together, each a batch of its own.

    Parameters
    ----------
    sources
        Path of an ``.h5ad`` file, an AnnData, or several of these.
    batch_key
        Column of ``obs`` for the batches when there are several sources; an existing column is
        replaced in the result.
    batch_categories
        Names of the batches, one for each source; by default 0 to N-1.

    Returns
    -------
    One source as it is; several with the genes that all of them have.

    Raises
    ------
    FileNotFoundError, ValueError
        For a file that is absent, cannot be read or is empty; for repeated batch names.
    """
    if isinstance(sources, str | os.PathLike | AnnData):
        sources = [sources]
    if not sources:
        msg = "No data: `sources` is empty."
        raise ValueError(msg)
    adatas = [_read_one(source) for source in sources]
    if len(adatas) == 1 and batch_categories is None:
        return adatas[0]
    keys = [str(i) for i in range(len(adatas))]
    names = keys if batch_categories is None else [str(name) for name in batch_categories]
    if len(names) != len(adatas) or len(set(names)) != len(names):
        msg = f"`batch_categories` {names!r} must be {len(adatas)} different names, one a source."
        raise ValueError(msg)
    return _concatenate(adatas, names, batch_key)


def _read_one(source: DataSource) -> AnnData:
    if isinstance(source, AnnData):
        return source
    path = Path(source)
    if not path.is_file():
        msg = f"There is no file {str(path)!r}."
        raise FileNotFoundError(msg)
    if path.suffix != ".h5ad":
        msg = f"{str(path)!r} is not an .h5ad file, the format that is read here."
        raise ValueError(msg)
    try:
        adata = ad.read_h5ad(path)
    except Exception as error:  # h5py and anndata raise many kinds for a damaged file
        msg = f"{str(path)!r} cannot be read as .h5ad: {error}"
        raise ValueError(msg) from error
    if adata.n_obs == 0 or adata.n_vars == 0:
        msg = f"{str(path)!r} is empty: {adata.n_obs} cells × {adata.n_vars} genes."
        raise ValueError(msg)
    return adata


def _concatenate(adatas: list[AnnData], names: list[str], batch_key: str) -> AnnData:
    together = ad.concat(adatas, join="inner", label=batch_key, keys=names, merge="same")
    if together.n_vars == 0:
        msg = f"The data sets {names!r} have no gene in common."
        raise ValueError(msg)
    if not together.obs_names.is_unique:
        logger.warning("Cell names repeat between batches: the batch name is added to each.")
        together.obs_names = together.obs_names + "-" + together.obs[batch_key].astype(str)
    # Columns of obs that only some of the data sets have are kept, unlike genes.
    obs = pd.concat([adata.obs for adata in adatas])
    for column in obs.columns.difference(together.obs.columns):
        together.obs[column] = obs[column].to_numpy()
    return together
