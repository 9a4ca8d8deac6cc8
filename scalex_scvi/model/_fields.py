"""AnnData fields of a model: the counts with their transform, batches, labels."""

from __future__ import annotations

import logging
import os
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi.data.fields import CategoricalObsField, LayerField

from scalex_scvi._core.columns import (
    as_text,
    check_batch_column,
    check_no_missing,
    one_column,
    text_of,
)
from scalex_scvi._core.gene_names import names_in
from scalex_scvi._core.matrices import get_matrix
from scalex_scvi._core.scvi_private import minify_type
from scalex_scvi.io import layers_of_counts, whole_numbers
from scalex_scvi.pp import (
    MIN_GENE_SHARE,
    Preparation,
    Preprocessing,
    check_share_found,
    check_unit_interval,
    fit_query,
    get_profile,
    looks_scaled,
    summarize,
)

logger = logging.getLogger(__name__)

UNLABELED = "unknown"
"""Label of query cells that have none."""

RECORD_KEY, PROCESSED_KEY, LOGARITHMS_KEY = "preprocessing", "processed", "log_normalized"
"""Keys of the registry: the transform, and whether the matrix went through it already, or through
its normalization."""

OWN_TOTAL_KEY = "own_total"
"""Key of the registry, of log-normalized cells of a query: see :meth:`pp.Transform.plan`."""

MANY_GENES = 5_000

HIGHLY_VARIABLE = "highly_variable"
"""Column of ``var`` with the marks of features to select, and the word for them."""


