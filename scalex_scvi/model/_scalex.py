"""SCALEX as an scvi-tools model."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS, settings
from scvi.data._constants import _SETUP_ARGS_KEY
from scvi.data._utils import _get_adata_minify_type
from scvi.data.fields import CategoricalObsField
from scvi.model.base import (
    ArchesMixin,
    BaseMinifiedModeModelClass,
    UnsupervisedTrainingMixin,
    VAEMixin,
)
from scvi.utils import setup_anndata_dsp
from torch import Tensor

from scalex_scvi._core.seeds import seeded
from scalex_scvi.module import SCALEXVAE
from scalex_scvi.nn import ActivationName
from scalex_scvi.pp import Preprocessing
from scalex_scvi.train import SCALEXDataManager, SCALEXDataSplitter, SCALEXTrainingPlan

from ._encode import check_batch_stats, draw, encode, encode_loader
from ._fields import BatchField, LabelsField, ScaledExpressionField
from ._imputation import ImputationMixin
from ._inference import BatchStats
from ._published import PublishedMixin
from ._query import prepare_for_model
from ._saving import SavingMixin
from ._training import TrainingMixin

logger = logging.getLogger(__name__)


class SCALEXModel(
    SavingMixin,
    TrainingMixin,
    ImputationMixin,
    PublishedMixin,
    VAEMixin,
    ArchesMixin,
    UnsupervisedTrainingMixin,
    BaseMinifiedModeModelClass,
):
    """Online integration of single-cell data by SCALEX.

    The encoder never sees the batch, the decoder has one batch normalisation per batch. What
    differs between batches is left to the decoder, and a trained model places cells of new
    batches into the same latent space without training.

    Parameters
    ----------
    adata
        AnnData registered by :meth:`setup_anndata`, with expression in [0, 1].
    registry
        Registry of a saved model, to build one without data.
    n_hidden
        Width of the encoder's hidden layer (1024, as published).
    n_latent
        Latent dimensions (10, as published).
    n_layers
        Hidden layers of the encoder (1, as published).
    n_layers_decoder
        Hidden layers of the decoder (0, as published).
    activation
        Activation of hidden layers.
    dropout_rate
        Dropout in the encoder (0, as published).
    seed
        Seed of the initial weights. ``None``: ``scvi.settings.seed``, else 124 as published.

    Examples
    --------
    >>> adata = scalex_scvi.pp.rna(counts, batch_key="batch")
    >>> SCALEXModel.setup_anndata(adata, batch_key="batch")
    >>> model = SCALEXModel(adata)
    >>> model.train()
    >>> adata.obsm["latent"] = model.get_latent_representation()
    >>> query_model = SCALEXModel.load_query_data(query_counts, model)
    >>> query_counts.obsm["latent"] = query_model.get_latent_representation()

    References
    ----------
    Xiong et al., Online single-cell data integration through projecting heterogeneous datasets
    into a common cell-embedding space, Nat Commun 13:6118, 2022.
    """

    _module_cls = SCALEXVAE
    _training_plan_cls = SCALEXTrainingPlan
    _data_splitter_cls = SCALEXDataSplitter
    _LATENT_QZM_KEY = "scalex_latent_qzm"
    _LATENT_QZV_KEY = "scalex_latent_qzv"

    is_trained_: bool

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
        n_hidden: int = 1024,
        n_latent: int = 10,
        n_layers: int = 1,
        n_layers_decoder: int = 0,
        activation: ActivationName = "relu",
        dropout_rate: float = 0.0,
        seed: int | None = None,
    ) -> None:
        super().__init__(adata, registry)
        with seeded(seed):
            self.module = self._module_cls(
                n_input=self.summary_stats.n_vars,
                n_batch=self.summary_stats.n_batch,
                n_hidden=n_hidden,
                n_latent=n_latent,
                n_layers=n_layers,
                n_layers_decoder=n_layers_decoder,
                activation=activation,
                dropout_rate=dropout_rate,
            )
        self.module.minified_data_type = self.minified_data_type
        self._model_summary_string = (
            f"SCALEX model with the following parameters: \nn_hidden: {n_hidden}, "
            f"n_latent: {n_latent}, n_layers: {n_layers}, n_layers_decoder: {n_layers_decoder}, "
            f"activation: {activation}, dropout_rate: {dropout_rate}."
        )
        self.n_reference_batches_ = 0
        self.preprocessing_: dict[str, Any] | None = None
        if adata is not None:
            self.preprocessing = Preprocessing.from_adata(adata)
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    @setup_anndata_dsp.dedent
    def setup_anndata(
        cls,
        adata: AnnData,
        batch_key: str | None = None,
        labels_key: str | None = None,
        layer: str | None = None,
        **kwargs: Any,
    ) -> None:
        """%(summary)s.

        Parameters
        ----------
        %(param_adata)s
        %(param_batch_key)s
        %(param_labels_key)s
        %(param_layer)s

        Raises
        ------
        KeyError, ValueError
            If the expression is not in [0, 1] (see :func:`scalex_scvi.pp.rna`), gene names
            repeat, or a batch is missing or has one cell. Nothing is registered then.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        columns: list[CategoricalObsField] = [
            BatchField(REGISTRY_KEYS.BATCH_KEY, batch_key),
            LabelsField(REGISTRY_KEYS.LABELS_KEY, labels_key),
        ]
        # Registration writes one field after the other: find mistakes before the first.
        for field in columns:
            if not field.is_default:
                field.validate_field(adata)
        fields = [ScaledExpressionField(REGISTRY_KEYS.X_KEY, layer), *columns]
        minify_type = _get_adata_minify_type(adata)
        if minify_type is not None:
            fields += cls._get_fields_for_adata_minification(minify_type)
        manager = SCALEXDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What was done to the reference's counts; ``None`` if they came prepared by other means.

        See :func:`scalex_scvi.pp.prepare_query`.
        """
        if self.preprocessing_ is None:
            return None
        stored = self.preprocessing_
        return Preprocessing.from_dict(stored["record"], self.get_var_names(), stored["scale"])

    @preprocessing.setter
    def preprocessing(self, value: Preprocessing | None) -> None:
        self.preprocessing_ = (
            None if value is None else {"record": value.to_dict(), "scale": value.scale}
        )

    @property
    def batch_names(self) -> list[Any]:
        """Names of the batches, in the order of the decoder."""
        fields = self.registry_["field_registries"]
        return list(fields[REGISTRY_KEYS.BATCH_KEY]["state_registry"]["categorical_mapping"])

    @torch.inference_mode()
    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        give_mean: bool = True,
        mc_samples: int = 5_000,
        batch_size: int | None = None,
        return_dist: bool = False,
        dataloader: Iterator[dict[str, Tensor | None]] | None = None,
        batch_stats: BatchStats = "running",
        **data_loader_kwargs: Any,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Position of each cell in the latent space.

        Parameters
        ----------
        adata
            Cells with the model's genes; default: the model's own.
        indices
            Cells to use; default: all.
        give_mean
            Whether to return the mean of the posterior, else one draw from it.
        mc_samples
            Not used: the posterior is normal.
        batch_size
            Cells encoded at once; default: 512, or a block of a dask array. The result depends on
            it by rounding only (1e-6).
        return_dist
            Whether to return mean and variance.
        dataloader
            Minibatches to use instead of ``adata``, for ``batch_stats="running"``.
        batch_stats
            Statistics of the encoder's batch normalisation. ``"running"`` (default): those of the
            training, so that the latent of a cell depends on that cell alone. ``"batch"``: exact
            mean and variance over all cells of each batch in this call (two passes): mixes
            strongly different technologies more, costs accuracy where batches differ in
            composition, and is wrong for a query of one cell type. Batches of fewer than 32 cells
            fall back to running statistics, with a warning.
        **data_loader_kwargs
            Passed to scvi-tools' data loader, which is used if there are any. It is slower:
            without it, rows are read block by block as they lie in memory, on disk or in a dask
            array, and multiplied as sparse ones where few values are not zero.

        Returns
        -------
        ``(n_cells, n_latent)``, or mean and variance of that shape.
        """
        check_batch_stats(batch_stats)
        encoded = dataloader is not None or self.minified_data_type is not None
        if batch_stats == "batch" and encoded:
            msg = "`batch_stats='batch'` reads the expression twice: it needs `adata`, unminified."
            raise ValueError(msg)
        if encoded:
            return super().get_latent_representation(
                adata=adata,
                indices=indices,
                give_mean=give_mean,
                mc_samples=mc_samples,
                batch_size=batch_size,
                return_dist=return_dist,
                dataloader=dataloader,
                **data_loader_kwargs,
            )
        self._check_if_trained(warn=False)
        adata = self._validate_anndata(adata)
        how: dict[str, Any] = {
            "batch_stats": batch_stats,
            "batch_names": [str(name) for name in self.batch_names],
        }
        if data_loader_kwargs:
            loading = {"adata": adata, "indices": indices, "batch_size": batch_size}
            make_loader = partial(self._make_data_loader, **loading, **data_loader_kwargs)
            mean, var = encode_loader(self.module.encoder, make_loader, **how)
        else:
            x, codes = (
                self.get_from_registry(adata, key)
                for key in (REGISTRY_KEYS.X_KEY, REGISTRY_KEYS.BATCH_KEY)
            )
            how |= {"indices": indices, "block_size": batch_size}
            mean, var = encode(self.module.encoder, x, codes.reshape(-1), **how)
        if return_dist:
            return mean, var
        if give_mean:
            return mean
        return draw(mean, var, batch_size or settings.batch_size, self.device)

    def get_elbo(self, *args: Any, **kwargs: Any) -> float | Tensor:
        """See :meth:`scvi.model.base.VAEMixin.get_elbo`; the noise is seeded, so it repeats."""
        with seeded(None):
            return super().get_elbo(*args, **kwargs)

    def get_reconstruction_error(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """See :meth:`scvi.model.base.VAEMixin.get_reconstruction_error`; the noise is seeded.

        The error is the binary cross-entropy, summed over genes.
        """
        with seeded(None):
            return super().get_reconstruction_error(*args, **kwargs)

    @staticmethod
    def prepare_query_anndata(
        adata: AnnData,
        reference_model: str | os.PathLike[str] | SCALEXModel,
        return_reference_var_names: bool = False,
        inplace: bool = True,
        layer: str | None = None,
        log_normalized: bool | None = None,
    ) -> AnnData | pd.Index | None:
        """Take new cells through the reference's preprocessing, ready for :meth:`load_query_data`.

        More than scvi-tools' method of this name, which pads and sorts genes: normalisation needs
        all genes, so that it has to come first. :meth:`load_query_data` does this by itself.

        Parameters
        ----------
        adata
            Counts of new cells.
        reference_model
            Model, or folder of a saved one.
        return_reference_var_names
            Only return the reference's genes.
        inplace
            Whether to change ``adata`` (scvi-tools' default), or return a new AnnData.
        layer, log_normalized
            See :func:`scalex_scvi.pp.prepare_query`.
        """
        reference = _as_model(reference_model)
        if return_reference_var_names:
            return pd.Index(reference.get_var_names())
        query = reference._prepare(
            adata, layer=layer, log_normalized=log_normalized, processed=None
        )
        if not inplace:
            return query
        adata._init_as_actual(query)
        return None

    @classmethod
    def load_query_data(
        cls,
        adata: AnnData,
        reference_model: str | os.PathLike[str] | SCALEXModel,
        inplace_subset_query_vars: bool = False,
        accelerator: str = "auto",
        device: int | str = "auto",
        layer: str | None = None,
        log_normalized: bool | None = None,
        processed: bool | None = None,
    ) -> SCALEXModel:
        """Place new cells into the space of a trained model, without training.

        The model that is returned is ready: ``get_latent_representation()`` works at once, since
        the encoder needs no batch. :meth:`train` on it cannot change the latent: it fits the
        decoder of the new batches, which only :meth:`get_imputed_expression` uses.

        Parameters
        ----------
        adata
            Raw counts of the new cells, with the reference's ``batch_key`` in ``obs``. Genes may
            be missing, additional or in another order. It is not changed; the prepared cells are
            the ``adata`` of the returned model, in the same order.
        reference_model
            Trained model, or the folder of a saved one.
        inplace_subset_query_vars
            Accepted for scvi-tools' sake; ``adata`` is never changed.
        accelerator, device
            Where to put the model.
        layer
            Layer with the counts, instead of ``adata.X``.
        log_normalized
            Whether the values are log-normalised already. ``None`` decides, and raises when it
            looks like it.
        processed
            Whether the values are scaled to [0, 1] already. ``None``: they are if ``adata``
            carries the record of :func:`scalex_scvi.pp.rna` or
            :func:`scalex_scvi.pp.prepare_query`, or if the reference has none.

        Raises
        ------
        KeyError, ValueError
            See :func:`scalex_scvi.pp.prepare_query`.
        """
        reference = _as_model(reference_model)
        reference._check_if_trained(warn=False)
        query = reference._prepare(
            adata, layer=layer, log_normalized=log_normalized, processed=processed
        )
        model = super().load_query_data(query, reference, accelerator=accelerator, device=device)
        known, new = reference.preprocessing, Preprocessing.from_adata(query)
        model.preprocessing = None if known is None or new is None else known.with_batches_of(new)
        model.n_reference_batches_ = reference.summary_stats.n_batch
        model._freeze_reference()
        model.history_ = None
        model.is_trained_ = True
        return model

    def _prepare(self, adata: AnnData, **how: Any) -> AnnData:
        """Bring new cells into the form that this model expects."""
        return prepare_for_model(
            adata,
            setup=self.registry_[_SETUP_ARGS_KEY],
            genes=list(self.get_var_names()),
            record=self.preprocessing,
            **how,
        )

    def _freeze_reference(self) -> None:
        if self.n_reference_batches_:
            self.module.freeze_for_query(self.n_reference_batches_)


def _as_model(reference: str | os.PathLike[str] | SCALEXModel) -> SCALEXModel:
    if isinstance(reference, SCALEXModel):
        return reference
    return SCALEXModel.load(reference, adata=False)
