"""Expression decoded from the latent."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS

from scalex_scvi._core.chosen import chosen_cells
from scalex_scvi._core.columns import text_of
from scalex_scvi._core.files import check_store_path
from scalex_scvi._core.gene_names import names_in
from scalex_scvi._core.keys import UNMEASURED_KEY
from scalex_scvi._core.measured import mark_measured
from scalex_scvi._core.modalities import Cells
from scalex_scvi._core.ranges import check_whole
from scalex_scvi._core.scvi_private import SETUP_ARGS_KEY

from ._imputation_store import write_store

Units = Literal["scaled", "log_normalized"]

ToUnits: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From values in [0, 1], cells × genes, and the batch that each cell was decoded in."""

_CHUNK = 4096

logger = logging.getLogger(__name__)


if TYPE_CHECKING:
    from scvi.model.base import BaseModelClass as _Base
else:
    _Base = object


class ImputationMixin(_Base):
    """Adds :meth:`get_imputed_expression` and :meth:`impute` to a model."""

    def get_imputed_expression(
        self,
        adata: Cells | None = None,
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
            Cells to use, numbers or a mask; default: all.
        transform_batch
            Batch whose decoder is used for all cells. ``None``: each cell's own, or, for new
            batches of a query whose decoder is not trained, the mean over the batches of the
            reference (with a warning); a list: the mean over these batches.
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
        Cells × genes, float32. Genes that the cells lack are expected from the others; their names
        are in the data frame's ``attrs["scalex_unmeasured"]``.

        Raises
        ------
        ValueError
            For an unknown batch, gene or unit, for no cells, if the record has no scale of the
            batch, or if ``transform_batch`` is one of a query's whose decoder was never trained.
        IndexError
            If ``indices`` is neither numbers of cells nor a mask of all.
        RuntimeError
            If the model is not trained.
        """
        if batch_size is not None:
            check_whole(batch_size, 1, name="batch_size")
        adata = self._validate_anndata(adata)
        cells = chosen_cells(indices, adata.n_obs)
        genes = self._gene_indices(gene_list)
        chunks = self._decoded_chunks(
            adata,
            cells,
            genes,
            transform_batch=transform_batch,
            units=units,
            batch_size=batch_size,
        )
        expression = np.empty((len(cells), len(genes)), dtype=np.float32)
        for rows, decoded in chunks:
            expression[rows] = decoded
        if return_numpy:
            return expression
        return self._table(expression, adata, cells, genes)

    def _table(
        self, expression: np.ndarray, adata: Cells, cells: np.ndarray, genes: np.ndarray
    ) -> pd.DataFrame:
        """Return expression with its names, and those of the genes that were not measured."""
        names = np.asarray(self.get_var_names())[genes]
        table = pd.DataFrame(expression, index=adata.obs_names[cells], columns=names)
        measured = self.get_anndata_manager(adata, required=True).measured[genes]
        if not measured.all():
            table.attrs[UNMEASURED_KEY] = [str(name) for name in names[~measured]]
        return table

    def impute(
        self,
        adata: Cells | None = None,
        *,
        layer: str = "impute",
        path: str | os.PathLike[str] | None = None,
        transform_batch: Any | Sequence[Any] | None = None,
        gene_list: Sequence[str] | None = None,
        units: Units = "scaled",
        threshold: float | None = None,
        chunk_size: int = _CHUNK,
    ) -> None:
        """Decode the latent of all cells, chunk by chunk, into a layer or into a file.

        Values as :meth:`get_imputed_expression` returns them. A layer without ``threshold`` is
        dense: cells × genes × 4 bytes. With ``threshold`` it is CSR, and with ``path`` nothing but
        the latent and a few dense chunks is ever in memory.

        Parameters
        ----------
        adata
            Cells with the model's genes; default: the model's own. With ``path`` it is not
            changed.
        layer
            Layer of ``adata`` to write (of a MuData, of the model's modality); one of this name is
            overwritten, as scanpy does. Columns are in the order of ``adata.var_names``, all of
            which must be genes of the model; other cells or models need ``path``.
        path
            Write ``.h5ad`` or ``.zarr`` here instead, whole or not at all: ``X`` is the imputed
            expression, cells × genes of the model, ``obs`` is that of ``adata``, and ``var`` has
            the rows of ``adata.var`` for these genes (missing values for a gene that ``adata``
            lacks, and False in a column ``"scalex_measured"``). An earlier file is replaced. Read
            it with :func:`anndata.read_h5ad` (``backed="r"`` for large data) or
            :func:`anndata.read_zarr`.
        transform_batch
            Batch whose decoder is used for all cells: see :meth:`get_imputed_expression`.
        gene_list
            Genes to write, in this order; default: all of the model. A layer has the genes of
            ``adata``, so this needs ``path``.
        units
            ``"scaled"``: in [0, 1]; ``"log_normalized"``: see :meth:`get_imputed_expression`.
        threshold
            Positive, in ``units``: smaller values become zero, and the result is sparse (CSR).
            ``None`` (default): dense, since the decoder returns no zeros.
        chunk_size
            Cells decoded at once. It does not change the result. Decoding takes about five dense
            chunks of cells × genes × 4 bytes.

        Raises
        ------
        ValueError
            For an unknown batch, gene or unit, if the record has no scale of the batch, if the
            layer is the model's input, if ``adata`` has genes that the model lacks and no ``path``
            is given, or if ``path`` has another suffix, is the file of a backed ``adata``, or is a
            folder that is not a zarr store.
        RuntimeError
            If the model is not trained.
        """
        check_whole(chunk_size, 1, name="chunk_size")
        if threshold is not None and not threshold > 0:
            msg = f"`threshold` must be positive, got {threshold!r}."
            raise ValueError(msg)
        adata = self._validate_anndata(adata)
        manager = self.get_anndata_manager(adata, required=True)
        owner = manager.owner
        if path is None:
            self._check_layer(layer, gene_list)
            genes = self._genes_of_layer(owner)
        else:
            path = check_store_path(path, owner)
            genes = self._gene_indices(gene_list)
        chunks = self._decoded_chunks(
            adata,
            np.arange(adata.n_obs),
            genes,
            transform_batch=transform_batch,
            units=units,
            batch_size=None,
            chunk_size=chunk_size,
        )
        blocks = (
            decoded if threshold is None else _sparse(decoded, threshold) for _, decoded in chunks
        )
        if path is not None:
            var = self._var_of_genes(owner.var, genes)
            mark_measured(var, manager.measured[genes])
            write_store(path, blocks, adata.obs, var)
            logger.info("Imputed expression of %d cells is in %s.", adata.n_obs, path)
            return
        if layer in owner.layers:
            logger.info("adata.layers[%r] is overwritten.", layer)
        owner.layers[layer] = _stacked(blocks, owner.shape)

    def _check_layer(self, layer: str, gene_list: Sequence[str] | None) -> None:
        if gene_list is not None:
            msg = (
                "A layer has all genes of `adata`: `gene_list` needs `path`. For a few genes in "
                "memory use `get_imputed_expression`."
            )
            raise ValueError(msg)
        if layer == self.registry_[SETUP_ARGS_KEY]["layer"]:
            msg = f"`layer` {layer!r} is the model's input. Choose another name."
            raise ValueError(msg)

    def _genes_of_layer(self, owner: AnnData) -> np.ndarray:
        """Return the model's number of each gene of an AnnData, in the order of its columns."""
        names = pd.Index(self.get_var_names())
        genes = names.get_indexer(names_in(owner.var, names)[0])
        others = np.flatnonzero(genes < 0)
        if len(others):
            msg = (
                f"A layer has all {owner.n_vars} genes of `adata`, and {len(others)} of them are "
                f"not among the {len(names)} of the model: {list(owner.var_names[others[:3]])!r}. "
                "Write a file of the model's genes by `path`, or take them into memory by "
                "`get_imputed_expression`."
            )
            raise ValueError(msg)
        return genes

    def _var_of_genes(self, var: pd.DataFrame, genes: np.ndarray) -> pd.DataFrame:
        """Return the rows of ``var`` for genes of the model; those that it lacks are missing."""
        names = pd.Index(self.get_var_names())
        own = var.set_axis(names_in(var, names)[0], axis=0)
        return own[~own.index.duplicated()].reindex(names[genes])

    def _decoded_chunks(
        self,
        adata: Cells,
        cells: np.ndarray,
        genes: np.ndarray,
        *,
        transform_batch: Any,
        units: Units,
        batch_size: int | None,
        chunk_size: int = _CHUNK,
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Encode all cells, then yield rows of the result with their expression.

        Arguments are checked at the call, not at the first chunk.
        """
        self._check_if_trained(warn=False)
        scale = self._decoder_scale(units, genes)
        batches = self._decoder_batches(transform_batch)
        latent = self.get_latent_representation(adata, cells, batch_size=batch_size or chunk_size)
        own = self.get_from_registry(adata, REGISTRY_KEYS.BATCH_KEY).reshape(-1)[cells]
        codes_of = self._decoding_codes(own, batches)

        def to_units(decoded: np.ndarray, codes: np.ndarray) -> np.ndarray:
            return decoded if scale is None else decoded * scale[codes]

        return self._in_chunks(latent, codes_of, genes, to_units, chunk_size)

    def _decoded(
        self,
        latent: np.ndarray,
        own: np.ndarray,
        genes: np.ndarray,
        batches: list[int | None],
        to_units: ToUnits,
        chunk_size: int,
    ) -> np.ndarray:
        """Decode all of ``latent``, some cells at a time."""
        codes_of = self._decoding_codes(own, batches)
        expression = np.empty((len(latent), len(genes)), dtype=np.float32)
        for rows, decoded in self._in_chunks(latent, codes_of, genes, to_units, chunk_size):
            expression[rows] = decoded
        return expression

    def _in_chunks(
        self,
        latent: np.ndarray,
        codes_of: list[np.ndarray],
        genes: np.ndarray,
        to_units: ToUnits,
        chunk_size: int,
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield rows of ``latent`` with their expression."""
        for start in range(0, len(latent), chunk_size):
            rows = slice(start, start + chunk_size)
            codes_of_rows = [codes[rows] for codes in codes_of]
            yield rows, self._mean_over_batches(latent[rows], codes_of_rows, genes, to_units)

    def _mean_over_batches(
        self,
        latent: np.ndarray,
        codes_of: list[np.ndarray],
        genes: np.ndarray,
        to_units: ToUnits,
    ) -> np.ndarray:
        """Decode by each set of batches of the cells, and average in the units wanted."""

        def decode(codes: np.ndarray) -> np.ndarray:
            return to_units(self._decode(latent, codes)[:, genes], codes)

        expression = decode(codes_of[0])
        for codes in codes_of[1:]:
            expression += decode(codes)
        expression /= len(codes_of)
        return expression

    def _decoding_codes(self, own: np.ndarray, batches: list[int | None]) -> list[np.ndarray]:
        """Return the batches that decode each cell: the mean over the list is what is wanted."""
        if batches != [None]:
            return [np.full_like(own, batch) for batch in batches]
        untrained = np.isin(own, self._untrained_codes)
        if not untrained.any():
            return [own]
        trained = np.setdiff1d(np.arange(len(self.batch_names)), self._untrained_codes)
        logger.warning(
            "The decoder of the batches %r is not trained: their %d cells are decoded by the mean "
            "over the batches of the reference. `train()` on the query's model fits their own.",
            self.untrained_batches_,
            untrained.sum(),
        )
        return [np.where(untrained, batch, own) for batch in trained]

    @property
    def _untrained_codes(self) -> list[int]:
        return [self.batch_names.index(name) for name in self.untrained_batches_]

    def _gene_indices(self, gene_list: Sequence[str] | None) -> np.ndarray:
        names = pd.Index(self.get_var_names())
        if gene_list is None:
            return np.arange(len(names))
        wanted = [gene_list] if isinstance(gene_list, str) else list(gene_list)
        found = names.get_indexer(wanted)
        if (found < 0).any():
            unknown = [g for g, i in zip(wanted, found, strict=True) if i < 0]
            msg = f"{len(unknown)} of `gene_list` are not genes of the model: {unknown[:5]!r}."
            raise ValueError(msg)
        return found

    def _decoder_batches(self, given: Any, argument: str = "transform_batch") -> list[int | None]:
        """Return the numbers of the batches that are named; ``None``: each cell's own."""
        if given is None:
            return [None]
        wanted = [
            text_of(name) for name in (given if pd.api.types.is_list_like(given) else [given])
        ]
        unknown = [name for name in wanted if name not in self.batch_names]
        if unknown or not wanted:
            msg = f"`{argument}` {unknown!r} is not a batch of the model: {self.batch_names!r}."
            raise ValueError(msg)
        untrained = [name for name in wanted if name in self.untrained_batches_]
        if untrained:
            msg = (
                f"`{argument}` {untrained!r}: the decoder of a query's batches decodes noise "
                "until it is trained. Call `train()` on the query's model first, or take a batch "
                "of the reference."
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
                "log-normalized units. Prepare counts with `scalex_scvi.pp.rna`."
            )
            raise ValueError(msg)
        return record.scale[columns].to_numpy().T[:, genes]

    def _scale_columns(self) -> list[str]:
        if self.registry_[SETUP_ARGS_KEY]["batch_key"] is None:
            return ["0"]
        return self.batch_names

    @torch.inference_mode()
    def _decode(self, latent: np.ndarray, batch: np.ndarray) -> np.ndarray:
        z = torch.from_numpy(latent).to(self.device)
        codes = torch.from_numpy(np.asarray(batch, dtype=np.int64)).to(self.device)
        return torch.sigmoid(self.module.decoder(z, codes)).cpu().numpy()


def _sparse(decoded: np.ndarray, threshold: float) -> sparse.csr_matrix:
    """Keep values of at least ``threshold``."""
    return sparse.csr_matrix(np.where(decoded >= threshold, decoded, np.float32(0)))


def _stacked(
    blocks: Iterator[np.ndarray | sparse.csr_matrix], shape: tuple[int, int]
) -> np.ndarray | sparse.csr_matrix:
    """All blocks in one matrix; dense ones are never held twice."""
    first = next(blocks)
    if sparse.issparse(first):
        return sparse.vstack([first, *blocks], format="csr")
    stacked = np.empty(shape, dtype=np.float32)
    stacked[: len(first)] = first
    end = len(first)
    for block in blocks:
        stacked[end : end + len(block)] = block
        end += len(block)
    return stacked