class ExpressionField(LayerField):
    """Counts with the transform that was fitted to them, or values that are in [0, 1] already.

    The matrix is never changed. What is fitted goes into the registry as plain types.

    Parameters
    ----------
    registry_key, layer
        See :class:`scvi.data.fields.LayerField`.
    batch_key
        Column of ``obs`` with the batches, ``None`` for one batch.
    preparation
        What is to be done to counts. ``processed=True``: nothing, they are in [0, 1].
    processed
        Whether the values are in [0, 1] already; ``None`` decides by record and values.
    min_gene_share
        Share of a reference's genes that other cells must have.
    """

    def __init__(
        self,
        registry_key: str,
        layer: str | None,
        batch_key: str | None,
        preparation: Preparation,
        processed: bool | None,
        min_gene_share: float = MIN_GENE_SHARE,
    ) -> None:
        super().__init__(registry_key, layer, is_count_data=False, correct_data_format=False)
        self.batch_key = batch_key
        self.preparation = preparation
        self.processed = processed
        self.min_gene_share = min_gene_share

    def validate_field(self, adata: AnnData) -> None:
        """Raise unless there is a matrix."""
        self._matrix(adata)
        super().validate_field(adata)

    def _matrix(self, adata: AnnData) -> tuple[Any, str]:
        if self.attr_key == "raw" and "raw" not in adata.layers:
            msg = (
                "`layer='raw'`: a model is registered with the genes of `adata`, not of adata.raw. "
                "Register an object of its counts, `counts = scalex_scvi.io.from_raw(adata)`: the "
                "cells are the same, in the same order."
            )
            raise KeyError(msg)
        return get_matrix(adata, self.attr_key)

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """Fit the transform to counts, or check values that went through one."""
        _point_to_raw(adata, self.attr_key)
        matrix, name = self._matrix(adata)
        super().register_field(adata)
        record = Preprocessing.from_adata(adata)
        processed = self.processed
        if processed is None:
            prepared = record is not None and self.attr_key is None
            declared = self.preparation.log_normalized is not None
            processed = prepared or (not declared and looks_scaled(matrix))
        if not processed:
            advise(adata.n_vars, self.preparation)
            self._point_to_layer(adata)
            record = self._fit(adata)
            return new_state(adata.n_obs, record.genes, record, False, record.log_normalized)
        if not adata.var_names.is_unique:
            repeated = list(adata.var_names[adata.var_names.duplicated()].unique())
            msg = (
                f"{len(repeated)} gene names of `adata` occur more than once, for example "
                f"{repeated[:5]!r}. Run `adata.var_names_make_unique()`, or sum them."
            )
            raise ValueError(msg)
        check_unit_interval(matrix, name=name)
        return new_state(adata.n_obs, adata.var_names, record, True, False)

    def _point_to_layer(self, adata: AnnData) -> None:
        """Say which layer holds counts, if ``X`` does not and nothing else is declared."""
        if self.attr_key is None and self.preparation.log_normalized is None:
            for name in layers_of_counts(adata)[:1]:
                logger.warning(
                    "adata.X holds values that are not whole numbers, adata.layers[%r] whole ones, "
                    "as counts are. To use these pass `layer=%r`.",
                    name,
                    name,
                )

    def _fit(self, adata: AnnData) -> Preprocessing:
        preparation = self.preparation
        chosen = preparation.n_top_features
        if isinstance(chosen, str) and chosen == HIGHLY_VARIABLE:
            preparation = preparation.but(n_top_features=_highly_variable(adata))
        return Preprocessing.fit(
            adata, preparation, batch_key=self.batch_key, layer=self.attr_key, name_panel=True
        )

    def transfer_field(
        self, state_registry: dict[str, Any], adata_target: AnnData, **kwargs: Any
    ) -> dict[str, Any]:
        """Take other cells through the transform, with the scale of their new batches added."""
        self.validate_field(adata_target)
        _point_to_raw(adata_target, self.attr_key)
        genes = state_registry[self.COLUMN_NAMES_KEY]
        reference = record_in(state_registry)
        if minify_type(adata_target) is not None:  # the same cells, or their latent alone
            return {**state_registry, self.N_OBS_KEY: adata_target.n_obs}
        matrix, name = self._matrix(adata_target)
        own = Preprocessing.from_adata(adata_target) if self.attr_key is None else None
        processed = self.processed
        if processed is None:
            declared = self.preparation.log_normalized is not None
            known = reference is None or own is not None
            processed = known or (not declared and looks_scaled(matrix))
        if processed:
            check_unit_interval(matrix, name=name)
            profile = get_profile("RNA" if reference is None else reference.profile)
            var, wanted = adata_target.var, pd.Index(genes)
            check_share_found(var, names_in(var, wanted)[0], wanted, self.min_gene_share, profile)
            if reference is not None and own is not None:
                scale = own.scale.reindex(list(genes), fill_value=0)
                reference = reference.with_new_batches(scale, self.batch_key)
            return new_state(adata_target.n_obs, genes, reference, True, False)
        if reference is None:
            msg = (
                "The reference does not know how its counts were prepared, so that "
                "`processed=False` is impossible: prepare the query like the reference, and pass "
                "`processed=True`."
            )
            raise ValueError(msg)
        logarithms = self.preparation.log_normalized
        if not reference.log_normalized:
            self._point_to_layer(adata_target)
        if logarithms is None and reference.log_normalized:
            logarithms = summarize(matrix).fractional or None
        found = fit_query(
            adata_target,
            reference,
            batch_key=self.batch_key,
            layer=self.attr_key,
            log_normalized=logarithms,
            min_gene_share=self.min_gene_share,
        )
        state = new_state(adata_target.n_obs, genes, found.record, False, bool(logarithms))
        return state | {OWN_TOTAL_KEY: found.own_total}


def _point_to_raw(adata: AnnData, layer: str | None) -> None:
    """Say where counts are, if ``X`` holds normalized values."""
    if layer is None and adata.raw is not None and not adata.isbacked:
        if whole_numbers(adata.X) is False and whole_numbers(adata.raw.X):
            logger.warning(
                "adata.X holds normalized values, adata.raw counts of %d genes. To use these, "
                "register `scalex_scvi.io.from_raw(adata)`, or pass `layer='raw'` where new cells "
                "are mapped.",
                adata.raw.n_vars,
            )


