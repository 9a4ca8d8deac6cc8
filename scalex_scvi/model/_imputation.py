"""Expression decoded from the latent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data._constants import _SETUP_ARGS_KEY

Units = Literal["scaled", "log_normalized"]

_CHUNK = 4096


if TYPE_CHECKING:
    from scvi.model.base import BaseModelClass as _Base
else:
    _Base = object


class ImputationMixin(_Base):
    """Adds :meth:`get_imputed_expression` to a model."""

    @torch.inference_mode()
    def get_imputed_expression(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        transform_batch: Any | Sequence[Any] | None = None,
        gene_list: Sequence[str] | None = None,
        units: Units = "scaled",
        batch_size: int | None = None,
        return_numpy: bool = False,
    ) -> pd.DataFrame | np.ndarray:
        """Decode the latent: expression without noise and, in one chosen batch, without batches.

        Parameters
        ----------
        adata
            Cells with the model's genes; default: the model's own.
        indices
            Cells to use; default: all.
        transform_batch
            Batch whose decoder is used for all cells. ``None``: each cell's own; a list: the mean
            over these batches.
        gene_list
            Genes to return; default: all.
        units
            ``"scaled"``: in [0, 1], as the model sees it; ``"log_normalized"``: multiplied by the
            maximum of each gene in the decoding batch, from the preprocessing record.
        batch_size
            Cells per minibatch when encoding.
        return_numpy
            Whether to return an array instead of a data frame.

        Returns
        -------
        Cells × genes, float32.

        Raises
        ------
        ValueError
            For an unknown batch, gene or unit, or if the record has no scale of the batch.
        """
        self._check_if_trained(warn=False)
        adata = self._validate_anndata(adata)
        cells = np.arange(adata.n_obs) if indices is None else np.asarray(indices)
        if cells.dtype == bool:
            cells = np.flatnonzero(cells)
        genes = self._gene_indices(gene_list)
        scale = self._decoder_scale(units, genes)
        latent = self.get_latent_representation(adata, cells, batch_size=batch_size)
        own = self.get_from_registry(adata, REGISTRY_KEYS.BATCH_KEY).reshape(-1)[cells]
        batches = self._decoder_batches(transform_batch)
        expression = np.zeros((len(cells), len(genes)), dtype=np.float32)
        for start in range(0, len(cells), _CHUNK):
            rows = slice(start, start + _CHUNK)
            for batch in batches:
                codes = own[rows] if batch is None else np.full_like(own[rows], batch)
                decoded = self._decode(latent[rows], codes)[:, genes]
                expression[rows] += decoded if scale is None else decoded * scale[codes]
        expression /= len(batches)
        if return_numpy:
            return expression
        names = np.asarray(self.get_var_names())[genes]
        return pd.DataFrame(expression, index=adata.obs_names[cells], columns=names)

    def _gene_indices(self, gene_list: Sequence[str] | None) -> np.ndarray:
        names = pd.Index(self.get_var_names())
        if gene_list is None:
            return np.arange(len(names))
        found = names.get_indexer(list(gene_list))
        if (found < 0).any():
            unknown = [g for g, i in zip(gene_list, found, strict=True) if i < 0]
            msg = f"{len(unknown)} of `gene_list` are not genes of the model: {unknown[:5]!r}."
            raise ValueError(msg)
        return found

    def _decoder_batches(self, transform_batch: Any) -> list[int | None]:
        if transform_batch is None:
            return [None]
        wanted = transform_batch if isinstance(transform_batch, list | tuple) else [transform_batch]
        unknown = [name for name in wanted if name not in self.batch_names]
        if unknown or not wanted:
            msg = (
                f"`transform_batch` {unknown!r} is not a batch of the model: {self.batch_names!r}."
            )
            raise ValueError(msg)
        return [self.batch_names.index(name) for name in wanted]

    def _decoder_scale(self, units: Units, genes: np.ndarray) -> np.ndarray | None:
        """Batches × genes, or ``None`` for scaled units."""
        if units == "scaled":
            return None
        if units != "log_normalized":
            msg = f"`units` must be 'scaled' or 'log_normalized', got {units!r}."
            raise ValueError(msg)
        record = self.preprocessing
        columns = self._scale_columns()
        if record is None or not set(columns) <= set(record.scale.columns):
            msg = (
                "The model does not know how its input was scaled, so that it cannot return "
                "log-normalised units. Prepare counts with `scalex_scvi.pp.rna`."
            )
            raise ValueError(msg)
        return record.scale[columns].to_numpy().T[:, genes]

    def _scale_columns(self) -> list[str]:
        if self.registry_[_SETUP_ARGS_KEY]["batch_key"] is None:
            return ["0"]
        return [str(name) for name in self.batch_names]

    def _decode(self, latent: np.ndarray, batch: np.ndarray) -> np.ndarray:
        z = torch.from_numpy(latent).to(self.device)
        codes = torch.from_numpy(np.asarray(batch, dtype=np.int64)).to(self.device)
        return torch.sigmoid(self.module.decoder(z, codes)).cpu().numpy()
