"""AnnData fields with the checks that SCALEX needs."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData
from scvi.data.fields import CategoricalObsField, LayerField

from scalex_scvi._core.columns import check_batch_column, check_no_missing
from scalex_scvi._core.matrices import get_matrix
from scalex_scvi.pp._checks import check_unique_genes, check_unit_interval


class ScaledExpressionField(LayerField):
    """Expression in [0, 1], cells × uniquely named genes, which is never changed.

    scvi-tools checks neither values nor, on transfer, the names of genes.
    """

    def __init__(self, registry_key: str, layer: str | None) -> None:
        super().__init__(registry_key, layer, is_count_data=False, correct_data_format=False)

    def validate_field(self, adata: AnnData) -> None:
        """Raise unless all values are finite and in [0, 1], and gene names are unique."""
        matrix, name = get_matrix(adata, self.attr_key)
        super().validate_field(adata)
        check_unique_genes(adata.var_names, what="`adata`")
        check_unit_interval(matrix, name=name)

    def transfer_field(
        self, state_registry: dict[str, Any], adata_target: AnnData, **kwargs: Any
    ) -> dict[str, Any]:
        """Register other cells; their genes must be the model's, in the same order."""
        expected = np.asarray(state_registry[self.COLUMN_NAMES_KEY], dtype=str)
        found = np.asarray(adata_target.var_names, dtype=str)
        if not np.array_equal(expected, found):
            n_shared = len(np.intersect1d(expected, found))
            msg = (
                f"The genes are not those of the model in the same order: {len(found)} genes, "
                f"{n_shared} of them shared with the model's {len(expected)}. Use "
                "`SCALEXModel.load_query_data` for new cells, or `pp.reindex`."
            )
            raise ValueError(msg)
        return super().transfer_field(state_registry, adata_target, **kwargs)


class BatchField(CategoricalObsField):
    """The batch of each cell: none missing, at least two cells each."""

    def validate_field(self, adata: AnnData) -> None:
        """Raise if the column is absent, has missing values or a batch of one cell."""
        check_batch_column(adata, self._original_attr_key)
        super().validate_field(adata)


class LabelsField(CategoricalObsField):
    """The label of each cell: none missing."""

    def validate_field(self, adata: AnnData) -> None:
        """Raise if the column has missing values."""
        super().validate_field(adata)
        check_no_missing(adata, self._original_attr_key, what="label")