def advise(n_vars: int, preparation: Preparation) -> None:
    """Say so if the model takes more genes, or peaks, than is usual."""
    takes_all = isinstance(preparation.n_top_features, int) and preparation.n_top_features == -1
    profile = get_profile(preparation.profile)
    usual = profile.n_top_features
    if takes_all and usual > 0 and n_vars > max(usual, MANY_GENES):
        logger.warning(
            "The model will have all %d %s of `adata`. Usual are the most variable ones: pass "
            "`n_top_features=%d`, or 'highly_variable' for those of adata.var.",
            n_vars,
            profile.features,
            usual,
        )


def plain_selection(n_top_features: Any) -> Any:
    """Return a selection of features as a number, a list or text, as the registry can hold it.

    Parameters
    ----------
    n_top_features
        See :meth:`scalex_scvi.SCALEXModel.setup_anndata`; also an array, index or column of names,
        a number of NumPy or as text, or a path. Anything else is returned as it is.
    """
    if isinstance(n_top_features, np.ndarray | pd.Index | pd.Series) and n_top_features.ndim == 1:
        is_mask = pd.api.types.is_bool_dtype(n_top_features)  # is refused, by what it is
        return [bool(name) if is_mask else str(name) for name in n_top_features]
    if isinstance(n_top_features, Integral) and not isinstance(n_top_features, bool):
        return int(n_top_features)
    if isinstance(n_top_features, str) and n_top_features.lstrip("-").isdecimal():
        return int(n_top_features)
    return os.fspath(n_top_features) if isinstance(n_top_features, os.PathLike) else n_top_features


def preparation_of(arguments: dict[str, Any]) -> Preparation:
    """Return what is to be done to counts, by the arguments of a set-up."""
    n_top_features = arguments["n_top_features"]
    return Preparation(
        profile=arguments["profile"],
        n_top_features=-1 if n_top_features is None else n_top_features,
        # Genes are those of the object, as with scvi-tools, unless some are to be selected.
        min_cells=0 if n_top_features is None else None,
        dropped_prefixes=None if isinstance(n_top_features, int) else (),
        log_normalized=arguments["log_normalized"],
        new_batches=arguments["new_batches"],
    )


def _highly_variable(adata: AnnData) -> list[str]:
    if HIGHLY_VARIABLE not in adata.var:
        msg = (
            "`n_top_features='highly_variable'` needs adata.var['highly_variable']; the columns "
            f"are {list(adata.var.columns)!r}. Run `scanpy.pp.highly_variable_genes` first."
        )
        raise KeyError(msg)
    marks = adata.var[HIGHLY_VARIABLE]
    if marks.isna().any() or not marks.isin([True, False]).all():
        # As bool, the text "False" is true.
        is_text = any(isinstance(mark, str) for mark in marks)
        change = ".astype(str) == 'True'" if is_text else ".fillna(False).astype(bool)"
        msg = (
            "adata.var['highly_variable'] must be True or False for each gene, without missing "
            f"values; it holds {list(marks.unique()[:5])!r}. For genes that are not marked: "
            f"`adata.var['highly_variable'] = adata.var['highly_variable']{change}`."
        )
        raise ValueError(msg)
    if not marks.any():
        msg = (
            "adata.var['highly_variable'] marks no gene. Run `scanpy.pp.highly_variable_genes` "
            "again, or pass `n_top_features`: a number, -1 for all genes, or names."
        )
        raise ValueError(msg)
    return list(adata.var_names[marks.to_numpy(bool)])


def new_state(
    n_obs: int, genes: Any, record: Preprocessing | None, processed: bool, logarithms: bool
) -> dict[str, Any]:
    """Return what the registry says of the expression of cells."""
    names = np.asarray([str(gene) for gene in genes], dtype=object)
    return {
        LayerField.N_OBS_KEY: n_obs,
        LayerField.N_VARS_KEY: len(names),
        LayerField.COLUMN_NAMES_KEY: names,
        RECORD_KEY: stored_record(record),
        PROCESSED_KEY: processed,
        LOGARITHMS_KEY: logarithms,
    }


