"""New cells on a trained model: placed without training."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import anndata as ad
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from scalex_scvi._core.files import check_store_path, write_adata
from scalex_scvi._core.inputs import check_adata
from scalex_scvi._core.keys import MEASURED_KEY
from scalex_scvi._core.measured import measured_genes
from scalex_scvi._core.modalities import Cells, check_cells
from scalex_scvi._core.ranges import check_whole
from scalex_scvi._core.scvi_private import UUID_KEY
from scalex_scvi.io import Stored, read_lazy, with_raw
from scalex_scvi.pp import MIN_GENE_SHARE, check_share_found

from ._inference import BatchStats, check_batch_stats
from ._saving import torch_device

if TYPE_CHECKING:
    from scvi.model.base import BaseModelClass as _Base
else:
    _Base = object

logger = logging.getLogger(__name__)

_FREEZE = {
    "freeze_dropout": False,
    "freeze_expression": True,
    "freeze_decoder_first_layer": True,
    "freeze_batchnorm_encoder": True,
    "freeze_batchnorm_decoder": False,
    "freeze_classifier": True,
    "transfer_batch": True,
}
"""scArches' switches with their defaults, all of which hold here."""


class QueryMixin(_Base):
    """Adds :meth:`load_query_data`, :meth:`prepare_query_anndata` and :meth:`project_store`."""

    @classmethod
    def load_query_data(
        cls,
        adata: Cells,
        reference_model: str | os.PathLike[str] | Self,
        inplace_subset_query_vars: bool = False,
        accelerator: str = "auto",
        device: int | str = "auto",
        unfrozen: bool = False,
        layer: str | None = None,
        **more: Any,
    ) -> Self:
        """Place new cells into the space of a trained model, without training.

        ``get_latent_representation()`` of the returned model works at once, since the encoder does
        not use the batch. :meth:`train` on it does not change the latent: it fits the decoder of
        the new batches, which decodes expression (:meth:`get_imputed_expression`). Until then
        expression is decoded by the batches of the reference.

        Parameters
        ----------
        adata
            Raw counts of the new cells, with the reference's ``batch_key`` in ``obs``. Genes may
            be missing, additional or in another order. It becomes the ``adata`` of the model, and
            is not changed but for scvi-tools' registration (columns and keys that begin with
            ``_scvi``). Or a MuData with the reference's modality, see :meth:`setup_mudata`.
        reference_model
            Trained model, the folder of a saved one, or what
            :func:`scalex_scvi.references.load` returns.
        inplace_subset_query_vars
            Whether to leave out genes of ``adata`` that the reference does not have, in place, as
            in scvi-tools. There is no need to.
        accelerator, device
            Where to put the model.
        unfrozen
            Whether :meth:`train` may change all parameters, and so the latent, as in scArches.
        layer
            Layer with the counts, ``"X"``, or ``"raw"`` for ``adata.raw`` (the model's ``adata``
            is then a new object); default: that of the reference.
        **more
            ``log_normalized``: whether the values are log-normalized already (``None`` decides,
            and raises when it looks like it); see :func:`scalex_scvi.pp.prepare_query`.
            ``processed``: whether they are scaled to [0, 1] already (``None``: they are if
            ``adata`` carries the record of :func:`scalex_scvi.pp.rna` or
            :func:`scalex_scvi.pp.prepare_query`, or if the reference has none). Further arguments
            of scvi-tools' method (``freeze_expression`` …) have one possible value here each;
            another has no effect, with a warning.
            ``missing_genes``: what genes that ``adata`` lacks are for the encoder. ``"expected"``
            (default): what the reference's cells tell of them by the genes that the cell has
            (probabilistic PCA); ``"zero"``: zeros, as the published method takes. The totals of
            cells are those of the genes that they have, in both cases.
            ``min_gene_share``: see :func:`scalex_scvi.pp.prepare_query` (0.3). ``modalities``: of a
            MuData, see :meth:`setup_mudata`; default: those of the reference.

        Returns
        -------
        A model of the new cells, with the weights of the reference.

        Raises
        ------
        KeyError, ValueError
            See :func:`scalex_scvi.pp.prepare_query` and :meth:`setup_mudata`; also if the saved
            reference is damaged.
        TypeError
            For cells or a reference of another type, and for an argument that neither this method
            nor scvi-tools' has.
        FileNotFoundError
            If there is no model in the folder.
        RuntimeError
            If the reference is not trained.
        """
        check_cells(adata)
        declared = {name: more.pop(name, None) for name in ("log_normalized", "processed")}
        missing_genes = _check_missing_genes(more.pop("missing_genes", "expected"))
        declared["min_gene_share"] = more.pop("min_gene_share", MIN_GENE_SHARE)
        if "modalities" in more:
            declared["modalities"] = more.pop("modalities")
        _check_switches(more)
        reference = cls.as_model(reference_model)
        reference._check_if_trained(warn=False)
        if inplace_subset_query_vars:
            check_adata(adata)
            known = adata.var_names.isin(reference.get_var_names())
            adata._inplace_subset_var(known)
        if layer is not None:
            if layer == "raw":
                check_adata(adata)
                adata, layer = with_raw(adata, layer)
            declared["layer"] = None if layer == "X" else layer
        cls._set_up_alike(adata, reference.registry_, extend_categories=True, **declared)
        model = cls(adata, **reference.init_params_["non_kwargs"])
        state = {name: value.cpu() for name, value in reference.module.state_dict().items()}
        model.module.load_state_dict(_padded(state, model.module.state_dict()))
        model.to_device(torch_device(accelerator, device))
        model.module.eval()
        model.n_reference_batches_ = 0 if unfrozen else len(reference.batch_names)
        new = model.batch_names[len(reference.batch_names) :]
        model.untrained_batches_ = [*reference.untrained_batches_, *new]
        _point_to_like_names(new, reference.batch_names)
        if missing_genes == "expected":
            if not model.adata_manager.measured.all():
                reference._learn_factors()
            model.gene_factors_ = reference.gene_factors_
        model.freeze_reference()
        model.history_ = None
        model.is_trained_ = True
        return model

    @classmethod
    def as_model(cls, reference: str | os.PathLike[str] | Self) -> Self:
        """Return a model as it is, that of a reference, or that of a folder, without its cells.

        Parameters
        ----------
        reference
            A model, the folder of a saved one, or what :func:`scalex_scvi.references.load` returns.

        Raises
        ------
        TypeError
            For anything else.
        FileNotFoundError, ValueError
            As :meth:`load`.
        """
        if isinstance(reference, str | os.PathLike):
            return cls.load(reference, adata=False)
        # A Reference has its model as an attribute; `references` is not imported from here.
        model = getattr(reference, "model", reference)
        if not isinstance(model, cls):
            msg = (
                f"The reference is a {type(reference).__name__!r}; allowed are a "
                f"{cls.__name__}, the folder of a saved one, and what "
                "`scalex_scvi.references.load` returns."
            )
            raise TypeError(msg)
        return model

    def freeze_reference(self) -> None:
        """Freeze what belongs to the reference, if this is the model of a query."""
        if self.n_reference_batches_:
            self.module.freeze_for_query(self.n_reference_batches_)

    @classmethod
    def prepare_query_anndata(
        cls,
        adata: AnnData,
        reference_model: str | os.PathLike[str] | Self,
        return_reference_var_names: bool = False,
        inplace: bool = True,
        min_gene_share: float = MIN_GENE_SHARE,
    ) -> AnnData | pd.Index | None:
        """Bring the genes of new cells into the reference's order, with zeros for missing ones.

        As scvi-tools' method of this name; ``var["scalex_measured"]`` is False for missing genes,
        so that they are not taken for genes without counts. There is no need to:
        :meth:`load_query_data` finds the genes by their names, and a reference that was normalized
        over more genes than it has (:func:`scalex_scvi.pp.rna`) needs them all.

        Parameters
        ----------
        adata
            Counts of new cells, in ``X`` and layers.
        reference_model
            As for :meth:`load_query_data`.
        return_reference_var_names
            Only return the reference's genes.
        inplace
            Whether to change ``adata`` (scvi-tools' default), or return a new AnnData.
        min_gene_share
            Share of the reference's genes that ``adata`` must have.

        Returns
        -------
        ``None``; the new AnnData with ``inplace=False``, and the genes with
        ``return_reference_var_names``.

        Raises
        ------
        ValueError
            If the query has none of the genes, or too few.
        FileNotFoundError, TypeError
            See :meth:`as_model`; TypeError also if ``adata`` is no AnnData.
        """
        check_adata(adata)
        names = pd.Index(cls.as_model(reference_model).get_var_names())
        if return_reference_var_names:
            return names
        missing = names.difference(adata.var_names, sort=False)
        check_share_found(adata.var, adata.var_names, names, min_gene_share)
        query = adata
        if len(missing):
            logger.warning(
                "%d of %d genes are missing: set to zero, and False in var[%r].",
                len(missing),
                len(names),
                MEASURED_KEY,
            )
            empty = sparse.csr_matrix((adata.n_obs, len(missing)), dtype=np.float32)
            layers = {key: empty.copy() for key in adata.layers if key}
            cells = _with_unique_cells(adata)
            padding = AnnData(empty, obs=cells.obs[[]], var=pd.DataFrame(index=missing))
            padding.layers.update(layers)
            query = ad.concat([cells, padding], axis=1, join="outer", merge="first")
            known = measured_genes(adata.var)
            unmeasured = missing if known is None else missing.union(adata.var_names[~known])
            query.var[MEASURED_KEY] = ~query.var_names.isin(unmeasured)
            query.obs, query.uns = adata.obs.copy(), dict(adata.uns)
        query = query[:, names].copy()
        if adata.raw is not None:
            query.raw = adata.raw.to_adata()
        if not inplace:
            return query
        adata._init_as_actual(query)
        return None

    def project_store(
        self,
        path: Stored,
        out: str | os.PathLike[str],
        *,
        layer: str | None = None,
        log_normalized: bool | None = None,
        processed: bool | None = None,
        batch_stats: BatchStats = "running",
        cells_in_block: int = 4096,
        min_gene_share: float = MIN_GENE_SHARE,
    ) -> None:
        """Place cells on disk into the latent space, block by block, without training.

        The latent is that of :meth:`load_query_data` (to rounding); memory holds some blocks of
        cells and what is one number or one latent for each cell. Counts are read twice: to check
        them (and find the maxima of new batches, where these have their own scale), and to encode;
        ``batch_stats="batch"`` reads them once more.

        Blocks are worked on by dask: by the workers of the active ``dask.distributed.Client`` if
        there is one, which must see ``path`` too, else by threads of this process. See
        ``docs/dask.md``.

        Parameters
        ----------
        path
            ``.h5ad`` or ``.zarr`` with raw counts, stored by cells (CSR or dense), and the model's
            ``batch_key`` in ``obs``; of a zarr store also its address or an open group, see
            :func:`scalex_scvi.io.read_lazy`. Genes may be missing, additional or in another order.
        out
            ``.h5ad`` or ``.zarr`` to write, whole or not at all: ``obs`` of the cells, in their
            order, and ``obsm["latent"]`` (cells × latent dimensions, float32). An earlier one is
            replaced.
        layer
            Layer with the counts, instead of ``X``.
        log_normalized, processed, min_gene_share
            See :meth:`load_query_data`.
        batch_stats
            See :meth:`get_latent_representation`.
        cells_in_block
            Cells read at once by each thread or worker.

        Raises
        ------
        FileNotFoundError, KeyError, TypeError, ValueError
            See :func:`scalex_scvi.io.read_lazy` and :func:`scalex_scvi.pp.prepare_query`; also if
            ``out`` is ``path``, has another suffix, or is a folder that is no zarr store.
        RuntimeError
            If the model is not trained.
        ImportError
            Without dask (extra ``scale``).
        """
        check_batch_stats(batch_stats)
        check_whole(cells_in_block, 1, name="cells_in_block")
        self._check_if_trained(warn=False)
        cells = read_lazy(path, layer=layer, cells_in_block=cells_in_block)
        out = check_store_path(out, cells)
        own = Path(path).expanduser().resolve() if isinstance(path, str | os.PathLike) else None
        if out.resolve() == own:
            msg = f"`out` {str(out)!r} is the file of the cells. Choose another one."
            raise ValueError(msg)
        obs = cells.obs.copy()
        cells.uns.pop(UUID_KEY, None)  # of the object that was written: this one is new
        self.manager_of(
            cells,
            layer=None,
            log_normalized=log_normalized,
            processed=processed,
            min_gene_share=min_gene_share,
        )
        try:
            latent = self.get_latent_representation(cells, batch_stats=batch_stats)
        finally:
            self.deregister_manager(cells)  # else scvi-tools keeps them for good
        write_adata(AnnData(obs=obs, obsm={"latent": latent}), out)
        logger.info("The latent of %d cells is in %s.", len(obs), out)


