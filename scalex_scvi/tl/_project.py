"""Projection of cells on disk into the space of a trained model, in bounded memory."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData

from scalex_scvi._core.columns import batch_codes, check_batch_column
from scalex_scvi._core.files import whole_file
from scalex_scvi.io import read_lazy
from scalex_scvi.pp import Preprocessing
from scalex_scvi.pp._checks import check_unit_interval

if TYPE_CHECKING:
    from scalex_scvi.model import SCALEXModel
    from scalex_scvi.model._inference import BatchStats

logger = logging.getLogger(__name__)


def project_store(
    model: SCALEXModel | str | os.PathLike[str],
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    layer: str | None = None,
    log_normalized: bool | None = None,
    processed: bool | None = None,
    batch_stats: BatchStats = "running",
    cells_in_block: int = 4096,
) -> None:
    """Place cells on disk into the space of a trained model, block by block, without training.

    The latent is that of :meth:`scalex_scvi.SCALEXModel.load_query_data` (to rounding), which
    needs all cells in memory; here memory holds some blocks of cells and what is one number or one
    latent for each cell. Counts are read three times: to check them, to find the maxima of each
    batch, and to encode; ``batch_stats="batch"`` reads them once more.

    Blocks are worked on by dask: by the workers of the active ``dask.distributed.Client`` if there
    is one, which must see ``path`` too, else by threads of this process. See ``docs/dask.md``.

    Parameters
    ----------
    model
        Trained model, or the folder of a saved one.
    path
        ``.h5ad`` or ``.zarr`` with raw counts, stored by cells (CSR or dense), and the model's
        ``batch_key`` in ``obs``. Genes may be missing, additional or in another order.
    out
        ``.h5ad`` or ``.zarr`` to write, whole or not at all: ``obs`` of the cells, in their order,
        and ``obsm["latent"]`` (cells × latent dimensions, float32). An earlier one is replaced.
    layer
        Layer with the counts, instead of ``X``.
    log_normalized
        Whether the values are log-normalised already. ``None`` decides, and raises when it looks
        like it.
    processed
        Whether the values are scaled to [0, 1] already, genes as in the model. ``None``: they are
        if the store carries the record of :func:`scalex_scvi.pp.rna`.
    batch_stats
        See :meth:`scalex_scvi.SCALEXModel.get_latent_representation`.
    cells_in_block
        Cells worked on at once by each thread or worker. The result depends on it by rounding
        only (1e-6).

    Raises
    ------
    FileNotFoundError, KeyError, ValueError
        See :func:`scalex_scvi.io.read_lazy` and :func:`scalex_scvi.pp.prepare_query`; also if
        ``out`` is ``path``, has another suffix, or is a folder that is no zarr store.
    RuntimeError
        If the model is not trained.
    ImportError
        Without dask (extra ``scale``).
    """
    from scalex_scvi.model._encode import check_batch_stats, encode
    from scalex_scvi.model._scalex import _as_model

    check_batch_stats(batch_stats)
    model = _as_model(model)
    model._check_if_trained(warn=False)
    cells = read_lazy(path, layer=layer, cells_in_block=cells_in_block)
    out = _check_out(out, path, cells)
    query = _prepare(model, cells, log_normalized, processed)
    codes, names = batch_codes(query, _batch_key(model))
    mean, _ = encode(
        model.module.encoder, query.X, codes, batch_names=names, batch_stats=batch_stats
    )
    _write(out, AnnData(obs=query.obs, obsm={"latent": mean}))
    logger.info("The latent of %d cells is in %s.", query.n_obs, out)


def _check_out(out: str | os.PathLike[str], path: str | os.PathLike[str], cells: AnnData) -> Path:
    from scalex_scvi.model._imputation_store import check_store_path

    out = check_store_path(out, cells)
    if out.resolve() == Path(path).resolve():
        msg = f"`out` {str(out)!r} is the file of the cells. Choose another one."
        raise ValueError(msg)
    return out


def _batch_key(model: SCALEXModel) -> str | None:
    from scvi.data._constants import _SETUP_ARGS_KEY

    return model.registry_[_SETUP_ARGS_KEY]["batch_key"]


def _prepare(
    model: SCALEXModel, cells: AnnData, log_normalized: bool | None, processed: bool | None
) -> AnnData:
    """Return cells × the model's genes in [0, 1], unevaluated."""
    genes = list(model.get_var_names())
    if processed is None:
        processed = model.preprocessing is None or Preprocessing.from_adata(cells) is not None
    if not processed:
        return model._prepare(cells, layer=None, log_normalized=log_normalized, processed=False)
    check_batch_column(cells, _batch_key(model))
    if not np.array_equal(np.asarray(cells.var_names, dtype=str), np.asarray(genes, dtype=str)):
        msg = (
            f"The {cells.n_vars} genes of processed cells are not the model's {len(genes)} in the "
            "same order. Give raw counts, or `pp.reindex` the cells before writing them."
        )
        raise ValueError(msg)
    check_unit_interval(cells.X, name="X")
    return cells


def _write(out: Path, latent: AnnData) -> None:
    with whole_file(out) as temporary:
        if out.suffix == ".h5ad":
            latent.write_h5ad(temporary)
        else:
            latent.write_zarr(temporary)
        if out.is_dir():  # a folder cannot be replaced by a folder
            os.replace(out, temporary.with_name("previous"))
