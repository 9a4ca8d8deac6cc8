"""Positions of cells in the latent space."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS, settings
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, StudentT

from scalex_scvi._core.blocks import blocks_of
from scalex_scvi._core.chosen import chosen_cells
from scalex_scvi._core.keys import MEASURED_IN_QUERY_KEY, MEASURED_KEY
from scalex_scvi._core.matrices import in_memory
from scalex_scvi._core.measured import measured_genes
from scalex_scvi._core.modalities import Cells
from scalex_scvi._core.ranges import check_whole
from scalex_scvi._core.scvi_private import minify_type
from scalex_scvi._core.seeds import seeded

from ._inference import BatchStats, BlockEncoder, check_batch_stats, encode_cells
from ._missing_genes import MissingGenesMixin

logger = logging.getLogger(__name__)


class LatentMixin(MissingGenesMixin):
    """Replaces scvi-tools' :meth:`get_latent_representation`, which reads cell by cell."""

    untrained_batches_: list[str]

    @torch.inference_mode()
    def get_latent_representation(
        self,
        adata: Cells | None = None,
        indices: Sequence[int] | None = None,
        give_mean: bool = True,
        mc_samples: int = 5_000,
        batch_size: int | None = None,
        return_dist: bool = False,
        dataloader: Iterator[dict[str, Tensor | None]] | None = None,
        batch_stats: BatchStats = "running",
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Position of each cell in the latent space.

        Cells are read block by block, wherever their matrix is (memory, disk or dask), and go
        through the model's transform. Sparse products are used where few values are not zero.

        Parameters
        ----------
        adata
            Cells; default: the model's own. Other cells with counts are allowed: genes may be
            missing, additional or in another order, and batches may be new, since the encoder does
            not use them. How a new batch is scaled says ``new_batches`` of :meth:`setup_anndata`.
        indices
            Cells to use: numbers, which may repeat, or a mask; default: all.
        give_mean
            Whether to return the mean of the posterior, else one draw from it.
        mc_samples
            Not used: the posterior is normal.
        batch_size
            Cells encoded at once; default: 512 on the CPU, 16 384 elsewhere. The result depends on
            it by rounding only (1e-6).
        return_dist
            Whether to return mean and variance.
        dataloader
            Minibatches to use instead of ``adata``, for ``batch_stats="running"``: values in
            [0, 1]; of a model of a data module, counts, as the module gives them. Genes that the
            model's own cells lack are expected from the others here, too, with a warning, but of
            cells that have values of them. Of a model without cells, genes that are zero stay so.
        batch_stats
            Statistics of the encoder's batch normalization. ``"running"`` (default): those of the
            training, so that, given the scale of its batch, the latent of a cell depends on that
            cell alone. ``"batch"``: exact mean and variance over all cells of each batch in this
            call (two passes). This mixes strongly different technologies more, but is less
            accurate where batches differ in composition, and wrong for a query of one cell type.
            Batches of fewer than 32 cells use running statistics, with a warning.

        Returns
        -------
        ``(n_cells, n_latent)``, float32; with ``return_dist`` mean and variance of that shape.

        Raises
        ------
        KeyError, TypeError, ValueError
            For cells that cannot be registered like the model's (see :meth:`load_query_data`), for
            no cells, and for values of ``batch_size`` or ``batch_stats`` that are not allowed.
        IndexError
            If ``indices`` is neither numbers of cells nor a mask of all.
        RuntimeError
            If the model is not trained.
        """
        check_batch_stats(batch_stats)
        if batch_size is not None:
            check_whole(batch_size, 1, name="batch_size")
        of_minified = self.minified_data_type is not None and (
            adata is None or minify_type(adata) is not None
        )
        encoded = dataloader is not None or of_minified
        if batch_stats == "batch" and encoded:
            msg = "`batch_stats='batch'` reads the expression twice: it needs `adata`, unminified."
            raise ValueError(msg)
        if encoded:
            with self._completed_loader(dataloader):
                return super().get_latent_representation(
                    adata=adata,
                    indices=indices,
                    give_mean=give_mean,
                    mc_samples=mc_samples,
                    batch_size=batch_size,
                    return_dist=return_dist,
                    dataloader=self._prepared(dataloader),
                )
        self._check_if_trained(warn=False)
        mean, var = self._encode(adata, indices, batch_size, batch_stats)
        if return_dist:
            return mean, var
        if give_mean:
            return mean
        return _draw(mean, var, batch_size or settings.batch_size, self.device)

    def get_latent_of_prepared(
        self, values: sparse.csr_matrix | np.ndarray, measured: np.ndarray | None = None
    ) -> np.ndarray:
        """Position of cells whose values are prepared already, by running statistics.

        For rows of :meth:`get_prepared` that are at hand: nothing is registered, checked or read
        again. May be called from several threads.

        Parameters
        ----------
        values
            Cells × the model's genes, CSR or dense, in [0, 1].
        measured
            Mask of the genes that the cells came with, ``get_prepared().var["scalex_measured"]``;
            the values of the others are zero. ``None``: all.

        Returns
        -------
        Mean of each cell's posterior, ``(n_cells, n_latent)``, float32.

        Raises
        ------
        TypeError
            If the values are not in memory.
        ValueError
            If there are no cells, there is another number of genes, or ``measured`` is no mask of
            them.
        RuntimeError
            If the model is not trained.
        """
        self._check_if_trained(warn=False)
        if not in_memory(values):
            msg = (
                f"`values` is a {type(values).__name__!r}; allowed are CSR and numpy arrays. A "
                "dask array is read by `values.compute()`, or block by block by "
                "`get_latent_representation()`."
            )
            raise TypeError(msg)
        n_genes = len(self.get_var_names())
        if values.ndim != 2 or values.shape[1] != n_genes or not values.shape[0]:
            msg = (
                f"`values` has the shape {values.shape!r}: it must have a row for each cell, at "
                f"least one, and {n_genes} columns, the model's genes, as `get_prepared().X` has."
            )
            raise ValueError(msg)
        if measured is not None:
            measured = _checked_mask(measured, n_genes)
        rows = values if isinstance(values, np.ndarray) else values.tocsr()
        encoder = BlockEncoder(self.module.encoder, completion=self._completion_of(measured))
        both = encoder.encode(rows, np.zeros(values.shape[0], dtype=np.int64))
        return np.split(both, 2, axis=1)[0]

    def _encode(
        self,
        adata: Cells | None,
        indices: Sequence[int] | None,
        batch_size: int | None,
        batch_stats: BatchStats,
    ) -> np.ndarray:
        """Mean and variance, ``(2, n_cells, n_latent)``, in the order of ``indices``."""
        manager = self.manager_of(adata)
        _warn_of_zeros(manager.owner.var)
        matrix = manager.get_from_registry(REGISTRY_KEYS.X_KEY)
        wanted = chosen_cells(indices, matrix.shape[0])
        order = np.argsort(wanted, kind="stable")
        encoder = BlockEncoder(
            self.module.encoder,
            manager.transform,
            batch_size,
            self._completion_of(manager.measured),
        )
        in_order = encode_cells(
            blocks_of(
                matrix,
                manager.codes,
                rows=wanted[order],
                # In memory, small pieces are as fast and take less of it.
                size=encoder.size if in_memory(matrix) else None,
            ),
            encoder,
            batch_stats=batch_stats,
            batch_names=self.batch_names_of(manager),
        )
        latent = np.empty_like(in_order)
        latent[:, order] = in_order
        return latent

    def get_aggregated_posterior(
        self,
        adata: Cells | None = None,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        dof: float | None = 3.0,
    ) -> MixtureSameFamily:
        """Mixture of the posteriors of cells, for :meth:`differential_abundance`.

        As in scvi-tools 1.5 (the scale of a component is the standard deviation; scvi-tools 1.4
        takes the variance).

        Parameters
        ----------
        adata
            Cells; default: the model's own.
        indices
            Cells to use: numbers, which may repeat, or a mask; default: all.
        batch_size
            Cells per minibatch.
        dof
            Degrees of freedom of Student's t; ``None``: normal components.

        Returns
        -------
        A distribution over the latent space, with a component for each cell, all of equal weight.

        Raises
        ------
        ValueError
            For no cells.
        IndexError
            If ``indices`` is neither numbers of cells nor a mask of all.
        """
        cells = chosen_cells(indices, len(self.manager_of(adata).codes))
        found = self.get_latent_representation(
            adata, cells, batch_size=batch_size, return_dist=True
        )
        mean, var = (torch.as_tensor(part, device=self.device) for part in found)
        scale = var.sqrt()
        each = Normal(mean, scale) if dof is None else StudentT(dof, mean, scale)
        weights = Categorical(logits=torch.ones(len(mean), device=self.device))
        return MixtureSameFamily(weights, Independent(each, 1))

    def _make_data_loader(
        self, adata: Cells, indices: Sequence[int] | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Check the cells that methods of scvi-tools are given."""
        cells = chosen_cells(indices, adata.n_obs)
        return super()._make_data_loader(adata, cells, *args, **kwargs)

    def get_elbo(self, *args: Any, **kwargs: Any) -> float | Tensor:
        """See :meth:`scvi.model.base.VAEMixin.get_elbo`; the noise is seeded, so it repeats.

        Returns
        -------
        Evidence lower bound in nats, mean over cells (``return_mean=False``: of each cell), with
        minus the binary cross-entropy in the place of a log-likelihood. Higher is better; it
        compares models of the same input alone.

        Raises
        ------
        ValueError
            For cells of a query's batches whose decoder was never trained, and for no cells.
        IndexError
            If ``indices`` is neither numbers of cells nor a mask of all.
        """
        self._check_own_decoders(*args, **kwargs)
        with seeded(None), self._completed_of_call(*args, **kwargs):
            return super().get_elbo(*args, **self._with_prepared(kwargs))

    def get_reconstruction_error(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """See :meth:`scvi.model.base.VAEMixin.get_reconstruction_error`; the noise is seeded.

        Returns
        -------
        ``{"reconstruction_loss": error}``: the binary cross-entropy of the values in [0, 1], summed
        over genes, mean over cells, in nats. Lower is better.

        Raises
        ------
        ValueError
            For cells of a query's batches whose decoder was never trained, and for no cells.
        IndexError
            If ``indices`` is neither numbers of cells nor a mask of all.
        """
        self._check_own_decoders(*args, **kwargs)
        with seeded(None), self._completed_of_call(*args, **kwargs):
            return super().get_reconstruction_error(*args, **self._with_prepared(kwargs))

    def _completed_of_call(
        self,
        adata: Cells | None = None,
        *args: Any,
        dataloader: Any = None,
        **kwargs: Any,
    ) -> AbstractContextManager[None]:
        """Complete minibatches of cells that a method of scvi-tools is called with."""
        if dataloader is not None or (adata is None and self.adata is None):
            return self._completed_loader(dataloader)
        return self._completed_minibatches(self._validate_anndata(adata))

    def _with_prepared(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        if "dataloader" not in kwargs:
            return kwargs
        return kwargs | {"dataloader": self._prepared(kwargs["dataloader"])}

    def _check_own_decoders(
        self,
        adata: Cells | None = None,
        indices: Sequence[int] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Raise if cells would be compared with what an untrained decoder makes of them."""
        if not self.untrained_batches_ or (adata is None and self.adata is None):
            return
        codes = self.manager_of(adata).codes
        names = np.asarray(self.batch_names, dtype=object)
        used = set(names[codes[chosen_cells(indices, len(codes))]])
        untrained = [name for name in self.untrained_batches_ if name in used]
        if untrained:
            msg = (
                f"The decoder of the batches {untrained!r} is not trained: how well it decodes "
                "their cells says nothing. Call `train()` on the query's model first, or give "
                "`indices` of cells of the other batches."
            )
            raise ValueError(msg)


def _warn_of_zeros(var: pd.DataFrame) -> None:
    """Say so if some of the cells alone lack genes, those of a query beside its reference."""
    in_query = measured_genes(var, MEASURED_IN_QUERY_KEY)
    if in_query is not None and not in_query.all():
        logger.warning(
            "The query's cells among these lack %d genes (var[%r]), which are taken for zero. Give "
            "the query's cells by themselves, with this column renamed to %r.",
            (~in_query).sum(),
            MEASURED_IN_QUERY_KEY,
            MEASURED_KEY,
        )


def _checked_mask(measured: Any, n_genes: int) -> np.ndarray:
    mask = np.asarray(measured)
    if mask.dtype != bool or mask.shape != (n_genes,):
        msg = (
            f"`measured` is an array of {mask.dtype} of the shape {mask.shape!r}: it must say True "
            f"or False of each of {n_genes} genes, as `get_prepared().var['{MEASURED_KEY}']` does."
        )
        raise ValueError(msg)
    return mask


def _draw(mean: np.ndarray, var: np.ndarray, minibatch: int, device: torch.device) -> np.ndarray:
    """One draw of the posterior for each cell, with torch's global generator.

    The numbers are those that scvi-tools' loader and the module would use: the loader takes a seed
    from the generator, then each minibatch its noise.
    """
    torch.empty((), dtype=torch.int64).random_()
    noise = [
        torch.normal(torch.zeros(len(rows), mean.shape[1], device=device), 1.0).cpu().numpy()
        for rows in torch.arange(len(mean)).split(minibatch)
    ]
    return mean + np.sqrt(var) * np.concatenate(noise)
