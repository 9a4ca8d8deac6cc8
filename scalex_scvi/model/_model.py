"""SCALEX as an scvi-tools model: its setup, and what it is made of."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.model.base import (
    ArchesMixin,
    BaseMinifiedModeModelClass,
    UnsupervisedTrainingMixin,
    VAEMixin,
)

from scalex_scvi._core.chosen import chosen_cells
from scalex_scvi._core.columns import check_batch_column, text_of
from scalex_scvi._core.inputs import check_adata
from scalex_scvi._core.keys import own_keys
from scalex_scvi._core.matrices import without_matrix
from scalex_scvi._core.measured import mark_measured
from scalex_scvi._core.modalities import Cells, check_cells, one_modality
from scalex_scvi._core.ranges import check_whole
from scalex_scvi._core.scvi_private import (
    FIELD_REGISTRIES_KEY,
    SETUP_ARGS_KEY,
    STATE_REGISTRY_KEY,
    check_if_view,
    has_no_counts,
    minify_type,
)
from scalex_scvi._core.seeds import seeded
from scalex_scvi.module import SCALEXVAE
from scalex_scvi.nn import ActivationName
from scalex_scvi.pp import MIN_GENE_SHARE, NewBatches, Preprocessing, Transform
from scalex_scvi.train import (
    SCALEXDataManager,
    SCALEXDataSplitter,
    SCALEXTrainingPlan,
    SCALEXTrainRunner,
    default_prior_components,
    default_residual,
)

from ._datamodule import DataModuleMixin
from ._differential import DifferentialMixin
from ._expression import ExpressionMixin
from ._fields import (
    LOGARITHMS_KEY,
    OWN_TOTAL_KEY,
    PROCESSED_KEY,
    RECORD_KEY,
    BatchField,
    ExpressionField,
    LabelsField,
    plain_selection,
    preparation_of,
    record_in,
    stored_record,
)
from ._imputation import ImputationMixin
from ._latent import LatentMixin
from ._minified import MinifiedMixin
from ._mudata import MuDataMixin
from ._prepared import keep_registered_batches, prepared_values
from ._published import PublishedMixin
from ._query import QueryMixin
from ._refused import RefusedMixin
from ._saving import SavingMixin
from ._training import TrainingMixin

logger = logging.getLogger(__name__)

_OF_SCVI = (
    "dispersion",
    "gene_likelihood",
    "use_observed_lib_size",
    "latent_distribution",
    "encode_covariates",
    "deeply_inject_covariates",
    "use_layer_norm",
    "use_batch_norm",
    "use_size_factor_key",
    "var_activation",
)
"""Arguments of :class:`scvi.model.SCVI` that mean nothing to SCALEX."""

_OF_NETWORK = (
    "n_hidden",
    "n_latent",
    "n_layers",
    "n_layers_decoder",
    "n_residual",
    "activation",
    "dropout_rate",
    "n_prior_components",
)
"""Arguments of the model that say what its network is made of."""

_COVARIATES = ("categorical_covariate_keys", "continuous_covariate_keys", "size_factor_key")


class SCALEXModel(
    SavingMixin,
    TrainingMixin,
    LatentMixin,
    DifferentialMixin,
    ExpressionMixin,
    ImputationMixin,
    QueryMixin,
    MuDataMixin,
    DataModuleMixin,
    MinifiedMixin,
    PublishedMixin,
    RefusedMixin,
    VAEMixin,
    ArchesMixin,
    UnsupervisedTrainingMixin,
    BaseMinifiedModeModelClass,
):
    """Online integration of single-cell data by SCALEX.

    The encoder never sees the batch, the decoder has one batch normalization per batch. So
    differences between batches are modeled by the decoder, and a trained model places cells of new
    batches into the same latent space without training.

    Parameters
    ----------
    adata
        AnnData registered by :meth:`setup_anndata`, or MuData by :meth:`setup_mudata`.
    registry
        Of a saved model, to build one without data; or that of :meth:`setup_datamodule`.
    n_hidden
        Width of the encoder's hidden layer (1024, as published).
    n_latent
        Latent dimensions (10, as published).
    n_layers
        Hidden layers of the encoder (1, as published).
    n_layers_decoder
        Hidden layers of the decoder (0, as published).
    n_residual
        Hidden units of a nonlinear part of the decoder, which is added to the linear one and is
        zero at first; 0 (published): the decoder is linear. ``None``: 128 for data of at least
        3 000 cells with many types, else 0. Whether there are many types is estimated from the
        expression, without labels: the standard deviation of the tenth principal component must be
        at least a third of that of the first. A linear decoder of ten latent dimensions cannot
        represent some twenty types; with few types or few cells a nonlinear one overfits
        (docs/decisions.md).
    activation
        Activation of hidden layers.
    dropout_rate
        Dropout in the encoder (0, as published).
    n_prior_components
        Normal distributions that the prior of the latent is a mixture of, all learned; 1
        (published): the standard normal one. ``None``: 32 where the decoder has a nonlinear part,
        else 1. With a mixture types are more compact, and batches mix a little less
        (docs/quality.md).
    seed
        Seed of the initial weights. ``None``: ``scvi.settings.seed``, else 124 as published.
    **more
        Arguments of :class:`scvi.model.SCVI` that do not exist in SCALEX (``gene_likelihood``,
        ``dispersion``, …) are ignored with a warning.

    Raises
    ------
    TypeError
        For unknown arguments, and for ``adata`` that is neither AnnData nor MuData.
    ValueError
        For numbers that are out of range, and for cells that were not set up.

    Examples
    --------
    >>> SCALEXModel.setup_anndata(adata, layer="counts", batch_key="batch")
    >>> model = SCALEXModel(adata)
    >>> model.train()
    >>> adata.obsm["X_scalex"] = model.get_latent_representation()
    >>> query_model = SCALEXModel.load_query_data(query, model)
    >>> query.obsm["X_scalex"] = query_model.get_latent_representation()

    References
    ----------
    Xiong et al., Online single-cell data integration through projecting heterogeneous datasets
    into a common cell-embedding space, Nat Commun 13:6118, 2022.
    """

    _module_cls = SCALEXVAE
    _training_plan_cls = SCALEXTrainingPlan
    _train_runner_cls = SCALEXTrainRunner
    _data_splitter_cls = SCALEXDataSplitter
    _LATENT_QZM_KEY = "scalex_latent_qzm"
    _LATENT_QZV_KEY = "scalex_latent_qzv"

    is_trained_: bool
    untrained_batches_: list[str]
    offsets_removed_: bool
    gene_factors_: dict[str, Any] | None
    prior_by_default_: bool

    def __init__(
        self,
        adata: Cells | None = None,
        registry: dict[str, Any] | None = None,
        n_hidden: int = 1024,
        n_latent: int = 10,
        n_layers: int = 1,
        n_layers_decoder: int = 0,
        n_residual: int | None = None,
        activation: ActivationName = "relu",
        dropout_rate: float = 0.0,
        n_prior_components: int | None = None,
        seed: int | None = None,
        **more: Any,
    ) -> None:
        _check_more(more)
        at_least_one = {"n_hidden": n_hidden, "n_latent": n_latent, "n_layers": n_layers}
        for name, value in at_least_one.items():
            check_whole(value, 1, name=name)
        check_whole(n_layers_decoder, 0, name="n_layers_decoder")
        if n_residual is not None:
            check_whole(n_residual, 0, name="n_residual")
        if n_prior_components is not None:
            check_whole(n_prior_components, 1, name="n_prior_components")
        _check_dropout(dropout_rate)
        if adata is not None:
            self._check_set_up(adata)
        super().__init__(adata, registry)
        if n_residual is None:
            n_residual = self._default_residual(n_layers_decoder)
        self.prior_by_default_ = n_prior_components is None
        if n_prior_components is None:
            n_prior_components = default_prior_components(n_residual)
        with seeded(seed):
            self.module = self._module_cls(
                n_input=self.summary_stats.n_vars,
                n_batch=self.summary_stats.n_batch,
                n_hidden=n_hidden,
                n_latent=n_latent,
                n_layers=n_layers,
                n_layers_decoder=n_layers_decoder,
                n_residual=n_residual,
                activation=activation,
                dropout_rate=dropout_rate,
                n_prior_components=n_prior_components,
            )
        self.module.minified_data_type = self.minified_data_type
        self.n_reference_batches_ = 0
        self.untrained_batches_ = []
        self.offsets_removed_ = False
        self.gene_factors_ = None
        self.init_params_ = self._get_init_params(locals())
        self._summarize()

    def _summarize(self) -> None:
        """Set the summary that ``print(model)`` shows: the sizes of the network."""
        made_of = {k: v for k, v in self.init_params_["non_kwargs"].items() if k in _OF_NETWORK}
        shown = ", ".join(f"{name}: {value}" for name, value in made_of.items())
        self._model_summary_string = f"SCALEX model with the following parameters: \n{shown}."

    def _default_residual(self, n_layers_decoder: int) -> int:
        """Width of the decoder's nonlinear part, by the cells, if there are any."""
        if n_layers_decoder or self.minified_data_type is not None:
            return 0
        if self.adata is None:
            return self._seen_in_module("n_residual") or 0
        return default_residual(self.adata_manager)

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        batch_key: str | None = None,
        labels_key: str | None = None,
        layer: str | None = None,
        profile: str = "RNA",
        n_top_features: Any = None,
        log_normalized: bool | None = None,
        processed: bool | None = None,
        new_batches: NewBatches = "reference",
        **kwargs: Any,
    ) -> None:
        """Register counts, and fit the transform to values in [0, 1] in one pass over blocks.

        Nothing of ``adata`` changes except for scvi-tools' registration (columns of ``obs`` and
        keys of ``uns`` that begin with ``_scvi``). No cell and no gene is removed: results have the
        cells of ``adata``, in its order. Values are transformed as they are read, in minibatches
        and blocks.

        Parameters
        ----------
        adata
            Cells × genes (peaks, proteins), counts: dense or sparse, in memory, backed, of a store
            or of dask. Cells prepared by :mod:`scalex_scvi.pp`, or in [0, 1] by other means, are
            taken as they are.
        batch_key
            Column of ``adata.obs`` with the batches; ``None``: all cells are one batch.
        labels_key
            Column of ``adata.obs`` with labels, which the model does not use.
        layer
            Layer with the counts, instead of ``adata.X``.
        profile
            ``"RNA"``, ``"ATAC"`` or ``"ADT"``: how cells are normalized.
        n_top_features
            Features of the model: ``None`` for all of ``adata``; a number of variable ones; a
            list, array or index of names, or a text file with one name a line; or
            ``"highly_variable"`` for those of ``adata.var["highly_variable"]``. Cells are
            normalized over all features of ``adata`` in any case.
        log_normalized
            Whether the values are log-normalized already. ``None``: counts are expected, and values
            that look log-normalized raise an error.
        processed
            Whether the values are in [0, 1] already, and are to be used as they are. ``None``: yes
            for cells with a record of :mod:`scalex_scvi.pp`, and for fractions of at most 1.
        new_batches
            How a batch of a query that is not in the reference is scaled: ``"reference"``, by the
            maxima of the reference (their geometric mean over its batches), so that the latent of
            a cell depends on that cell alone; ``"own"`` (published), by the maxima of the cells of
            that batch which are given together.
        **kwargs
            ``source_registry`` and how to transfer it, by scvi-tools, with ``min_gene_share``
            (:meth:`load_query_data`). Covariates are refused.

        Raises
        ------
        KeyError, TypeError, ValueError, FileNotFoundError
            If there is no such column or layer, the values are neither counts nor in [0, 1], gene
            names repeat, or a batch is missing or has one cell; for covariates. Nothing is
            registered then.
        """
        check_adata(adata)
        cls._register(adata, cls._get_setup_method_args(**locals()), kwargs)

    @classmethod
    def _register(
        cls, adata: Cells, setup_method_args: dict[str, Any], transfer: dict[str, Any]
    ) -> None:
        """Register cells: see :meth:`setup_anndata` and :meth:`setup_mudata`."""
        _refuse_covariates(transfer)
        arguments = setup_method_args[SETUP_ARGS_KEY]
        arguments["n_top_features"] = plain_selection(arguments["n_top_features"])
        batch_key, labels_key = arguments["batch_key"], arguments["labels_key"]
        cells = one_modality(adata, arguments)
        check_batch_column(cells, batch_key, lone_cells=True)
        columns: list[BatchField | LabelsField] = [
            BatchField(REGISTRY_KEYS.BATCH_KEY, batch_key),
            LabelsField(REGISTRY_KEYS.LABELS_KEY, labels_key),
        ]
        # Registration writes one field after the other: find mistakes before the first.
        if "source_registry" not in transfer:
            for field in columns:
                if not field.is_default:
                    field.validate_field(cells)
        # Of a query, not of the model: it is not kept with the arguments.
        least = transfer.pop("min_gene_share", MIN_GENE_SHARE)
        expression = ExpressionField(
            REGISTRY_KEYS.X_KEY,
            arguments["layer"],
            batch_key,
            preparation_of(arguments),
            arguments["processed"],
            least,
        )
        fields = [expression, *columns]
        kind = minify_type(adata)
        if kind is not None:
            fields += cls._get_fields_for_adata_minification(kind)
        manager = SCALEXDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.transform_of = transform_of
        manager.register_fields(adata, **transfer)
        cls.register_manager(manager)

    def _validate_anndata(self, adata: Cells | None = None, copy_if_view: bool = True) -> Cells:
        """Register cells as the model's are; for what the decoder does, their batches are known."""
        if adata is not None:
            check_cells(adata)
            self._adopt_first(adata, copy_if_view=copy_if_view)
        adata = super()._validate_anndata(adata, copy_if_view)
        manager = self.get_anndata_manager(adata, required=True)
        new = [name for name in self.batch_names_of(manager) if name not in self._known_batches]
        if new:
            msg = (
                f"The decoder of the model does not know the batches {new!r}. Use "
                "`SCALEXModel.load_query_data` for cells of new batches; their latent needs none."
            )
            raise ValueError(msg)
        return adata

    def manager_of(self, adata: Cells | None = None, **declared: Any) -> SCALEXDataManager:
        """Return the data manager of cells, with matrix, transform and batches, which may be new.

        Parameters
        ----------
        adata
            Cells; default: the model's own. They are registered on first use.
        **declared
            Arguments of :meth:`setup_anndata` that differ from the model's.

        Raises
        ------
        KeyError, TypeError, ValueError
            If there are no cells, or as :meth:`load_query_data`.
        """
        adata = self.adata if adata is None else adata
        if adata is None:
            msg = "The model was loaded without cells: give `adata`."
            raise ValueError(msg)
        check_cells(adata)
        check_if_view(adata, copy_if_view=True)
        manager = self.get_anndata_manager(adata)
        if manager is None:
            declared = {"processed": None, "extend_categories": True} | declared
            self._set_up_alike(adata, self.registry_, **declared)
            manager = self._get_most_recent_anndata_manager(adata, required=True)
            self._register_manager_for_instance(manager)
        else:
            manager.validate()
        return manager

    def get_prepared(
        self, adata: Cells | None = None, indices: Sequence[int] | np.ndarray | None = None
    ) -> AnnData:
        """Return the values that the encoder takes, as a new AnnData.

        Parameters
        ----------
        adata
            Cells; default: the model's own.
        indices
            Cells to use: numbers, which may repeat, or a mask; default: all.

        Returns
        -------
        Cells × the model's genes, ``X`` (CSR float32, of dask another array) in [0, 1], with
        ``obs``, ``obsm`` and ``uns`` of the cells, and the record of the transform. Batches are
        those with which the cells were registered, with a warning if ``obs`` was changed since. If
        the cells lack genes of the model, which are zero then, ``var["scalex_measured"]`` is False
        for these.

        Raises
        ------
        ValueError
            If the cells are minified to their latent, and have no expression, or for no cells.
        IndexError
            If ``indices`` is neither numbers of cells nor a mask of all.
        """
        manager = self.manager_of(adata)
        if has_no_counts(manager.owner):
            msg = (
                "The cells are minified to their latent: they have no expression to prepare. Give "
                "them with their counts."
            )
            raise ValueError(msg)
        light = without_matrix(manager.annotated)
        rows = None
        if indices is not None:
            rows = chosen_cells(indices, light.n_obs)
            light = light[rows].copy()
        own = own_keys(light.obs)
        genes = list(self.get_var_names())
        matrix = prepared_values(manager, len(genes), rows)
        prepared = AnnData(matrix, obs=light.obs[own], obsm=dict(light.obsm), uns=light.uns)
        prepared.var_names = genes
        if self.batch_key is not None:
            codes = manager.codes if rows is None else manager.codes[rows]
            names = self.batch_names_of(manager)
            keep_registered_batches(prepared.obs, self.batch_key, codes, names)
        mark_measured(prepared.var, manager.measured)
        record = record_in(manager.state_of(REGISTRY_KEYS.X_KEY))
        if record is not None:
            record.to_adata(prepared)
        return prepared

    @property
    def preprocessing(self) -> Preprocessing | None:
        """The transform of counts; ``None`` if they came in [0, 1] by other means."""
        return record_in(self._expression_state)

    @preprocessing.setter
    def preprocessing(self, value: Preprocessing | None) -> None:
        self._expression_state[RECORD_KEY] = stored_record(value)

    @property
    def _expression_state(self) -> dict[str, Any]:
        return self.registry_[FIELD_REGISTRIES_KEY][REGISTRY_KEYS.X_KEY][STATE_REGISTRY_KEY]

    @property
    def batch_names(self) -> list[str]:
        """Names of the batches as text, in the order of the decoder."""
        state = self.registry_[FIELD_REGISTRIES_KEY][REGISTRY_KEYS.BATCH_KEY][STATE_REGISTRY_KEY]
        return [text_of(name) for name in state["categorical_mapping"]]

    @property
    def batch_key(self) -> str | None:
        """Column of ``obs`` with the batches."""
        return self.registry_[SETUP_ARGS_KEY]["batch_key"]

    @property
    def _known_batches(self) -> set[str]:
        return set(self.batch_names)

    @staticmethod
    def batch_names_of(manager: SCALEXDataManager) -> list[str]:
        """Return the names of the batches of registered cells, in the order of their codes.

        Parameters
        ----------
        manager
            From :meth:`manager_of`.
        """
        state = manager.state_of(REGISTRY_KEYS.BATCH_KEY)
        return [text_of(name) for name in state["categorical_mapping"]]

    def get_var_names(self, legacy_mudata_format: bool = False) -> Any:
        """Return the names of the model's features, which may be some of those of the AnnData.

        Parameters
        ----------
        legacy_mudata_format
            Without effect: an argument of scvi-tools' method.
        """
        return self._expression_state[ExpressionField.COLUMN_NAMES_KEY]