def _with_unique_cells(adata: AnnData) -> AnnData:
    """Return cells with numbers as names where names repeat, by which nothing can be aligned."""
    if adata.obs_names.is_unique:
        return adata
    numbered = adata.copy()
    numbered.obs_names = pd.RangeIndex(adata.n_obs).astype(str)
    return numbered


def _check_missing_genes(given: str) -> str:
    if given not in ("expected", "zero"):
        msg = f"`missing_genes` must be 'expected' or 'zero', got {given!r}."
        raise ValueError(msg)
    return given


def _check_switches(more: dict[str, Any]) -> None:
    unknown = [name for name in more if name not in _FREEZE]
    if unknown:
        msg = f"`load_query_data` takes no {unknown!r}. Switches are {list(_FREEZE)!r}."
        raise TypeError(msg)
    without_effect = [name for name, value in more.items() if value != _FREEZE[name]]
    if without_effect:
        logger.warning(
            "%s has no effect: training fits the decoder's batch normalization of new batches and "
            "nothing else. `unfrozen=True` trains everything.",
            ", ".join(f"`{name}={more[name]!r}`" for name in without_effect),
        )


def _point_to_like_names(new: Sequence[str], known: Sequence[str]) -> None:
    """Say which new batches are called as known ones but for case, blanks and hyphens."""
    by_letters = {_letters(name): name for name in known}
    like = {name: by_letters[_letters(name)] for name in new if _letters(name) in by_letters}
    if like:
        logger.warning(
            "Batches of the query are new, and are called nearly as batches of the reference: %s. "
            "If they are the same, give them the same names.",
            ", ".join(f"{name!r} ({known_name!r})" for name, known_name in like.items()),
        )


def _letters(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.casefold()).strip()


def _padded(
    state: dict[str, torch.Tensor], fresh: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the reference's tensors with fresh rows for new batches added."""
    padded = {}
    for name, value in state.items():
        rows = len(value) if value.ndim else 0
        more = fresh[name].ndim and len(fresh[name]) > rows
        padded[name] = torch.cat([value, fresh[name][rows:].cpu()]) if more else value
    return padded