def stored_record(record: Preprocessing | None) -> dict[str, Any] | None:
    """Return a record as plain types, as the registry holds it."""
    return None if record is None else {"record": record.to_dict(), "scale": record.scale}


def record_in(state_registry: Any) -> Preprocessing | None:
    """Return the transform in the registry of a model's expression, ``None`` if there is none."""
    stored = state_registry.get(RECORD_KEY)
    if stored is None:
        return None
    genes = state_registry[LayerField.COLUMN_NAMES_KEY]
    return Preprocessing.from_dict(stored["record"], genes, stored["scale"])


class TextField(CategoricalObsField):
    """Groups of cells, known by their names as text, whatever the type of the column."""

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """Register the groups of a reference."""
        if self.is_default:
            return super().register_field(adata)
        self.validate_field(adata)
        return self._write(adata, as_text(adata.obs[self._original_attr_key]), [])

    def transfer_field(
        self,
        state_registry: dict[str, Any],
        adata_target: AnnData,
        extend_categories: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Register the groups of other cells; new ones come after the known ones."""
        if self.is_default:
            return super().transfer_field(
                state_registry, adata_target, extend_categories=extend_categories, **kwargs
            )
        self.validate_field(adata_target)
        known = [text_of(name) for name in state_registry[self.CATEGORICAL_MAPPING_KEY]]
        groups = as_text(self._column(adata_target))
        new = [name for name in groups.categories if name not in known]
        if new and not extend_categories:
            msg = (
                f"obs[{self._original_attr_key!r}] holds {new[:5]!r}, which the model does not "
                f"know: {known!r}. New batches are for `load_query_data`."
            )
            raise ValueError(msg)
        return self._write(adata_target, groups, known)

    def _column(self, adata: AnnData) -> pd.Series:
        return adata.obs[self._original_attr_key]

    def _write(self, adata: AnnData, groups: pd.Categorical, known: list[str]) -> dict[str, Any]:
        names = [*known, *(name for name in groups.categories if name not in known)]
        place = pd.Index(names).get_indexer(groups.categories)
        adata.obs[self.attr_key] = place[groups.codes]
        return {
            self.CATEGORICAL_MAPPING_KEY: np.asarray(names, dtype=object),
            self.ORIGINAL_ATTR_KEY: self._original_attr_key,
        }


class BatchField(TextField):
    """The batch of each cell: none missing, in a reference at least two cells each."""

    def validate_field(self, adata: AnnData) -> None:
        """Raise if the column is absent or has missing values."""
        check_batch_column(adata, self._original_attr_key, lone_cells=True)
        super().validate_field(adata)

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """Register the batches of a reference."""
        check_batch_column(adata, None if self.is_default else self._original_attr_key)
        return super().register_field(adata)


class LabelsField(TextField):
    """The label of each cell: none missing in a reference, any in a query.

    In a query, cells without a label are "unknown". Labels play no part in the projection.
    """

    _of_query = False

    def validate_field(self, adata: AnnData) -> None:
        """Raise if the column has missing values."""
        if self._of_query:
            return
        super().validate_field(adata)
        check_no_missing(adata, self._original_attr_key, what="label")

    def transfer_field(
        self,
        state_registry: dict[str, Any],
        adata_target: AnnData,
        extend_categories: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Register the labels of other cells."""
        key = self._original_attr_key
        complete = key in adata_target.obs and not one_column(adata_target.obs, key).isna().any()
        self._of_query = not self.is_default and not complete
        return super().transfer_field(
            state_registry, adata_target, extend_categories or self._of_query, **kwargs
        )

    def _column(self, adata: AnnData) -> pd.Series:
        key = self._original_attr_key
        if key not in adata.obs:
            return pd.Series(UNLABELED, index=adata.obs_names)
        labels = adata.obs[key].astype(object)
        return labels.where(labels.notna(), UNLABELED) if labels.isna().any() else adata.obs[key]