def transform_of(manager: SCALEXDataManager) -> Transform | None:
    """Return the transform of registered counts, with the scale of their batches."""
    state = manager.state_of(REGISTRY_KEYS.X_KEY)
    genes, owner = state[ExpressionField.COLUMN_NAMES_KEY], manager.owner
    same = len(genes) == owner.n_vars and (genes == owner.var_names.to_numpy().astype(str)).all()
    if has_no_counts(owner) or (state[PROCESSED_KEY] and same):
        return None
    if state[PROCESSED_KEY]:
        as_they_are = Preprocessing(genes=tuple(genes), log_normalized=True)
        return Transform.plan(as_they_are, owner.var, log_normalized=True, report=False)
    record = record_in(state)
    assert record is not None, "counts are registered with their transform"
    transform = Transform.plan(
        record,
        owner.var,
        log_normalized=bool(state[LOGARITHMS_KEY]),
        own_total=state.get(OWN_TOTAL_KEY),
        report=False,
    )
    one_batch = manager.registry[SETUP_ARGS_KEY]["batch_key"] is None
    names = ["0"] if one_batch else SCALEXModel.batch_names_of(manager)
    return transform.with_scale(record.scale_of(names))


def _check_more(more: dict[str, Any]) -> None:
    unknown = [name for name in more if name not in _OF_SCVI]
    if unknown:
        msg = (
            f"SCALEXModel takes no {unknown!r}. It has n_hidden, n_latent, n_layers, "
            "n_layers_decoder, n_residual, activation, dropout_rate, n_prior_components and seed."
        )
        raise TypeError(msg)
    if more:
        logger.warning(
            "%s of scVI has no effect: SCALEX has one loss, and an encoder without batches.",
            ", ".join(f"`{name}`" for name in more),
        )


def _check_dropout(rate: float) -> None:
    if not 0 <= rate < 1:
        msg = f"`dropout_rate` must be at least 0 and less than 1, got {rate!r}."
        raise ValueError(msg)


def _refuse_covariates(kwargs: dict[str, Any]) -> None:
    for name in _COVARIATES:
        value = kwargs.pop(name, None)
        if value is not None and len(value):
            msg = (
                f"`{name}`={value!r}: SCALEX has no covariates beside the batch. Join columns that "
                "are to be corrected for into one, and give it as `batch_key`."
            )
            raise ValueError(msg)
